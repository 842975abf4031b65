"""Selection of a training recipe by cross-validation that leaves attacks and sources out.

Each fold leaves out some attacks of train and some sources of bona fide with all copies of them. Candidates train on
the rest, choose their epoch on dev without these attacks, and score left-out spoofs against bona fide of left-out
sources and of dev. Every attack and source is left out once. Eval is never read.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import evaluation, metrics, training
from aasist_lib.base.errors import UserError
from aasist_lib.corpora.copies import excess_copies
from aasist_lib.corpora.folds import Item, in_proportion, items, left_out
from aasist_lib.store import Store, scoring
from aasist_lib.studies import plans, runner
from aasist_lib.studies.systems import System

CANDIDATES = Path("experiments/selection.yaml")
RUNS = Path("build/selection")
MANY = 1000  # no limit on attacks and sources
TRIALS = 100  # scored of each left-out attack and source, at most
DEV_TRIALS = 400  # bona fide and spoof of dev each, to choose the epoch on and to score
ASKED = 1  # version of `measured`: a change invalidates earlier results


@dataclass(frozen=True)
class Job(runner.Job):
    """One candidate trained for one fold, with `draws` utterances per epoch."""

    fold: int
    folds: int
    draws: int | None = None

    @property
    def name(self) -> str:
        return f"{super().name}-{self.fold}"

    @property
    def words(self) -> str:
        return f"{self.system.name}, fold {self.fold}"


def command(root: Path, workers: int = 2, path: Path | None = None) -> Path:
    """Train what is missing; write `metrics/selection.json` and `.csv`, and return the csv path.

    Valid results in the json file are not made again, whichever machine they are from. `path` replaces
    `experiments/selection.yaml`, and results are named after it.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, or a training fails.
    """
    path = path or root / CANDIDATES
    content, systems = plans.read(path, root / "params.yaml")
    store = plans.waveforms(root, workers, systems)
    board = root / f"metrics/{path.stem}.json"
    about = {"about": {system.name: system.about for system in systems}, "data": plans.data(root)}

    def save(results: list[dict]) -> None:
        if not results:
            return
        evaluation.save_json(board, about | {"sentence": sentence(results), "results": results})
        evaluation.save_csv(board.with_suffix(".csv"), table(results, against=systems[0].name))

    run(
        systems, store, root / RUNS, folds=content.folds, draws=content.draws, kept=runner.kept(board), save=save,
        workers=workers,
    )  # fmt: skip
    return board.with_suffix(".csv")


def folds(table: pd.DataFrame, count: int) -> list[list[Item]]:
    """Attacks and sources that each of `count` folds leaves out, dealt out in turn from the largest to the smallest."""
    found = items(table, MANY, MANY)
    dealt: list[list[Item]] = [[] for _ in range(count)]
    for kind in ("attack", "source"):
        for place, item in enumerate(item for item in found if item.kind == kind):
            lap, step = divmod(place, count)
            dealt[step if lap % 2 == 0 else count - 1 - step].append(item)
    return dealt


def read(path: Path) -> dict:
    """Output of `make select`: about (candidate -> description), results and data (corpus hash), or `UserError`."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
        return {name: found[name] for name in ("about", "results", "data")}
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path.parent.name}/{path.name} is missing or broken: `make select` writes it") from None


def run(
    systems: Sequence[System], store: Path, folder: Path, *, folds: int = 3, draws: int | None = None,
    kept: Iterable[dict] = (), save: Callable[[list[dict]], None] = lambda results: None, workers: int = 1,
) -> list[dict]:  # fmt: skip
    """Results of every candidate and fold, with `draws` utterances per epoch; see `measured` and `runner.run`."""
    runner.check_waveforms(store, "candidates")
    folder.mkdir(parents=True, exist_ok=True)
    corpus = runner.of_store(store)
    jobs = [
        Job(system, seed, store, folder, _key(system, seed, fold, folds, draws, corpus), fold, folds, draws)
        for system in systems
        for seed in system.seeds
        for fold in range(folds)
    ]
    return runner.run(jobs, measured, doing="selection", kept=kept, save=save, workers=workers)


