"""Waveform augmentation in training: noise, rooms, codecs, RawBoost, vocoder copies."""

from aasist_lib.augment.chain import NEEDS, Augment

__all__ = [
    "Augment",
    "NEEDS",
]
