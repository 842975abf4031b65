"""Public corpora as their archives unpack, and the two readers of corpora.

One reader serves corpora with protocol files (layouts in `corpora.protocols`), the other those whose folder names give
label, split and attack. `FORMATS` lists the public corpora.
"""

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from aasist_lib import audio
from aasist_lib.base.errors import UserError
from aasist_lib.corpora import protocols

COLUMNS = [
    "utt_id", "path", "label", "speaker", "attack", "split", "condition", "language", "source", "codec", "pair_id"
]  # fmt: skip
WORDS = {"training": "train", "validation": "dev", "testing": "eval", "real": "bonafide", "fake": "spoof"}
INNER = {"wav", "wavs", "flac", "clips"}  # folder names that are no speakers


@dataclass(frozen=True)
class CorpusFormat:
    """Layout of a corpus once its archives are unpacked, in the data folder or in folders below it."""

    title: str
    rows: Callable[["CorpusFormat", "Request"], pd.DataFrame]  # the reader
    compare: str  # published results that a result on its eval may be compared with
    layout: str = ""  # of its protocol files, one of `protocols.LAYOUTS`
    # split -> end of the protocol's path, and folder of the recordings; the first part of the folder identifies it
    # wherever it lies, and may be a prefix (big archives come in parts)
    protocols: dict[str, tuple[str, str]] = field(default_factory=dict)
    # regular expressions over paths; the first that matches any file is used. Groups: id (for utt_id), split, label,
    # attack, language, and group (speaker of bona fide, attack of spoofs). Defaults: split eval, label spoof.
    patterns: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # top folders in which every recording should be taken
    unnamed: str = "unnamed"  # attack of spoofs without a name
    family: str = ""  # corpora of one family mean the same attack by the same name
    same: dict[str, str] = field(default_factory=dict)  # attack -> its name in train of the family
    # split (or subset) -> published numbers of bona fide and spoofed utterances, or their sum
    counts: dict[str, tuple[int, int] | int] = field(default_factory=dict)
    subsets: bool = False  # the keys divide eval into subsets
    fakes_only: bool = False  # no bona fide: the user names a folder of them


@dataclass(frozen=True)
class Request:
    """What to read: the folder, all files below it, and the arguments of `corpora.read`."""

    root: Path
    files: list[str]
    existing: frozenset[str]  # the same files
    linked: dict[str, str]  # path through a link -> real path
    splits: tuple[str, ...]
    bonafide: str
    subset: str


# Corpora with protocol files. Rows have `COLUMNS` or part of them; `protocol` and `line` say where a row stands.


def listed(entry: CorpusFormat, request: Request) -> pd.DataFrame:
    """Read a corpus with protocol files."""
    tables = []
    for split in [split for split in entry.protocols if split in request.splits]:
        name, folder = entry.protocols[split]
        protocol = _find_protocol(name, entry, request)
        table = protocols.read(request.root / protocol, entry.layout)
        if entry.subsets and request.subset != "all":
            table = table[table["subset"] == request.subset]
            if table.empty:
                raise UserError(f"{request.root / protocol}: no row of the subset {request.subset}; see corpus.subset")
        if "file" in table:  # beside the protocol
            table["path"] = posixpath.dirname(protocol) + "/" * ("/" in protocol) + table["file"]
            table.loc[table["label"] == "spoof", "attack"] = entry.unnamed
        else:
            table["path"] = _find_recordings(table["utt_id"].tolist(), folder, request)
        columns = [name for name in (*COLUMNS, "line") if name in table and name not in ("source", "language")]
        tables.append(table[columns].assign(split=split, source=entry.title, protocol=protocol))
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS, dtype=str)


