"""Recordings of people: for each source, where its files are, how to decode them, and the texts that go with them."""

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

# Asterisk's prompts hold tones, silence and, famously, screaming monkeys.
NOT_SPEECH = re.compile(r"tone|beep|monkeys|silence|ring|dialtone|spy-|music", re.IGNORECASE)


def recordings(source: dict, root: Path) -> list[Path]:
    """Files of one person that may be long enough, in a fixed order.

    Parameters
    ----------
    source : dict
        `patterns` (globs below the root; `!` before those of others) and `chain`, as in `sources.yaml`; `archive`, if
        they lie in one.
    root : Path
        Where the packages were unpacked to.
    """
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
    """The spoken lines (MP3) of `queen.1c`, the one file of the game Flight of the Amazon Queen.

    It begins with a table: 13 bytes of version, the number of entries (2 bytes, big-endian), and for each entry a name
    (12 bytes), a byte of no concern here, offset and size (4 bytes each). Lines are called `*.SB`; the seventh letter
    of the name says who speaks.

    Parameters
    ----------
    archive : Path
        `queen.1c`.
    folder : Path
        Made, with one MP3 a line, unless it is there.

    Raises
    ------
    UserError
        The file does not begin as that table does.
    """
    if folder.is_dir():
        return
    data = archive.read_bytes()
    if not data.startswith(b"QTBL"):
        raise UserError(f"corpus: {archive.name} does not begin with QTBL: is it another version of the game?")
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        for number in range(int.from_bytes(data[13:15], "big")):
            name, _, offset, size = struct.unpack_from(">12sBII", data, 15 + 21 * number)
            name = name.partition(b"\0")[0].decode("ascii")
            if re.fullmatch(r"\w{8}\.SB", name):
                Path(room, name).with_suffix(".mp3").write_bytes(data[offset : offset + size])
        with contextlib.suppress(OSError):  # another process was quicker
            Path(room).rename(folder)


def decode(path: Path) -> tuple[np.ndarray, int]:
    """A recording as samples. Asterisk's `.g722` are bare 64 kbit/s streams.

    Parameters
    ----------
    path : Path
        `.g722`, or whatever libsndfile reads.

    Returns
    -------
    samples : ndarray, shape (samples,), float32
        The mean of the channels.
    rate : int
        Hz.

    Raises
    ------
    soundfile.LibsndfileError
        There is no sound in the file.
    """
    if path.suffix == ".g722":
        return decode_g722(path.read_bytes()), 16000
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def decode_g722(data: bytes) -> np.ndarray:
    """Decodes a 64 kbit/s stream of ITU-T G.722.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    ndarray, shape (2 * len(data),), float32
        At 16 kHz.
    """
    return np.asarray(G722(16000, 64000).decode(data), np.float32) / 32768


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
    """Its sentences without commas, which synthesisers would pause at longer and more often than people do in games.

    Festival may stop at a character it cannot map, or at a stop that stands alone, so only plain punctuation stays.
    None begins with a dash, which synthesisers would take for an option.
    """
    text = re.sub(r"\(.*?\)|\\.|[\"“”„«»\[\]{}*_|<>,—–]", " ", text).replace("…", ". ").replace("’", "'")
    return [re.sub(r"\s+", " ", part).strip(" -") for part in re.split(r"(?<=[.!?])[.!?\s]+|[;:]\s", text)]
