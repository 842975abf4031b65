"""What the default recipe does with attacks and with sources of real voices that it has never met.

Cross-validation on train: each fold leaves a kind of attack out, or a source of real voices with all copies of them,
learns from the rest, and is asked about what it has not heard. A *reference* leaves nothing out and is asked the same
about dev, so that between it and a fold the one thing left out is all that differs. Eval is never read.

So many trainings must be short ones: each draws a few thousand utterances where the detector's drew many more. To get
anywhere in that time they take smaller steps, more of them and at a higher rate (`_recipe`); the rest is the default
recipe. Their error rates are to be compared with each other, and not with the detector's.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import evaluation, metrics, training
from aasist_lib.base import provenance
from aasist_lib.base.jobs import done, one_thread, write
from aasist_lib.base.progress import progress
from aasist_lib.corpora.copies import made_here
from aasist_lib.corpora.folds import Item, in_proportion, items, left_out
from aasist_lib.store import Store, indexes

PER_UTTERANCE = 2  # draws at most, for each utterance of train: small corpora need less
FASTER = 2  # a batch is train.batch_size divided by this, and the learning rate train.lr times this
SEEN = 8  # utterances of each class of dev that a run looks at: it has one epoch, and none to choose
REFERENCE = "reference"


@dataclass(frozen=True)
class Job:
    """A training with something left out, or nothing, and the scoring. It counts as done when its file exists."""

    path: Path
    store: Path
    network: Path  # gets the trained network
    left: Item | None
    draws: int
    utt_ids: tuple[str, ...]  # to score
    model: dict
    train: dict
    augment: dict
    seed: int


def run(
    store_folder,
    folder,
    *,
    model: Mapping,
    train: Mapping,
    augment: Mapping | None = None,
    seed: int,
    draws: int = 4_000,
    attacks: int = 12,
    sources: int = 12,
    trials: int = 200,
    workers: int = 1,
) -> pd.DataFrame:
    """Train and score all folds.

    What is done is kept in `folder`: called again it goes on from there, unless the store, the settings or this code
    are others than before.

    Parameters
    ----------
    store_folder : path
        What `store.extract` made.
    folder : path
        For what is done; of nothing else.
    model, train, augment : mapping
        The sections of params.yaml. A fold has one epoch, smaller batches, a higher learning rate and a shorter
        average of the weights, and starts afresh; the rest is as it is there.
    seed : int
        Of every training alike.
    draws : int
        Utterances that a fold learns from; fewer where train is small.
    attacks, sources : int
        How many are left out in turn, at most.
    trials : int
        Real voices of dev that are scored, at most; half as many of what was left out, a fifth of every attack in dev.
    workers : int
        Processes, one thread each. The scores do not depend on it.

    Returns
    -------
    DataFrame
        A row for each fold and utterance: fold, kind, the columns of the store's table, learnt (whether train has its
        attack), and score, higher for bona fide. Empty where nothing can be left out.

    Raises
    ------
    UserError
        There is no store, or training goes wrong.
    """
    store_folder, folder = Path(store_folder), Path(folder)
    store = Store(store_folder)
    found = items(store.table, attacks, sources)
    draws = min(draws, PER_UTTERANCE * int((store.table["split"] == "train").sum()))
    dev = _dev(store.table, trials, seed)
    jobs = [
        Job(
            path=folder / f"piece-{number:02d}.json", store=store_folder, network=folder / f"network-{number:02d}",
            left=item, draws=draws, utt_ids=(*dev, *_asked(store.table, item, trials // 2, seed)),
            model=dict(model), train=_recipe(train, draws), augment=dict(augment or {}), seed=seed,
        )
        for number, item in enumerate([None, *found] if found else [])
    ]  # fmt: skip
    if not jobs:
        return pd.DataFrame(columns=["fold", "kind", *store.table, "learnt", "score"])
    key = _key(store, jobs)
    scores = done(jobs, _train, folder, key, workers, "hold out", lambda job: job.left.name if job.left else REFERENCE)
    table = store.table.drop(columns=["shard", "start", "frames"])
    learnt = table["attack"].isin(table.loc[table["split"] == "train", "attack"])
    return scores.merge(table.assign(learnt=learnt), on="utt_id", how="left")


def _recipe(train: Mapping, draws: int) -> dict:
    """The training settings of a run of so many draws.

    With so few draws of the default corpus, half the batch and twice the rate bring the equal error rate on dev to
    16 %, where the settings as they are get to 30 % and, with the weights averaged over a hundred steps, to 35 %.
    """
    batch = max(2, train["batch_size"] // FASTER)
    # over a tenth of the steps at most: else the average still holds the weights of the start
    averaging = min(train["averaging"], max(0.0, 1 - 10 * batch / draws))
    short = {"max_epochs": 1, "batch_size": batch, "lr": FASTER * train["lr"], "averaging": averaging}
    return dict(train) | short | {"init_from": "", "freeze_cnn_epochs": 0}


def _dev(table: pd.DataFrame, trials: int, seed: int) -> tuple[str, ...]:
    """Utterances of dev that every fold scores."""
    dev = table[table["split"] == "dev"]
    parts = [in_proportion(dev[dev["label"] == "bonafide"], "speaker", trials, seed)]
    for _, rows in dev[dev["label"] == "spoof"].groupby("attack", sort=True):
        parts.append(in_proportion(rows, "speaker", max(trials // 5, 1), seed))
    return tuple(pd.concat(parts)["utt_id"])


def _asked(table: pd.DataFrame, item: Item | None, count: int, seed: int) -> tuple[str, ...]:
    """Utterances that a fold left out and is asked about: fakes of an attack; real voices of a source, and copies."""
    if item is None:
        return ()
    rows = table[left_out(table, [item]) & ~made_here(table)]
    if item.kind == "source":
        real = rows[(rows["label"] == "bonafide") & rows["source"].isin(item.names)]
        copies = rows[rows["pair_id"].isin(real["utt_id"])]
        parts = [in_proportion(real, "source", count, seed), in_proportion(copies, "attack", count, seed)]
    else:
        parts = [in_proportion(fakes, "speaker", count, seed) for _, fakes in rows.groupby("attack", sort=True)]
    return tuple(pd.concat(parts)["utt_id"])


def _key(store: Store, jobs: list[Job]) -> str:
    """What decides the scores, for `jobs.done`."""
    key = hashlib.sha256(repr(jobs).encode())
    key.update(provenance.code_key(__name__))
    for path in (indexes.file_of(store.folder), store.folder / "meta.json"):
        key.update(path.read_bytes())
    for path in sorted(store.folder.glob("shard-*.npy")):
        key.update(b"%d %d\n" % (path.stat().st_size, path.stat().st_mtime_ns))
    return key.hexdigest()


def _train(job: Job) -> None:
    """Train without what is left out, score, and write the scores."""
    table = Store(job.store).table
    out = left_out(table, [job.left] if job.left else [])
    dev = table[table["split"] == "dev"]
    out[dev.index] = True
    out[dev.groupby("label").head(SEEN).index] = False
    with one_thread(), _no_bars():
        training.fit(
            job.store, job.network, model=job.model, train=job.train, augment=job.augment, seed=job.seed, threads=1,
            checkpoints=job.path.with_suffix(".checkpoints"), leave_out=out, draws=job.draws,
        )  # fmt: skip
        rows = pd.Series(table.index, table["utt_id"])[list(job.utt_ids)].to_numpy()
        scored = training.scores(job.network, job.store, "", threads=1, rows=rows)
    about = {"fold": job.left.name if job.left else REFERENCE, "kind": job.left.kind if job.left else REFERENCE}
    found = [about | row for row in scored[["utt_id", "score"]].to_dict("records")]
    write(job.path, found)


@contextmanager
def _no_bars():
    """The bar that counts folds is enough."""
    before = os.environ.get("AASIST_TERMINAL")
    os.environ["AASIST_TERMINAL"] = ""
    try:
        yield
    finally:
        os.environ.pop("AASIST_TERMINAL")
        if before is not None:
            os.environ["AASIST_TERMINAL"] = before


# What it comes to.

COLUMNS = [
    "fold", "held_out", "kind", "eer", "eer_low", "eer_high", "on_dev", "on_dev_reference", "against_dev", "known",
    "bonafide_rejected", "n_held_out", "n_compared", "n_dev",
]  # fmt: skip


def summary(scores: pd.DataFrame, *, replicates: int = 200, seed: int = 0) -> pd.DataFrame:
    """How every fold fares with what it has never heard.

    Parameters
    ----------
    scores : DataFrame
        What `run` gave.
    replicates, seed : int
        Of the bootstrap over speakers and attacks; 0 replicates give no intervals.

    Returns
    -------
    DataFrame
        The reference first, then a row for each attack and source that was left out. Rates are fractions, NaN where
        there are no trials.

        - fold, held_out, kind: what was left out of training; what the row is about (of related attacks, one each);
          "reference", "attack" or "source".
        - eer, eer_low, eer_high: of an attack, its fakes in train against the real voices of dev; of a source, its real
          voices against its own copies; of a reference, all of dev. The interval is over speakers and attacks where
          there are several.
        - on_dev, on_dev_reference: of an attack that dev has, dev's fakes of it against dev's real voices, in this fold
          and in the reference, which has learnt the attack: what leaving it out costs.
        - against_dev: of a source, its real voices against dev's fakes of kinds that the fold has learnt.
        - known: dev's real voices against those same fakes: how good the fold is at what it has learnt.
        - bonafide_rejected: of a source, the share of its real voices called fake at the threshold at which `known`
          holds. A source that is like those of dev has about as much as `known` says.
        - n_held_out, n_compared: trials behind `eer`, of what was left out and of what it is set against; n_dev: fakes
          behind on_dev.
    """
    if scores.empty:
        return pd.DataFrame(columns=COLUMNS)
    reference = scores[scores["kind"] == REFERENCE]
    own = reference[_is(reference, "dev", "bonafide")]
    rows = []
    for (kind, fold), group in progress(scores.groupby(["kind", "fold"], sort=True), desc="intervals", unit="fold"):
        left = set(fold.split(" + ")) if kind == "attack" else set()
        dev, fakes = group[_is(group, "dev", "bonafide")], group[_is(group, "dev", "spoof")]
        known = fakes[fakes["learnt"] & ~fakes["attack"].isin(left)]
        row = {"fold": fold, "held_out": fold, "kind": kind, "known": _eer(dev, known)}
        if kind == REFERENCE:
            rows.append(row | _against(dev, fakes, replicates, seed))
        elif kind == "source":
            real, copies = group[_is(group, "train", "bonafide")], group[_is(group, "train", "spoof")]
            row |= _against(real, copies, replicates, seed) | {"n_held_out": len(real), "n_compared": len(copies)}
            row["against_dev"] = _eer(real, known)
            if len(dev) and len(known):
                threshold = metrics.eer(dev["score"], known["score"]).threshold
                row["bonafide_rejected"] = float((real["score"] < threshold).mean())
            rows.append(row)
        else:
            for attack, spoofs in group[_is(group, "train", "spoof")].groupby("attack", sort=True):
                there = fakes[fakes["attack"] == attack]
                same = reference[_is(reference, "dev", "spoof") & (reference["attack"] == attack)]
                rows.append(
                    row | {"held_out": attack} | _against(dev, spoofs, replicates, seed)
                    | {"n_held_out": len(spoofs), "n_compared": len(dev), "n_dev": len(there)}
                    | {"on_dev": _eer(dev, there), "on_dev_reference": _eer(own, same)}
                )  # fmt: skip
    order = {REFERENCE: 0, "attack": 1, "source": 2}
    found = pd.DataFrame(rows).reindex(columns=COLUMNS)
    found = found.sort_values(
        ["kind", "eer", "held_out"], key=lambda x: x.map(order) if x.name == "kind" else -x if x.name == "eer" else x
    )
    return found.reset_index(drop=True)


def _is(rows: pd.DataFrame, split: str, label: str) -> pd.Series:
    return (rows["split"] == split) & (rows["label"] == label)


def _eer(bonafide: pd.DataFrame, spoof: pd.DataFrame) -> float:
    if bonafide.empty or spoof.empty:
        return float("nan")
    return metrics.eer(bonafide["score"], spoof["score"]).value


def _against(bonafide: pd.DataFrame, spoof: pd.DataFrame, replicates: int, seed: int) -> dict[str, float]:
    """Equal error rate, with its interval where it can be had."""
    row = {"eer": _eer(bonafide, spoof)}
    if not replicates or np.isnan(row["eer"]):
        return row
    trials = pd.concat([bonafide, spoof])
    classes = evaluation.split_classes(trials, "score")
    # one speaker or one attack alone cannot be drawn from: what else they may be is not in the interval
    factors = evaluation.factors(trials)
    several = {"speaker": bonafide["speaker"].nunique() > 1, "attack": spoof["attack"].nunique() > 1}
    clusters = {name: factors[name] for name in factors if several[name]} or None
    drawn = {"clusters": clusters, "replicates": replicates, "seed": seed}
    (ends,) = metrics.bootstrap(lambda counts: {"eer": counts.eer().value}, *classes, **drawn).values()
    return row | {"eer_low": ends[0], "eer_high": ends[1]}


def readable(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of a kind in `summary` for people: text, in percent, with intervals.

    Parameters
    ----------
    table : DataFrame
        What `summary` gave.
    kind : {"attack", "source"}

    Returns
    -------
    DataFrame
        What was left out, and a column a measure.
    """
    rows = table[table["kind"] == kind]
    found = pd.DataFrame({"Left out of training": rows["held_out"]})
    for columns, words in HEADINGS[kind].items():
        values = rows[list(columns)].astype(float).to_numpy()
        found[words] = [evaluation.interval(*of) if not np.isnan(of[0]) else "" for of in values]
    for column, words in COUNTS[kind].items():
        found[words] = [str(int(n)) if n == n else "" for n in rows[column]]
    return found.reset_index(drop=True)


_WITH_ENDS = ("eer", "eer_low", "eer_high")
HEADINGS = {
    "attack": {
        _WITH_ENDS: "Its fakes in train against dev's real voices: EER (%)",
        ("on_dev",): "Its fakes in dev (%)",
        ("on_dev_reference",): "The same, had it been learnt (%)",
        ("known",): "Dev's fakes of learnt kinds (%)",
    },
    "source": {
        _WITH_ENDS: "Its real voices against copies of them: EER (%)",
        ("against_dev",): "Against dev's fakes (%)",
        ("known",): "Dev's real voices against those (%)",
        ("bonafide_rejected",): "Its real voices called fake (%)",
    },
}
COUNTS = {
    "attack": {"n_held_out": "Its fakes", "n_dev": "In dev"},
    "source": {"n_held_out": "Its recordings", "n_compared": "Copies"},
}