def _find_protocol(name: str, entry: CorpusFormat, request: Request) -> str:
    """Find the file whose path ends with `name`, nearest to the root; or one of that base name in the root."""
    found = [path for path in request.files if path.endswith(name) and f"/{path}".endswith(f"/{name}")]
    found = found or [path for path in [posixpath.basename(name)] if path in request.existing]
    if not found:
        raise UserError(f"{request.root}: {name} is not in it, nor in a folder below; unpack {entry.title} there")
    depth = min(path.count("/") for path in found)
    nearest = sorted(path for path in found if path.count("/") == depth)
    if len({request.linked.get(path, path) for path in nearest}) > 1:
        raise UserError(f"{request.root}: holds {nearest[0]} and {nearest[1]}: leave one of them")
    return nearest[0]


def _find_recordings(utt_ids: list[str], folder: str, request: Request) -> list[str]:
    """Return the path of each utterance in that folder; for a missing one, the path it should have."""
    part = folder.partition("/")[0]
    near = (path for path in request.files if path.startswith(part) or f"/{part}" in path)
    near = (path for path in near if _is_recording(path))
    first = next(near, f"{folder}/x.flac")
    usual, suffix = posixpath.dirname(first), posixpath.splitext(first)[1]
    paths = [f"{usual}/{utt_id}{suffix}" for utt_id in utt_ids]
    if not request.existing.issuperset(paths):  # several folders, several file types, or missing files
        found = {
            path[path.rfind("/") + 1 : path.rfind(".")]: path for path in [first, *near] if path in request.existing
        }
        paths = [found.get(utt_id, path) for utt_id, path in zip(utt_ids, paths, strict=True)]
    return paths


def _is_recording(path: str) -> bool:
    return path[path.rfind(".") :].lower() in audio.ENDINGS


# Corpora whose folder names give label, split and attack.


def in_folders(entry: CorpusFormat, request: Request) -> pd.DataFrame:
    """Read a corpus whose folder names give label, split and attack."""
    files = [path for path in sorted(request.files) if _is_recording(path)]
    real = _bona_fide(entry, request, files) if entry.fakes_only else []
    taken = {row["path"] for row in real}
    rows = []
    for pattern in map(re.compile, entry.patterns):
        matches = ((path, pattern.search(path)) for path in files if path not in taken)
        rows = rows or [_row(path, match.groupdict(), entry) for path, match in matches if match]
    if entry.fakes_only and not rows:
        raise UserError(f"{request.root}: holds no fakes of {entry.title} as it is unpacked; see README, Your own data")
    _warn_of_files_left(entry, request, taken | {row["path"] for row in rows})
    if request.linked:  # a corpus and a link to it count once
        once = {(row["utt_id"], request.linked.get(row["path"], row["path"])): row for row in reversed(rows)}
        rows = list(reversed(once.values()))
    originals = {PurePosixPath(row["path"]).stem: row["utt_id"] for row in real}
    for row in rows if real else ():
        name, mark, rest = PurePosixPath(row["path"]).stem.rpartition("_gen")
        if mark and not rest:  # WaveFake's LJ001-0001_gen.wav is a copy of LJ001-0001.wav
            row["pair_id"] = originals.get(name, "")
    return pd.DataFrame(real + rows, columns=COLUMNS, dtype=str).fillna("")


def _warn_of_files_left(entry: CorpusFormat, request: Request, taken: set[str]) -> None:
    """Warn of files that lie where recordings are expected, but are not taken."""
    patterns = [re.compile(pattern) for pattern in entry.patterns]
    if entry.fakes_only:
        patterns.append(re.compile(f"^{re.escape(_folder(request))}/"))
    left = sorted(request.existing - taken)
    others = [p for p in left if not _is_recording(p) and any(pattern.search(p) for pattern in patterns)]
    if others:
        endings = Counter(posixpath.splitext(path)[1] or "none" for path in others)
        counted = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(5))
        warnings.warn(
            f"files not taken: {len(others)}, as their names do not end like a recording's ({counted}): "
            f"{preview(others)}",
            stacklevel=5,
        )
    outside = [path for path in left if _is_recording(path) and path.partition("/")[0] in entry.own]
    if outside:
        warnings.warn(
            f"recordings not taken: {len(outside)}, as they lie outside the folders that docs/data.md names: "
            f"{preview(outside)}",
            stacklevel=5,
        )


