"""Logits of stored utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from aasist_lib import models
from aasist_lib.base.errors import UserError
from aasist_lib.base.jobs import reproducible
from aasist_lib.base.progress import progress
from aasist_lib.store.indexes import PLACE
from aasist_lib.store.store import Store


def scores(
    network_folder, store: Store | Path | str, split: str, *, threads: int = 2, rows: np.ndarray | None = None
) -> pd.DataFrame:
    """Raw logits of a split, or of these `rows` of the store.

    Returns
    -------
    DataFrame
        The table's columns, `seconds`, and `score`, the logit, higher for bona fide. Long utterances get the mean of
        their windows' logits weighted by length, as in `Detector`.

    Raises
    ------
    UserError
        If the split is empty, or the network was trained on other features.
    """
    network, about = models.load(network_folder)
    store = store if isinstance(store, Store) else Store(store)
    if store.features != about["features"]:
        raise UserError(
            f"{store.folder} holds {store.features}, but {network_folder} was trained on {about['features']}: "
            "extract again with those settings, or train again"
        )
    rows = store.select(split) if rows is None else rows
    if not len(rows):
        raise UserError(f"{store.folder} has no utterances of split '{split}'")
    with reproducible(threads), torch.inference_mode():
        logits = [logit(network, store, row) for row in progress(rows, desc=f"score {split}", unit="recording")]
    columns = [name for name in store.table.columns if name not in PLACE or name == "seconds"]
    return store.table.loc[rows, columns].reset_index(drop=True).assign(score=np.array(logits))


def logit(network: nn.Module, store: Store, row: int) -> float:
    """The logit of one utterance, alone, since padding would change it."""
    spans = models.windows(int(store.table["frames"].iloc[row]), store.rate)
    parts = (torch.from_numpy(store.read(row, start, end - start))[None] for start, end in spans)
    device = next(network.parameters()).device
    logits = [network(store.maps(part).to(device)).item() for part in parts]
    return float(np.average(logits, weights=[end - start for start, end in spans]))
