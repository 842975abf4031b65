"""Recordings of people: for each source, where its files are, how to decode them, and the texts that go with them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile

# Asterisk's prompts hold tones, silence and, famously, screaming monkeys.
NOT_SPEECH = re.compile(r"tone|beep|monkeys|silence|ring|dialtone|spy-|music", re.IGNORECASE)


def recordings(source: dict, root: Path) -> list[Path]:
    """Files of one person that may be long enough, in a fixed order.

    Parameters
    ----------
    source : dict
        `patterns` (globs below the root) and `chain`, as in `sources.yaml`.
    root : Path
        Tree that the Debian packages were unpacked to.
    """
    names = {path.relative_to(root).as_posix(): path for pattern in source["patterns"] for path in root.glob(pattern)}
    files = [names[name] for name in sorted(names) if not NOT_SPEECH.search(name.rpartition("/")[2])]
    if source["chain"] == "g722":
        files = [path for path in files if path.stat().st_size >= 1.5 * 8000]  # 64 kbit/s
    return files


def decode(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples (samples,) float32 and their rate in Hz. Asterisk's `.g722` are bare 64 kbit/s streams."""
    if path.suffix == ".g722":
        return ffmpeg_decode("g722", path.read_bytes()), 16000
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def ffmpeg_decode(codec: str, data: bytes) -> np.ndarray:
    """Bytes of a 16 kHz stream to float32 samples."""
    raw = ffmpeg(["-f", codec, "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "16000", "pipe:1"], data)
    return np.frombuffer(raw, "<i2").astype(np.float32) / 32768


def ffmpeg(arguments: list[str], data: bytes) -> bytes:
    """Runs the ffmpeg that imageio-ffmpeg carries, as a program of its own."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-threads", "1"]
    return subprocess.run([*command, *arguments], input=data, capture_output=True, check=True).stdout


def texts(language: str, root: Path, shortest: int = 25, longest: int = 95) -> list[str]:
    """Sentences in a language, from the games' dialogues and the stamps' descriptions, in a fixed order.

    These are what the human clips of fillets and tuxpaint say, so that synthetic speech has the same words.

    Parameters
    ----------
    language : str
        ISO 639-1 code.
    root : Path
        Tree that the Debian packages were unpacked to.
    shortest, longest : int
        Bounds on the length, in characters: about 1.5 to 7 seconds of speech.
    """
    found = []
    dialogues = root / "usr/share/games/fillets-ng/script"
    for path in sorted(dialogues.glob(f"*/dialogs_{language}.lua")):
        found += re.findall(r'dialogStr\("(.*)"\)', path.read_text("utf-8"))
    if language == "en":  # the originals stand in the dialogId lines of every translation
        for path in sorted(dialogues.glob("*/dialogs_nl.lua")):
            found += re.findall(r'dialogId\(.*, .*, "(.*)"\)', path.read_text("utf-8"))
    for path in sorted((root / "usr/share/tuxpaint/stamps").glob("**/*.txt")):
        found += _stamp_texts(path, language)
    unique = dict.fromkeys(_clean(text) for text in found)
    return [text for text in unique if shortest <= len(text) <= longest]


def _stamp_texts(path: Path, language: str) -> Iterator[str]:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if language == "en" and lines:
        yield lines[0]
    for line in lines:
        if line.startswith(f"{language}.utf8="):
            yield line.partition("=")[2]


def _clean(text: str) -> str:
    """Festival stops a whole batch at the first character it cannot map, so only plain punctuation stays.

    None begins with a dash, which synthesisers would take for an option.
    """
    text = re.sub(r"\(.*?\)|\\.|[\"“”„«»\[\]{}*_|<>]", " ", text)
    text = text.replace("…", ".").replace("—", ",").replace("–", ",").replace("’", "'")
    return re.sub(r"\s+", " ", re.sub(r"\.{2,}", ".", text)).strip().lstrip("- ")