def _row(path: str, groups: dict, entry: CorpusFormat) -> dict:
    split, label, group = groups.get("split") or "eval", groups.get("label") or "spoof", groups.get("group") or ""
    row = {
        "utt_id": _id(groups.get("id") or path), "path": path, "language": groups.get("language") or "",
        "split": WORDS.get(split, split), "label": WORDS.get(label, label),
    }  # fmt: skip
    if row["label"] == "bonafide":
        return row | {"speaker": group}
    return row | {"attack": groups.get("attack") or group or entry.unnamed.format(split=split)}


def _bona_fide(entry: CorpusFormat, request: Request, files: list[str]) -> list[dict]:
    """Rows of the bona fide folder that the user has named, all in eval."""
    folder = _folder(request)
    if not folder:
        raise UserError(
            f"{entry.title} holds fakes alone: put bona fide recordings below {request.root} and name their folder in "
            "corpus.bonafide"
        )
    rows = []
    for path in files:
        if path.startswith(f"{folder}/"):
            speaker, language = _speaker(path.removeprefix(f"{folder}/"), posixpath.basename(folder))
            rows.append({
                "utt_id": _id(path), "path": path, "label": "bonafide", "split": "eval", "speaker": speaker,
                "language": language,
            })  # fmt: skip
    if not rows:
        raise UserError(
            f"corpus.bonafide: '{request.bonafide}' is no folder below {request.root} that holds recordings"
        )
    return rows


def _folder(request: Request) -> str:
    """Normalise the bona fide folder: ./real/ becomes real."""
    folder = request.bonafide.strip("/")
    return folder and posixpath.normpath(folder)


def _speaker(path: str, folder: str) -> tuple[str, str]:
    """Guess speaker and language of a bona fide recording from its folders; `path` is relative to `folder`."""
    above = [part for part in path.split("/")[:-1] if part.lower() not in INNER]
    if "by_book" in above[:-2]:  # M-AILABS: en_US/by_book/female/judy_bieber/emma
        place = above.index("by_book")
        return above[place + 2], above[place - 1] if place else folder
    return above[0] if above else folder, ""


def _id(path: str) -> str:
    return path.rpartition(".")[0].replace("/", "-")


def preview(names: list[str]) -> str:
    """Join the first five names and count the others.

    >>> preview(list("abcdefgh"))
    'a, b, c, d, e and 3 more'
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def compare_counts(table: pd.DataFrame, entry: CorpusFormat, request: Request) -> None:
    """Warn of splits whose size is not the published one."""
    for split in request.splits:
        published = entry.counts.get(request.subset if entry.subsets else split)
        labels = table.loc[table["split"] == split, "label"]
        present = ((labels == "bonafide").sum(), (labels == "spoof").sum())
        if published and sum(present) and (present if isinstance(published, tuple) else sum(present)) != published:
            subset = f", subset {request.subset}" if entry.subsets and request.subset != "all" else ""
            warnings.warn(
                f"{entry.title}, {split}{subset}: holds {_counted(present)}; published are {_counted(published)}",
                stacklevel=4,
            )


def _counted(count: tuple[int, int] | int) -> str:
    if isinstance(count, int):
        return f"{count:,} utterances"
    return f"{count[0]:,} bona fide and {count[1]:,} spoofed utterances"


# Published results to compare with: README, Your own data.
SAME_IN_2019 = {"A16": "A04", "A19": "A06"}  # the same attacks under another name in eval, as the organisers say


def _fake_or_real(variant: str, inner: str = "") -> CorpusFormat:
    """A variant of Fake-or-Real; `inner` ends the folder's name within the archive where it differs."""
    below = r"(?P<id>(?P<split>training|validation|testing)/(?P<label>fake|real)/.+)$"
    return CorpusFormat(
        f"FoR (for-{variant})",
        in_folders,
        "figures for the same variant, testing folder; the four variants are not alike",
        patterns=(rf"(?:^|/)for-(?:{variant}|{inner or variant})(?:/[^/]+)?/{below}", f"^{below}"),
        unnamed="unnamed ({split})",  # testing has other attacks than training
    )


