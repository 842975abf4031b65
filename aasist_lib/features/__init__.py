"""Front-ends: torch modules that turn waveforms into feature maps.

Each maps waveforms of one length, (batch, samples), float32, to (batch, coefficients, frames), one by one. Utterances
of several lengths are mapped alone: padding would change their values.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.features.cqt import CQT
from aasist_lib.features.deltas import Deltas
from aasist_lib.features.normalise import Normalise
from aasist_lib.features.spectra import LFCC, MFCC, LogMel, LogSpectrum, dct_matrix, mel_filters
from aasist_lib.features.wav2vec2 import EncoderStates
from aasist_lib.features.wavelet import WaveletPackets

__all__ = [
    "CQT", "LFCC", "MFCC", "Deltas", "EncoderStates", "FrontEnd", "LogMel", "LogSpectrum", "Normalise",
    "Waveform", "WaveletPackets", "build", "dct_matrix", "mel_filters",
]  # fmt: skip


class Waveform(nn.Module):
    """The raw waveform, for end-to-end networks: one coefficient, one frame per sample."""

    coefficients = hop_length = n_fft = 1

    def __init__(self, sample_rate: int = 16000):
        super().__init__()
        self.sample_rate = sample_rate

    def forward(self, waveforms: Tensor) -> Tensor:
        return waveforms[:, None]


class Concat(nn.Module):
    """The concatenated coefficients of several transforms that share their frames."""

    def __init__(self, transforms: Sequence[nn.Module]):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        first = transforms[0]
        self.sample_rate, self.n_fft, self.hop_length = first.sample_rate, first.n_fft, first.hop_length
        self.coefficients = sum(transform.coefficients for transform in transforms)

    def forward(self, waveforms: Tensor) -> Tensor:
        return torch.cat([transform(waveforms) for transform in self.transforms], 1)


class MultiResolution(Concat):
    """`LogSpectrum` in a short window, for pitch pulses, and one `times` longer, for harmonics, as two channels."""

    channels = 2

    def __init__(
        self, sample_rate: int = 16000, n_fft: int = 256, hop_length: int = 160, n_bands: int = 80, times: int = 4
    ):
        windows = (n_fft, times * n_fft)
        super().__init__([LogSpectrum(sample_rate, size, hop_length, n_bands) for size in windows])


class FrontEnd(nn.Module):
    """A transform, its normalisation and the deltas of the normalised coefficients. Made by `build`.

    Attributes
    ----------
    coefficients
        Rows of the feature map: the static coefficients, then their deltas, then their delta-deltas.
    channels
        1 + deltas, or the states kept of an encoder; the map reshapes to (channels, coefficients // channels, frames).
    sample_rate : Hz
    hop_length, min_samples : samples
        From frame to frame, and of the shortest utterance that it accepts.
    number
        Type of the stored values: float32 or float16.
    """

    def __init__(self, transform: nn.Module, deltas: int = 0, normalise: str = "none"):
        super().__init__()
        self.transform = transform
        self.normalise = Normalise(normalise, transform.sample_rate / transform.hop_length)
        self.deltas = nn.ModuleList(Deltas(order) for order in range(1, deltas + 1))
        self.channels = getattr(transform, "channels", 1) * (deltas + 1)
        self.coefficients = transform.coefficients * (deltas + 1)
        self.number = getattr(transform, "number", "float32")
        self.sample_rate, self.hop_length = transform.sample_rate, transform.hop_length
        self.min_samples = getattr(transform, "min_samples", 1)
        if deltas:
            self.min_samples = (Deltas.WIDTH - 1) * self.hop_length + transform.n_fft % 2

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames)."""
        static = self.normalise(self.transform(waveforms))
        return torch.cat([static, *(deltas(static) for deltas in self.deltas)], 1)


KINDS = {
    "mfcc": [MFCC],
    "lfcc": [LFCC],
    "logmel": [LogMel],
    "logspec": [LogSpectrum],
    "logspec2": [MultiResolution],
    "cqt": [CQT],
    "wavelet": [WaveletPackets],
    "mfcc+wavelet": [MFCC, WaveletPackets],
    "waveform": [Waveform],
    "wav2vec2": [EncoderStates],
}
AS_THEY_ARE = ("waveform", "wav2vec2")  # kinds without deltas and normalisation
COMMON = ("sample_rate", "n_fft", "hop_length")  # settings that every kind accepts, used or not


def build(features: dict) -> FrontEnd:
    """The front-end that the section `features` of params.yaml describes.

    Parameters
    ----------
    features
        `kind` (a key of `KINDS`), `deltas` (0, 1 or 2), `normalise` (one of `normalise.WAYS`, default none), and the
        settings of that kind's class, all on one level. `waveform` and `wav2vec2` ignore `deltas` and `normalise`.

    Raises
    ------
    UserError
        If the kind or a setting is unknown, or what `params` cannot know, such as a wavelet or an encoder.

    Examples
    --------
    >>> front_end = build({"kind": "mfcc", "sample_rate": 16000, "n_mfcc": 20, "deltas": 2})
    >>> front_end.coefficients, front_end.channels, front_end(torch.zeros(1, 16000)).shape
    (60, 3, torch.Size([1, 60, 101]))
    """
    settings = dict(features)
    kind, deltas = settings.pop("kind", "mfcc"), settings.pop("deltas", 0)
    normalise = settings.pop("normalise", "none")
    if kind not in KINDS:
        raise UserError(f"features.kind: there is no {kind!r}; {files.nearest(kind, KINDS)}")
    takes = [set(inspect.signature(transform).parameters) for transform in KINDS[kind]]
    known = sorted({*COMMON, "deltas", "normalise"}.union(*takes))
    for name in settings:
        if name not in known:
            raise UserError(f"features.{name}: {kind} has no such setting; {files.nearest(name, known)}")
    transforms = [
        transform(**{name: value for name, value in settings.items() if name in names})
        for transform, names in zip(KINDS[kind], takes, strict=True)
    ]
    if kind in AS_THEY_ARE:
        return FrontEnd(transforms[0])
    return FrontEnd(transforms[0] if len(transforms) == 1 else Concat(transforms), deltas, normalise)


def channel_names(features: dict) -> list[str]:
    """Names of the channels of a feature map, for figures.

    >>> channel_names({"kind": "logspec2", "sample_rate": 16000, "n_fft": 256, "times": 4, "deltas": 0})
    ['windows of 16 ms', 'windows of 64 ms']
    """
    if features["kind"] == "wav2vec2":
        return [f"state {number}" for number in range(build(features).channels)]
    own = [""]
    if features["kind"] == "logspec2":
        sizes = features["n_fft"], features["times"] * features["n_fft"]
        own = [f"windows of {1000 * size / features['sample_rate']:.0f} ms" for size in sizes]
    slopes = ("", "slopes (delta)", "slopes of slopes (delta-delta)")[: features.get("deltas", 0) + 1]
    return [", ".join(filter(None, (part, words))) or "coefficients" for words in slopes for part in own]
