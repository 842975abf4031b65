"""Parts of a corpus: what is left out of training in turn, and samples in proportion to groups."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aasist_lib.corpora.copies import made_here

# Attacks that share their sound; one of them in training would give the others away.
RELATED = (
    {"hifigan", "piper"},  # VITS, which Piper is, ends in a HiFi-GAN
    {"world", "world_vc"},
    {"griffin_lim", "mel_griffin_lim"},
    {"flite", "festival_hts"},
    {"kokoro", "hibari"},
)


@dataclass(frozen=True)
class Item:
    """What a fold leaves out: attacks that belong together, or sources of real voices that share a person."""

    kind: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.names)


def items(table: pd.DataFrame, attacks: int, sources: int) -> list[Item]:
    """What can be left out in turn: attacks and sources of train, the largest ones.

    Parameters
    ----------
    table : DataFrame
        A row an utterance, with label, speaker, attack, split, source.
    attacks, sources : int
        At most so many.

    Returns
    -------
    list of Item
        Attacks first. None that would leave train without real voices or without fakes.
    """
    table = table[~made_here(table)]
    train = table[table["split"] == "train"]
    spoofs, bonafide = (train[train["label"] == label] for label in ("spoof", "bonafide"))
    people = [set(rows["source"]) for name, rows in bonafide.groupby("speaker") if name]
    in_train, found = (table["split"] == "train").to_numpy(), []
    for kind, column, together, most in (
        ("attack", spoofs["attack"], RELATED, attacks),
        ("source", bonafide["source"], people, sources),
    ):
        sizes = column[column != ""].value_counts()
        groups = _together(sizes.index, together)
        groups.sort(key=lambda names, sizes=sizes: (-sizes[list(names)].sum(), names))
        found += [
            item
            for item in (Item(kind, names) for names in groups[:most])
            if table.loc[in_train & ~left_out(table, [item]), "label"].nunique() == 2
        ]
    return found


def _together(names: Sequence[str], related: Sequence[set]) -> list[tuple[str, ...]]:
    """Names in groups, those that are related directly or not in one.

    >>> _together(["a", "b", "c", "d"], [{"a", "b"}, {"b", "d"}, {"c", "x"}])
    [('a', 'b', 'd'), ('c',)]
    """
    groups = [{name} for name in sorted(names)]
    for those in related:
        hit = [group for group in groups if group & those]
        groups = [group for group in groups if not group & those] + ([set().union(*hit)] if hit else [])
    return sorted(tuple(sorted(group)) for group in groups)


def left_out(table: pd.DataFrame, left: Sequence[Item]) -> np.ndarray:
    """Which utterances of train a fold must not learn from.

    Parameters
    ----------
    table : DataFrame
        The store's, with utt_id, label, speaker, attack, split, source, pair_id.
    left : sequence of Item
        For an attack, all its fakes. For a source, its real voices, all copies of them, and whatever else the same
        people are in.

    Returns
    -------
    (len(table),) bool
    """
    out = np.zeros(len(table), bool)
    bonafide = table["label"] == "bonafide"
    for item in left:
        if item.kind == "attack":
            out |= (~bonafide & table["attack"].isin(item.names)).to_numpy()
            continue
        of = table[bonafide & (table["split"] == "train") & table["source"].isin(item.names)]
        out |= (table["utt_id"].isin(of["utt_id"]) | table["pair_id"].isin(of["utt_id"])).to_numpy()
        out |= table["speaker"].isin(set(of["speaker"]) - {""}).to_numpy()
    return out & (table["split"] == "train").to_numpy()


def in_proportion(rows: pd.DataFrame, column: str, count: int, seed: int) -> pd.DataFrame:
    """About `count` of the rows: of each group as many as its share is, and at least one.

    Parameters
    ----------
    rows : DataFrame
        With utt_id and `column`.
    column : str
        What groups them.
    count, seed : int

    Returns
    -------
    DataFrame
        Rows of `rows`, in its order.
    """
    order = pd.Series([zlib.crc32(f"{seed} {name}".encode()) for name in rows["utt_id"]], rows.index)
    place = order.groupby(rows[column]).rank(method="first")
    share = min(1.0, count / max(len(rows), 1)) * rows.groupby(column)["utt_id"].transform("size")
    return rows[place <= np.maximum(share.round(), 1)]