def measured(job: Job) -> dict:
    """Train for one fold and score what it left out.

    EER on dev of learnt attacks (known); EER of left-out attacks against bona fide of left-out sources and of dev
    (left_out); EER of copies of left-out recordings against these (pairs); false positive rate of left-out sources at
    the threshold of known (sources).
    """
    system, settings = job.system, job.system.settings
    store = Store(job.store, settings["features"])
    table = store.table
    left = folds(table, job.folds)[job.fold]
    attacks = {name for item in left if item.kind == "attack" for name in item.names}
    sources = {name for item in left if item.kind == "source" for name in item.names}
    out = left_out(table, left)
    spoof, dev = table["label"] == "spoof", table["split"] == "dev"
    chosen = pd.concat([
        in_proportion(table[dev & ~spoof], "speaker", DEV_TRIALS, 1),
        in_proportion(table[dev & spoof & ~table["attack"].isin(attacks)], "attack", DEV_TRIALS, 1),
    ])  # fmt: skip
    out |= (dev & ~table.index.isin(chosen.index)).to_numpy()
    out |= excess_copies(table, settings["extract"]["copies"])
    network = job.folder / f"{job.name}-network"
    start = time.monotonic()
    parts = {name: settings[name] for name in ("model", "train", "augment")}
    training.fit(
        store, network, seed=job.seed, threads=1, checkpoints=network.with_suffix(".checkpoints"), leave_out=out,
        draws=job.draws, **parts,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    there = (table["split"] == "train") & out & ~excess_copies(table, 0)
    groups = [
        chosen,
        *(in_proportion(table[there & ~spoof & (table["source"] == name)], "speaker", TRIALS, 1) for name in sources),
        *(
            in_proportion(table[there & spoof & (table["attack"] == name)], "speaker", TRIALS, 1)
            for name in sorted(set(table.loc[there & spoof, "attack"]))
        ),
    ]
    rows = pd.concat(groups).index.unique().to_numpy()
    scored = scoring.scores(network, store, "", threads=1, rows=rows)
    about = json.loads((network / "network.json").read_text("utf-8"))
    row = {"key": job.key, "system": system.name, "seed": job.seed, "fold": job.fold, "minutes": round(minutes, 2)}
    row |= {"best_epoch": about["best_epoch"], "dev_eer": about["dev_eer"]}
    return row | _asked(scored, attacks, sources)


def _asked(scored: pd.DataFrame, attacks: set[str], sources: set[str]) -> dict:
    real, dev = scored["label"] == "bonafide", scored["split"] == "dev"
    voices, fakes = scored[real], scored[~real]
    known = metrics.eer(scored.loc[real & dev, "score"], scored.loc[~real & dev, "score"])
    pairs = {}
    for name, copies in fakes[fakes["pair_id"].isin(voices["utt_id"]) & ~dev[~real]].groupby("attack"):
        of = voices[voices["utt_id"].isin(copies["pair_id"])]
        if len(copies) >= 10:
            pairs[name] = float(metrics.eer(of["score"], copies["score"]).value)
    left = {
        name: float(metrics.eer(voices["score"], rows["score"]).value)
        for name, rows in fakes[fakes["attack"].isin(attacks) & (fakes["split"] == "train")].groupby("attack")
    }
    alarms = {
        name: float((rows["score"] < known.threshold).mean())
        for name, rows in voices[voices["source"].isin(sources) & (voices["split"] == "train")].groupby("source")
    }
    return {"known": float(known.value), "left_out": left, "pairs": pairs, "sources": alarms}


def table(results: Sequence[Mapping], *, against: str = "", replicates: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row per candidate, the best first, with intervals over `replicates` bootstrap samples of the attacks.

    eer is the mean over left-out attacks, worse its delta to the candidate `against`, inverted the number of attacks
    above 50 %, alarms the mean false positive rate on left-out sources, and pairs the mean EER of copies against their
    recordings.
    """
    rng = np.random.default_rng(seed)
    kinds = {
        name: pd.DataFrame([result["left_out"] for result in group]).mean()
        for name, group in _by_system(results).items()
    }
    first = kinds.get(against)
    rows = []
    for name, group in _by_system(results).items():
        values = kinds[name]
        draws = rng.integers(len(values), size=(replicates, len(values)))
        row = {
            "system": name,
            "kinds": len(values),
            "eer": values.mean(),
            **_ends("eer", values.to_numpy()[draws].mean(axis=1)),
        }
        if first is not None:
            apart = (values - first).to_numpy()
            row |= {"worse": apart.mean(), **_ends("worse", apart[draws].mean(axis=1))}
        row["inverted"] = int((values > 0.5).sum())
        row |= {key: float(np.mean([result[key] for result in group])) for key in ("known", "dev_eer", "minutes")}
        row["alarms"] = float(np.mean([value for result in group for value in result["sources"].values()]))
        row["pairs"] = float(np.mean([value for result in group for value in result["pairs"].values()]))
        rows.append(row)
    return pd.DataFrame(rows).sort_values("eer", ignore_index=True)


def matrix(results: Sequence[Mapping], what: str) -> pd.DataFrame:
    """Fractions of `what` (left_out, pairs or sources), mean over seeds: a column per candidate, hardest row first."""
    columns = {name: pd.DataFrame([row[what] for row in group]).mean() for name, group in _by_system(results).items()}
    found = pd.DataFrame(columns)
    return found.loc[found.mean(axis=1).sort_values(ascending=False).index]


def readable(found: pd.DataFrame, about: Mapping[str, str]) -> pd.DataFrame:
    """`table` as text, in percent, with intervals."""
    headings = {
        "system": "Candidate",
        "about": "",
        "eer": "Left out (EER, %)",
        "worse": "More than the default",
        "known": "Learnt (EER, %)",
        "pairs": "Copies against their originals (EER, %)",
        "alarms": "Real voices of other sources called fake (%)",
        "inverted": "Kinds above 50 %",
        "minutes": "Minutes",
    }
    texts = {"about": found["system"].map(about), "inverted": found["inverted"].astype(str)}
    return evaluation.cells(found.assign(**texts, minutes=found["minutes"].map("{:.1f}".format)), headings)


def sentence(results: Sequence[Mapping], default: str = "default") -> str:
    """Standing of the default among the candidates in words, for the report."""
    found = table(results, against=default).set_index("system")
    if default not in found.index:
        return ""
    own, best = found.loc[default], found.index[0]
    words = (
        f"Trained with kinds of attack and sources of real voices left out in turn, the default errs at "
        f"{own['eer']:.1%} (95 % interval {own['eer_low']:.1%} to {own['eer_high']:.1%}) on what it has not met, "
        f"as a mean over {own['kinds']:.0f} kinds"
    )
    if best == default:
        return f"{words}: the least of {len(found)} candidates."
    least = found.loc[best]
    stand = "within chance" if least["worse_high"] >= 0 else "more than chance explains"
    return f"{words}. Of {len(found)} candidates {best} errs least, at {least['eer']:.1%}: {stand}."


def _by_system(results: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    found: dict[str, list[Mapping]] = {}
    for result in results:
        found.setdefault(result["system"], []).append(result)
    return found


def _ends(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _key(system: System, seed: int, fold: int, count: int, draws: int | None, corpus: str) -> str:
    text = json.dumps([ASKED, system.key(seed, corpus, 0), fold, count, draws])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
