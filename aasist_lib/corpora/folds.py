"""Parts of a corpus: items to leave out of training in turn, and samples in proportion to groups."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aasist_lib.corpora.copies import is_vocoded

# Attacks that sound alike: one of them in training would reveal the others.
RELATED = (
    {"hifigan", "piper"},  # Piper is VITS, whose decoder is a HiFi-GAN
    {"world", "world_vc"},
    {"griffin_lim", "mel_griffin_lim"},
    {"flite", "festival_hts"},
    {"kokoro", "hibari"},
)


@dataclass(frozen=True)
class Item:
    """What a fold leaves out: related attacks, or sources of bona fide speech that share a speaker."""

    kind: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.names)


def items(table: pd.DataFrame, attacks: int, sources: int) -> list[Item]:
    """List the largest attacks and sources of train that can be left out in turn.

    Parameters
    ----------
    table
        Utterances, with utt_id, label, speaker, attack, split, source.
    attacks, sources
        Maximum number of each.

    Returns
    -------
    items
        Attacks first. An item that would leave train without one of the classes is not listed.
    """
    table = table[~is_vocoded(table)]
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
    """Group names that are related, directly or through others.

    >>> _together(["a", "b", "c", "d"], [{"a", "b"}, {"b", "d"}, {"c", "x"}])
    [('a', 'b', 'd'), ('c',)]
    """
    groups = [{name} for name in sorted(names)]
    for those in related:
        hit = [group for group in groups if group & those]
        groups = [group for group in groups if not group & those] + ([set().union(*hit)] if hit else [])
    return sorted(tuple(sorted(group)) for group in groups)


def left_out(table: pd.DataFrame, left: Sequence[Item]) -> np.ndarray:
    """Mark the utterances of train that a fold must not learn from.

    Parameters
    ----------
    table
        Utterances of a store, with utt_id, label, speaker, attack, split, source, pair_id.
    left
        For an attack, all its spoofs are left out. For a source, its bona fide recordings, all copies of them, and all
        other utterances of the same speakers.

    Returns
    -------
    left_out
        (len(table),) bool.
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
    """Draw about `count` rows, from each group its share and at least one.

    Parameters
    ----------
    rows
        With utt_id and `column`.
    column
        Defines the groups.

    Returns
    -------
    rows
        A part of `rows`, in the same order. The draw depends on `seed` and utt_id alone.
    """
    order = pd.Series([zlib.crc32(f"{seed} {name}".encode()) for name in rows["utt_id"]], rows.index)
    place = order.groupby(rows[column]).rank(method="first")
    share = min(1.0, count / max(len(rows), 1)) * rows.groupby(column)["utt_id"].transform("size")
    return rows[place <= np.maximum(share.round(), 1)]
