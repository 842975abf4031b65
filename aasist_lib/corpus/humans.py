"""Bona fide recordings: where each source keeps its files, how to decode them, and the texts they belong to."""

import contextlib
import re
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from G722 import G722

from aasist_lib.base.errors import UserError

# Asterisk's prompts include tones, silence and screaming monkeys.
NOT_SPEECH = re.compile(r"tone|beep|monkeys|silence|ring|dialtone|spy-|music", re.IGNORECASE)


def recordings(source: dict, root: Path) -> list[Path]:
    """Files of one person that may be long enough, sorted; globs in `patterns`, those with `!` exclude files."""
    if "archive" in source:
        unpack_queen(root / source["archive"], root / "queen")
    wanted = [pattern for pattern in source["patterns"] if not pattern.startswith("!")]
    others = [pattern[1:] for pattern in source["patterns"] if pattern.startswith("!")]
    names = {path.relative_to(root).as_posix(): path for pattern in wanted for path in root.glob(pattern)}
    files = [
        names[name]
        for name in sorted(names)
        if not NOT_SPEECH.search(names[name].name) and not any(names[name].match(other) for other in others)
    ]
    if source["chain"] == "g722":
        files = [path for path in files if path.stat().st_size >= 1.5 * 8000]  # 64 kbit/s
    return files


def unpack_queen(archive: Path, folder: Path) -> None:
    """Extract the spoken lines (MP3) of `queen.1c`, the data file of the game Flight of the Amazon Queen."""
    if folder.is_dir():
        return
    data = archive.read_bytes()
    if not data.startswith(b"QTBL"):
        raise UserError(f"corpus: {archive.name} does not begin with QTBL: is it another version of the game?")
    # Table: 13 bytes of version, number of entries (2 bytes, big-endian); per entry name (12 bytes), 1 unused byte,
    # offset and size (4 bytes each). Spoken lines are `*.SB`; the seventh letter of the name identifies the speaker.
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        for number in range(int.from_bytes(data[13:15], "big")):
            name, _, offset, size = struct.unpack_from(">12sBII", data, 15 + 21 * number)
            name = name.partition(b"\0")[0].decode("ascii")
            if re.fullmatch(r"\w{8}\.SB", name):
                Path(room, name).with_suffix(".mp3").write_bytes(data[offset : offset + size])
        with contextlib.suppress(OSError):  # another process was quicker
            Path(room).rename(folder)


def decode(path: Path) -> tuple[np.ndarray, int]:
    """Decode a recording to float32 samples (mean of the channels) and rate in Hz; `.g722` is bare 64 kbit/s G.722."""
    if path.suffix == ".g722":
        return decode_g722(path.read_bytes()), 16000
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def decode_g722(data: bytes) -> np.ndarray:
    """Decode a 64 kbit/s stream of ITU-T G.722 to (2 * len(data),) float32 samples at 16 kHz."""
    return np.asarray(G722(16000, 64000).decode(data), np.float32) / 32768


def texts(language: str, root: Path, shortest: int = 25, longest: int = 95) -> list[str]:
    """List sentences in a language (ISO 639-1) of `shortest` to `longest` characters: about 1.5 to 7 s of speech."""
    # the bona fide clips of fillets and tuxpaint say these texts, so that spoofs have the same words
    found = []
    dialogues = root / "usr/share/games/fillets-ng/script"
    for path in sorted(dialogues.glob(f"*/dialogs_{language}.lua")):
        found += re.findall(r'dialogStr\("(.*)"\)', path.read_text("utf-8"))
    if language == "en":  # every translation has the English original in its dialogId lines
        for path in sorted(dialogues.glob("*/dialogs_nl.lua")):
            found += re.findall(r'dialogId\(.*, .*, "(.*)"\)', path.read_text("utf-8"))
    for path in sorted((root / "usr/share/tuxpaint/stamps").glob("**/*.txt")):
        found += _stamp_texts(path, language)
    unique = dict.fromkeys(sentence for text in found for sentence in _sentences(text))
    return [text for text in unique if shortest <= len(text) <= longest]


def _stamp_texts(path: Path, language: str) -> Iterator[str]:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if language == "en" and lines:
        yield lines[0]
    for line in lines:
        if line.startswith(f"{language}.utf8="):
            yield line.partition("=")[2]


def _sentences(text: str) -> list[str]:
    """Split a text into sentences with plain punctuation."""
    # No commas: synthesisers pause there longer and more often than people in the games. Festival may stop at a
    # character that it cannot map or at a lone full stop. A leading dash would be read as an option.
    text = re.sub(r"\(.*?\)|\\.|[\"“”„«»\[\]{}*_|<>,—–]", " ", text).replace("…", ". ").replace("’", "'")
    return [re.sub(r"\s+", " ", part).strip(" -") for part in re.split(r"(?<=[.!?])[.!?\s]+|[;:]\s", text)]