FORMATS: dict[str, CorpusFormat] = {
    "asvspoof2019_la": CorpusFormat(
        "ASVspoof 2019 LA",
        listed,
        "EER and min t-DCF on eval of ASVspoof 2019 LA, of systems that were trained on its train alone",
        layout="asvspoof2019",
        protocols={
            split: (f"ASVspoof2019.LA.cm.{split}.{kind}.txt", f"ASVspoof2019_LA_{split}/flac")
            for split, kind in {"train": "trn", "dev": "trl", "eval": "trl"}.items()
        },
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"train": (2_580, 22_800), "dev": (2_548, 22_296), "eval": (7_355, 63_882)},
    ),
    "asvspoof2021_la": CorpusFormat(
        "ASVspoof 2021 LA",
        listed,
        "figures for the subset eval (148,176 trials), not with those for all 181,566",
        layout="asvspoof2021_la",
        protocols={"eval": ("LA/CM/trial_metadata.txt", "ASVspoof2021_LA_eval/flac")},
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"eval": 148_176, "all": 181_566},
        subsets=True,
    ),
    "asvspoof2021_df": CorpusFormat(
        "ASVspoof 2021 DF",
        listed,
        "figures for the subset eval (533,928 trials), not with those for all 611,829",
        layout="asvspoof2021_df",
        protocols={"eval": ("DF/CM/trial_metadata.txt", "ASVspoof2021_DF_eval/flac")},
        family="ASVspoof 2019",
        same=SAME_IN_2019,
        counts={"eval": (14_869, 519_059), "all": 611_829},
        subsets=True,
    ),
    "asvspoof5": CorpusFormat(
        "ASVspoof 5",
        listed,
        "minDCF, actDCF and EER of track 1 on eval (680,774 trials), of systems that were trained on its train alone",
        layout="asvspoof5",
        protocols={
            "train": ("ASVspoof5.train.tsv", "flac_T"),
            "dev": ("ASVspoof5.dev.track_1.tsv", "flac_D"),
            "eval": ("ASVspoof5.eval.track_1.tsv", "flac_E_eval"),
        },
        family="ASVspoof 5",
        counts={"eval": 680_774},
    ),
    "in_the_wild": CorpusFormat(
        "In-the-Wild",
        listed,
        "EER on In-the-Wild of systems that were trained on the same corpus as this one",
        layout="in_the_wild",
        protocols={"eval": ("release_in_the_wild/meta.csv", "")},
        counts={"eval": (19_963, 11_816)},
    ),
    "for_original": _fake_or_real("original"),
    "for_norm": _fake_or_real("norm"),
    "for_2sec": _fake_or_real("2sec", "2seconds"),
    "for_rerec": _fake_or_real("rerec", "rerecorded"),
    "wavefake": CorpusFormat(
        "WaveFake",
        in_folders,
        "figures with the same bona fide recordings beside the fakes: the corpus has none of its own",
        patterns=(
            r"(?:^|/)generated_audio/(?P<id>(?P<attack>[^/]+)/.+)$",
            r"^(?P<id>(?P<attack>(?:ljspeech|jsut|common_voices)_[^/]+)/.+)$",
        ),
        fakes_only=True,
    ),
    "mlaad": CorpusFormat(
        "MLAAD",
        in_folders,
        "figures for the same version, with the same bona fide recordings beside the fakes: it has none of its own",
        patterns=(r"(?:^|/)fake/(?P<id>(?P<language>[^/]+)/(?P<attack>[^/]+)/.+)$",),
        fakes_only=True,
    ),
}
