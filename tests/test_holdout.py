"""Cross-validation without an attack or a source.

| what | test |
|---|---|
| related attacks, and sources of one person, go together; the largest first; never all of a class | test_items |
| a source goes with its copies and its people, an attack with its fakes; of train alone | test_left_out |
| folds never read what they leave out, nor eval, and are asked about just that | test_never_heard |
| the same scores with two workers, and when gone on with; other settings start afresh | test_resumed |
| the short recipe: no other network to start from, batches and averages that fit | test_recipe |
| each measure, from scores made by hand | test_summary |
| nothing to leave out: empty tables that can be shown | test_nothing |
"""

import numpy as np
import pandas as pd
import pytest
from test_training import MODEL, TRAIN, write_store

from aasist_lib import metrics, plots
from aasist_lib.audit import holdout
from aasist_lib.corpora import folds
from aasist_lib.corpora.folds import Item
from aasist_lib.store import Store, indexes

COLUMNS = ["utt_id", "label", "speaker", "attack", "split", "source", "pair_id"]
OPTIONS = dict(model=MODEL, train=TRAIN, seed=3, draws=40, trials=8)


@pytest.fixture
def table():
    real = [
        ("a1", "ann", "stamps"), ("a2", "ann", "stamps"), ("b1", "ben", "game"), ("b2", "ben", "prompts"),
        ("c1", "cyd", "radio"),
    ]  # fmt: skip
    fakes = [
        ("w1", "ann", "world", "stamps", "a1"), ("w2", "ann", "world_vc", "stamps", "a2"),
        ("g1", "ben", "griffin_lim", "game", "b1"), ("u1", "ben", "units", "units", ""),
        ("e1", "robot", "espeak", "espeak", ""), ("e2", "robot", "espeak", "espeak", ""),
        ("e3", "robot", "espeak", "espeak", ""),
    ]  # fmt: skip
    rows = [(name, "bonafide", who, "", "train", source, "") for name, who, source in real]
    rows += [(name, "spoof", who, attack, "train", source, of) for name, who, attack, source, of in fakes]
    rows += [("d1", "bonafide", "dov", "", "dev", "stamps", ""), ("d2", "spoof", "dov", "world", "dev", "stamps", "d1")]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_items(table):
    found = folds.items(table, 9, 9)
    assert found == [
        Item("attack", ("espeak",)), Item("attack", ("world", "world_vc")), Item("attack", ("griffin_lim",)),
        Item("attack", ("units",)),
        Item("source", ("game", "prompts")), Item("source", ("stamps",)), Item("source", ("radio",)),
    ]  # fmt: skip
    assert [item.name for item in folds.items(table, 2, 1)] == ["espeak", "world + world_vc", "game + prompts"]
    one = table[table["attack"].isin(["", "espeak"]) & (table["source"] != "radio")]
    one = one[one["speaker"] != "ann"].reset_index(drop=True)
    assert folds.items(one, 9, 9) == []


