"""Features or waveforms of a corpus in memory-mapped shards, and their scores."""

from aasist_lib.store.indexes import PLACE
from aasist_lib.store.scoring import logit, scores
from aasist_lib.store.store import CONTENTS, Store, extract

__all__ = ["CONTENTS", "PLACE", "Store", "extract", "logit", "scores"]
