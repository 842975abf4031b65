"""Table rows for vocoded copies of bona fide training recordings, which `extract` makes (attack `resynthesis`).

Copies are in the feature store, but not part of the corpus: statistics of the corpus leave them out.
"""

import numpy as np
import pandas as pd

COPY, RESYNTHESIS = "~", "resynthesis"  # marker in the utt_id of a copy, and its attack


def with_vocoded(table: pd.DataFrame, copies: int) -> pd.DataFrame:
    """Add `copies` rows for each bona fide recording of train.

    Parameters
    ----------
    table
        Utterances, with utt_id, label, split.

    Returns
    -------
    table
        Each copy follows its recording: utt_id is that of the recording, "~" and a number from 1; pair_id is the
        recording.
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


def is_vocoded(table: pd.DataFrame) -> np.ndarray:
    """Mark the rows that `with_vocoded` added: (len(table),) bool."""
    if "pair_id" not in table or "attack" not in table:
        return np.zeros(len(table), bool)
    made = (table["attack"] == RESYNTHESIS).to_numpy(copy=True)
    rows = table.loc[made, ["utt_id", "pair_id"]]
    made[made] = [name.startswith(pair + COPY) for name, pair in rows.itertuples(index=False)]
    return made


def excess_copies(table: pd.DataFrame, copies: int) -> np.ndarray:
    """Mark all copies of a recording after the first `copies`, for training with fewer than are stored."""
    number = table["utt_id"].where(is_vocoded(table), f"{COPY}0").str.rpartition(COPY)[2].astype(int)
    return (number > copies).to_numpy()