def test_left_out(table):
    def names(*left):
        return set(table.loc[folds.left_out(table, left), "utt_id"])

    assert names(Item("attack", ("world", "world_vc"))) == {"w1", "w2"}
    assert names(Item("source", ("stamps",))) == {"a1", "a2", "w1", "w2"}
    assert names(Item("source", ("game",))) == {"b1", "b2", "g1", "u1"}  # the unit selection voice is his, too
    assert names(Item("attack", ("espeak",)), Item("source", ("radio",))) == {"e1", "e2", "e3", "c1"}
    assert names() == set()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three sources, five attacks; every second fake of some is a copy."""
    folder = write_store(tmp_path_factory.mktemp("holdout") / "features", poison_eval=True)
    index = indexes.read(folder).copy()
    index["source"] = "made" + index["speaker"].where(index["label"] == "bonafide", "").str[-1:].replace("3", "2")
    indexes.write(folder, index)
    return folder


@pytest.fixture(scope="module")
def scores(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return folder, holdout.run(store, folder, attacks=1, sources=1, **OPTIONS)


def test_never_heard(store, scores, monkeypatch, tmp_path):
    read, fit = {}, holdout.training.fit

    def watched(*arguments, leave_out, **settings):
        seen = read.setdefault(len(read), set())
        inner = Store.read

        def spy(self, row, *more):
            seen.add(row)
            return inner(self, row, *more)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "read", spy)
            return fit(*arguments, leave_out=leave_out, **settings)

    monkeypatch.setattr(holdout.training, "fit", watched)
    found = holdout.run(store, tmp_path, attacks=1, sources=1, **OPTIONS)
    pd.testing.assert_frame_equal(found, scores[1])
    table = Store(store).table
    items = folds.items(table, 1, 1)
    assert [item.kind for item in items] == ["attack", "source"] and len(read) == 3
    for number, item in enumerate([None, *items]):
        out = folds.left_out(table, [item] if item else [])
        assert read[number] and not out[list(read[number])].any()
        assert set(table.loc[list(read[number]), "split"]) == {"train", "dev"}
        group = found[found["fold"] == (item.name if item else "reference")]
        asked = set(group.loc[group["split"] == "train", "utt_id"])
        assert asked <= set(table.loc[out, "utt_id"]) and bool(asked) == bool(item)
        assert set(group["split"]) <= {"train", "dev"} and group["score"].notna().all()


def test_resumed(store, scores, monkeypatch, tmp_path):
    folder, first = scores
    trained = []
    inner = holdout.training.fit
    monkeypatch.setattr(holdout.training, "fit", lambda *a, **k: trained.append(k["leave_out"].sum()) or inner(*a, **k))
    pd.testing.assert_frame_equal(holdout.run(store, folder, attacks=1, sources=1, **OPTIONS), first)
    assert trained == []
    next(folder.glob("piece-01*")).unlink()
    pd.testing.assert_frame_equal(holdout.run(store, folder, attacks=1, sources=1, **OPTIONS), first)
    assert len(trained) == 1
    others = holdout.run(store, folder, attacks=1, sources=1, **OPTIONS | {"seed": 4})
    assert len(trained) == 4 and not others["score"].equals(first["score"])
    monkeypatch.undo()
    pd.testing.assert_frame_equal(holdout.run(store, tmp_path, attacks=1, sources=1, workers=2, **OPTIONS), first)


def test_recipe():
    train = TRAIN | {"batch_size": 32, "ema_decay": 0.99, "lr": 1.0e-3, "init_from": "models/other"}
    short = holdout._recipe(train, 4000)
    assert (short["max_epochs"], short["batch_size"], short["lr"], short["init_from"]) == (1, 16, 2.0e-3, "")
    assert short["ema_decay"] == pytest.approx(0.96)
    assert holdout._recipe(train, 60)["ema_decay"] == 0.0
    assert holdout._recipe(train | {"ema_decay": 0.5}, 4000)["ema_decay"] == 0.5
    assert holdout._recipe(train | {"batch_size": 2}, 40)["batch_size"] == 2
    assert short["time_masks"] == train["time_masks"]


def trials(fold, kind, split, label, values, attack="", learnt=True):
    return [
        dict(fold=fold, kind=kind, split=split, label=label, attack=attack, speaker=f"s{i % 2}", learnt=learnt, score=x)
        for i, x in enumerate(values)
    ]


def test_summary():
    rng = np.random.default_rng(1)
    real, easy, hard, new = (rng.normal(mean, 1, 40) for mean in (2, -2, 1, 0))
    rows = []
    for fold, kind in (("reference", "reference"), ("world", "attack"), ("game", "source")):
        shift = 0.5 if kind == "attack" else 0.0
        rows += trials(fold, kind, "dev", "bonafide", real)
        rows += trials(fold, kind, "dev", "spoof", easy, "espeak")
        rows += trials(fold, kind, "dev", "spoof", hard + shift, "world")
        rows += trials(fold, kind, "dev", "spoof", new, "lpc", learnt=False)
    rows += trials("world", "attack", "train", "spoof", hard - 0.2, "world")
    rows += trials("game", "source", "train", "bonafide", real - 1, "")
    rows += trials("game", "source", "train", "spoof", easy + 1, "espeak")
    table = holdout.summary(pd.DataFrame(rows), replicates=30, seed=1)

    def eer(bonafide, *spoofs):
        return metrics.eer(bonafide, np.concatenate(spoofs)).value

    assert list(table["kind"]) == ["reference", "attack", "source"] and list(table.columns) == holdout.COLUMNS
    reference, attack, source = (row for _, row in table.iterrows())
    assert reference["eer"] == eer(real, easy, hard, new) and reference["known"] == eer(real, easy, hard)
    assert attack["held_out"] == "world" and attack["eer"] == eer(real, hard - 0.2)
    assert attack["known"] == eer(real, easy)  # without the one left out
    assert attack["on_dev"] == eer(real, hard + 0.5) and attack["on_dev_reference"] == eer(real, hard)
    assert (attack["n_held_out"], attack["n_compared"], attack["n_dev"]) == (40, 40, 40)
    assert source["eer"] == eer(real - 1, easy + 1) and source["against_dev"] == eer(real - 1, easy, hard)
    threshold = metrics.eer(real, np.concatenate([easy, hard])).threshold
    assert source["bonafide_rejected"] == (real - 1 < threshold).mean() > source["known"]
    assert (table["eer_low"] <= table["eer"]).all() and (table["eer"] <= table["eer_high"]).all()
    assert (table["eer_low"] < table["eer_high"]).all()
    shown = holdout.readable(table, "attack")
    assert shown.iloc[0, 0] == "world" and f"{100 * attack['on_dev']:.1f}" in shown.iloc[0].tolist()
    assert len(holdout.readable(table, "source")) == 1


def test_nothing(store, tmp_path):
    scores = holdout.run(store, tmp_path, attacks=0, sources=0, **OPTIONS)
    table = holdout.summary(scores)
    assert scores.empty and table.empty and not list(tmp_path.iterdir())
    assert holdout.readable(table, "attack").empty
    assert plots.png(plots.intervals(table, "held_out", "kind", title="None", label="x"))
