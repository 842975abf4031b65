"""Cross-validation on train: leave-one-attack-out, and leave-one-source-out for bona fide with all copies of it.

Each fold leaves out an attack or a source, trains on the rest and scores what was left out. A *reference* leaves
nothing out and scores the same dev trials, so the left-out data are the only difference. Eval is never read.

Runs are short (a few thousand draws), with smaller batches and a higher learning rate (`_recipe`). Compare their error
rates with each other, not with the detector's.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pandas as pd

from aasist_lib import evaluation, metrics, training
from aasist_lib.base.jobs import cache_key, done, single_threaded, write
from aasist_lib.base.progress import NOBODY, progress
from aasist_lib.corpora.copies import is_vocoded
from aasist_lib.corpora.folds import Item, in_proportion, items, left_out
from aasist_lib.store import Store, indexes, scoring

PER_UTTERANCE = 2  # draws per utterance of train, at most: small corpora need fewer
FASTER = 2  # divides train.batch_size and multiplies train.lr
SEEN = 8  # dev utterances of each class that a run validates on: it has a single epoch, so nothing to select
REFERENCE = "reference"


@dataclass(frozen=True)
class Job:
    """Training with an item left out (None: the reference), and its scoring; done when its file exists."""

    path: Path
    store: Path
    network: Path  # output
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
    """Train and score all folds; finished folds are kept in `folder` while store, settings and code stay the same.

    Parameters
    ----------
    store_folder : made by `store.extract`.
    model, train, augment : sections of params.yaml; `_recipe` adapts the training.
    draws : training utterances of a fold, fewer where train is small.
    attacks, sources : number of folds of each kind, at most.
    trials : bona fide dev trials that are scored, at most; half as many of the left-out data, a fifth of each dev
        attack.
    workers : processes of one thread each; the scores do not depend on it.

    Returns
    -------
    One row per fold and utterance: fold, kind, the columns of the store's table, learnt (whether train has the attack),
    and score, higher for bona fide. Empty where nothing can be left out.

    Raises
    ------
    UserError
        There is no store, or training fails.
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
    contents = [store.folder / indexes.NAME, store.folder / "meta.json"]
    key = cache_key(__name__, jobs, contents=contents, states=sorted(store.folder.glob("shard-*.npy")))
    scores = done(jobs, _train, folder, key, workers, "hold out", lambda job: job.left.name if job.left else REFERENCE)
    table = store.table.drop(columns=["shard", "start", "frames"])
    learnt = table["attack"].isin(table.loc[table["split"] == "train", "attack"])
    return scores.merge(table.assign(learnt=learnt), on="utt_id", how="left")


