"""Features or waveforms of a corpus in memory-mapped shards."""

from aasist_lib.store.indexes import PLACE
from aasist_lib.store.store import HOLDS, Store, extract, feature_maps, groups

__all__ = [
    "HOLDS",
    "Store",
    "extract",
    "feature_maps",
    "groups",
    "PLACE",
]
