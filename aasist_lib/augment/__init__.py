"""Changes to waveforms in training: noise, rooms, codecs, RawBoost, vocoded copies."""

from aasist_lib.augment.chain import NEEDS, Augment

__all__ = [
    "Augment",
    "NEEDS",
]