def _recipe(train: Mapping, draws: int) -> dict:
    """Training settings for a run of few draws.

    On the default corpus, half the batch and twice the rate give an EER on dev of 16 %; the unchanged settings give 30
    %, and 35 % with the weights averaged over a hundred steps.
    """
    batch = max(2, train["batch_size"] // FASTER)
    # over at most a tenth of the steps, or the average would still contain the initial weights
    ema_decay = min(train["ema_decay"], max(0.0, 1 - 10 * batch / draws))
    short = {"max_epochs": 1, "batch_size": batch, "lr": FASTER * train["lr"], "ema_decay": ema_decay}
    return dict(train) | short | {"init_from": "", "freeze_cnn_epochs": 0}


def _dev(table: pd.DataFrame, trials: int, seed: int) -> tuple[str, ...]:
    """Utterances of dev that every fold scores."""
    dev = table[table["split"] == "dev"]
    parts = [in_proportion(dev[dev["label"] == "bonafide"], "speaker", trials, seed)]
    for _, rows in dev[dev["label"] == "spoof"].groupby("attack", sort=True):
        parts.append(in_proportion(rows, "speaker", max(trials // 5, 1), seed))
    return tuple(pd.concat(parts)["utt_id"])


def _asked(table: pd.DataFrame, item: Item | None, count: int, seed: int) -> tuple[str, ...]:
    """Left-out utterances that a fold scores: spoofs of an attack, or bona fide of a source and copies of it."""
    if item is None:
        return ()
    rows = table[left_out(table, [item]) & ~is_vocoded(table)]
    if item.kind == "source":
        real = rows[(rows["label"] == "bonafide") & rows["source"].isin(item.names)]
        copies = rows[rows["pair_id"].isin(real["utt_id"])]
        parts = [in_proportion(real, "source", count, seed), in_proportion(copies, "attack", count, seed)]
    else:
        parts = [in_proportion(fakes, "speaker", count, seed) for _, fakes in rows.groupby("attack", sort=True)]
    return tuple(pd.concat(parts)["utt_id"])


def _train(job: Job) -> None:
    """Train without the left-out data, score, and write the scores."""
    table = Store(job.store).table
    out = left_out(table, [job.left] if job.left else [])
    dev = table[table["split"] == "dev"]
    out[dev.index] = True
    out[dev.groupby("label").head(SEEN).index] = False
    with single_threaded(), mock.patch.dict(os.environ, AASIST_TERMINAL=NOBODY):  # the bar over folds is enough
        training.fit(
            job.store, job.network, model=job.model, train=job.train, augment=job.augment, seed=job.seed, threads=1,
            checkpoints=job.path.with_suffix(".checkpoints"), leave_out=out, draws=job.draws,
        )  # fmt: skip
        rows = pd.Series(table.index, table["utt_id"])[list(job.utt_ids)].to_numpy()
        scored = scoring.scores(job.network, job.store, "", threads=1, rows=rows)
    about = {"fold": job.left.name if job.left else REFERENCE, "kind": job.left.kind if job.left else REFERENCE}
    found = [about | row for row in scored[["utt_id", "score"]].to_dict("records")]
    write(job.path, found)


# Summary.

COLUMNS = [
    "fold", "held_out", "kind", "eer", "eer_low", "eer_high", "on_dev", "on_dev_reference", "against_dev", "known",
    "bonafide_rejected", "n_held_out", "n_compared", "n_dev",
]  # fmt: skip


def summary(scores: pd.DataFrame, *, replicates: int = 200, seed: int = 0) -> pd.DataFrame:
    """Error rates (fractions) of every fold on left-out data: the reference first, then one row per attack and source.

    - eer: left-out spoofs of train against bona fide of dev; bona fide of a left-out source against its copies; for the
      reference, all of dev
    - on_dev, on_dev_reference: dev spoofs of a left-out attack against bona fide of dev, in this fold and in the
      reference
    - against_dev, known: bona fide of a left-out source, and of dev, against dev spoofs of learnt attacks
    - bonafide_rejected: false positive rate on a left-out source at the EER threshold of `known`
    - n_held_out, n_compared, n_dev: trials behind `eer`, left out and compared with, and spoofs behind `on_dev`
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
    """Equal error rate, with its interval where there are trials to resample."""
    if bonafide.empty or spoof.empty:
        return {"eer": float("nan")}
    # a single speaker or attack cannot be resampled, so its variability is not in the interval
    several = {"speaker": bonafide["speaker"].nunique() > 1, "attack": spoof["attack"].nunique() > 1}
    options = {"factors": [name for name in several if several[name]], "replicates": replicates, "seed": seed}
    return evaluation.with_interval(evaluation.only_eer, pd.concat([bonafide, spoof]), "score", **options)


def readable(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows of one kind (attack or source) of `summary` as text, in percent, with intervals."""
    rows = table[table["kind"] == kind]
    text = evaluation.cells(rows, HEADINGS[kind])
    for column, words in COUNTS[kind].items():
        text[words] = [str(int(n)) if n == n else "" for n in rows[column]]
    return text


HEADINGS = {
    "attack": {
        "held_out": "Left out of training",
        "eer": "Its fakes in train against dev's real voices: EER (%)",
        "on_dev": "Its fakes in dev (%)",
        "on_dev_reference": "The same, had it been learnt (%)",
        "known": "Dev's fakes of learnt kinds (%)",
    },
    "source": {
        "held_out": "Left out of training",
        "eer": "Its real voices against copies of them: EER (%)",
        "against_dev": "Against dev's fakes (%)",
        "known": "Dev's real voices against those (%)",
        "bonafide_rejected": "Its real voices called fake (%)",
    },
}
COUNTS = {
    "attack": {"n_held_out": "Its fakes", "n_dev": "In dev"},
    "source": {"n_held_out": "Its recordings", "n_compared": "Copies"},
}
