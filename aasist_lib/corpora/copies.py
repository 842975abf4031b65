"""Rows for copies that extract makes of the real recordings of train, each by a vocoder of its own (`resynthesis`).

They are in a store beside the corpus, and no part of it: what looks at the corpus leaves them out.
"""

import numpy as np
import pandas as pd

COPY, RESYNTHESIS = "~", "resynthesis"  # what tells the utt_id of such a copy, and its attack


def with_copies(table: pd.DataFrame, copies: int) -> pd.DataFrame:
    """The table with so many rows more after every real recording of train, one for each copy to be made of it.

    Parameters
    ----------
    table : DataFrame
        Of utterances, with utt_id, label, split.
    copies : int
        Of each recording.

    Returns
    -------
    DataFrame
        A copy's utt_id is the recording's, "~" and a number from 1; its pair_id is the recording.
    """
    if not copies:
        return table
    real = table[(table["label"] == "bonafide") & (table["split"] == "train")]
    added = [
        real.assign(
            utt_id=real["utt_id"] + f"{COPY}{number}", label="spoof", attack=RESYNTHESIS, pair_id=real["utt_id"]
        )
        for number in range(1, copies + 1)
    ]
    return pd.concat([table, *added]).sort_index(kind="stable").fillna("").reset_index(drop=True)


def made_here(table: pd.DataFrame) -> np.ndarray:
    """Which rows are copies that `with_copies` added: (len(table),) bool."""
    if "pair_id" not in table or "attack" not in table:
        return np.zeros(len(table), bool)
    made = (table["attack"] == RESYNTHESIS).to_numpy(copy=True)
    rows = table.loc[made, ["utt_id", "pair_id"]]
    made[made] = [name.startswith(pair + COPY) for name, pair in rows.itertuples(index=False)]
    return made


def beyond(table: pd.DataFrame, copies: int) -> np.ndarray:
    """Which rows are copies after the first so many of a recording: (len(table),) bool.

    What trains from a store with more copies than it is to have leaves these out.
    """
    number = table["utt_id"].where(made_here(table), f"{COPY}0").str.rpartition(COPY)[2].astype(int)
    return (number > copies).to_numpy()
