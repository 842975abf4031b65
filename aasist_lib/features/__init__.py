"""Front-ends: torch modules that turn waveforms into feature maps.

Shapes: waveforms are (batch, samples), float32, at the front-end's own sampling rate; feature maps are
(batch, coefficients, frames). Utterances of different lengths share a batch by padding at the end: `lengths` says
how many samples each one has, and every utterance then gets the values that it has alone.

Inside, and in what every module calls `packed`, nothing is padded: the frames of all utterances follow one another,
(frames, coefficients), with a list of how many each one has. That is also how the store keeps them. An exported
graph, which cannot hold lists, goes by `dense`: a batch of full length, (batch, frames, coefficients).

| kind | class | a frame |
|---|---|---|
| mfcc, lfcc | `MFCC`, `LFCC` | cepstrum: DCT of mel bands, of linear bands |
| logmel, logspec | `LogMel`, `LogSpectrum` | those bands themselves; bands of equal width |
| cqt | `CQT` | bins of equal width in semitones |
| wavelet | `WaveletPackets` | energies of wavelet packets |
| mfcc+wavelet | both in a `Stack` | one above the other |
| waveform | `Waveform` | a sample: nothing is done |
| wav2vec2 | `EncoderStates` | states of a pre-trained speech encoder |
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.features.bands import check_counts
from aasist_lib.features.cqt import CQT
from aasist_lib.features.deltas import Deltas
from aasist_lib.features.normalise import WAYS, Normalise
from aasist_lib.features.packing import pack, unpack
from aasist_lib.features.spectra import LFCC, MFCC, LogMel, LogSpectrum, dct_matrix, mel_filters
from aasist_lib.features.wav2vec2 import EncoderStates
from aasist_lib.features.wavelet import WaveletPackets

__all__ = [
    "CQT", "LFCC", "MFCC", "Deltas", "EncoderStates", "FrontEnd", "LogMel", "LogSpectrum", "Normalise", "Stack",
    "Waveform", "WaveletPackets", "build", "dct_matrix", "mel_filters", "sources",
]  # fmt: skip


class Waveform(nn.Module):
    """The waveform as it is, for networks that listen to sound: one coefficient, and a frame for each sample.

    Examples
    --------
    >>> Waveform()(torch.zeros(2, 16000)).shape
    torch.Size([2, 1, 16000])
    """

    coefficients = hop_length = n_fft = 1

    def __init__(self, sample_rate: int = 16000):
        check_counts(sample_rate=sample_rate)
        super().__init__()
        self.sample_rate = sample_rate

    def frames(self, samples):
        """As many as samples."""
        return samples

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, 1, samples); 0 past an utterance's own samples."""
        return unpack(*self.packed(pack(waveforms, lengths)), waveforms.shape[1])

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (samples of all, 1), and how many samples each one has."""
        return torch.cat(waveforms)[:, None], [len(waveform) for waveform in waveforms]

    def dense(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) to (batch, samples, 1)."""
        return waveforms[:, :, None]


class Stack(nn.Module):
    """The coefficients of several transforms one above the other; their frames are the same.

    Examples
    --------
    >>> Stack([MFCC(n_mfcc=20), WaveletPackets(level=5)])(torch.zeros(2, 16000)).shape
    torch.Size([2, 52, 101])
    """

    def __init__(self, transforms: Sequence[nn.Module]):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        first = transforms[0]
        self.sample_rate, self.n_fft, self.hop_length = first.sample_rate, first.n_fft, first.hop_length
        self.coefficients = sum(transform.coefficients for transform in transforms)
        self.frames = first.frames

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames); frames past an utterance's own are 0."""
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, coefficients), and how many frames each one has."""
        maps, counts = zip(*(transform.packed(waveforms) for transform in self.transforms), strict=True)
        return torch.cat(maps, 1), counts[0]

    def dense(self, waveforms: Tensor) -> Tensor:
        """(batch, samples), all of full length, to (batch, frames, coefficients)."""
        return torch.cat([transform.dense(waveforms) for transform in self.transforms], -1)


class TwoSpectra(Stack):
    """Log spectra in short windows and in long ones around the same moments, as two channels.

    In the short ones the single pulses of a voice show, in the long ones its harmonics; vocoders blur both, and no one
    window shows both.

    Parameters
    ----------
    sample_rate, n_fft, hop_length, n_bands : int
        As in LogSpectrum; `n_fft` is the short window.
    times : int
        How many times as long the long window is.

    Examples
    --------
    >>> TwoSpectra(n_fft=256, n_bands=80)(torch.zeros(2, 16000)).shape
    torch.Size([2, 160, 101])
    """

    channels = 2

    def __init__(
        self, sample_rate: int = 16000, n_fft: int = 256, hop_length: int = 160, n_bands: int = 80, times: int = 4
    ):
        check_counts(times=times)
        windows = (n_fft, times * n_fft)
        super().__init__([LogSpectrum(sample_rate, size, hop_length, n_bands) for size in windows])


class FrontEnd(nn.Module):
    """A transform, normalised, and its deltas: what params.yaml calls `features`. Made by `build`.

    Normalised are the coefficients of the transform, and the deltas are taken of the outcome: so they stay the slopes
    of the rows above them. A mean over the utterance changes no slope at all; a sliding one takes its own drift off
    them; a division scales them with their coefficient.

    It computes in the precision of its input, also where a network around it is cast to a lower one.

    Attributes
    ----------
    coefficients : int
        Rows of the feature map: those of the transform, then their slopes, then the slopes' slopes.
    channels : int
        1 + deltas, or how many states of an encoder: the map also reads as (channels, coefficients // channels,
        frames).
    sample_rate, hop_length : int
        In Hz, and in samples from one frame to the next.
    min_samples : int
        The shortest utterance that it takes.
    number : {"float32", "float16"}
        In which the store keeps its values.
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
        self.frames = transform.frames
        self.min_samples = getattr(transform, "min_samples", 1)
        if deltas:
            self.min_samples = (Deltas.WIDTH - 1) * self.hop_length + transform.n_fft % 2

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames); frames past an utterance's own are 0."""
        if lengths is None and torch.compiler.is_exporting():
            return self.dense(waveforms).transpose(1, 2)
        # Two or three digits, which bfloat16 has, do not carry sums over powers 80 dB apart.
        with torch.autocast(waveforms.device.type, enabled=False):
            return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, coefficients), and how many frames each one has."""
        static, counts = self.transform.packed(waveforms)
        static = self.normalise.packed(static, counts)
        return torch.cat([static, *(deltas.packed(static, counts) for deltas in self.deltas)], 1), counts

    def dense(self, waveforms: Tensor) -> Tensor:
        """(batch, samples), all of full length, to (batch, frames, coefficients), in operations that can be traced."""
        static = self.normalise(self.transform.dense(waveforms))
        return torch.cat([static, *(deltas.dense(static) for deltas in self.deltas)], -1)


KINDS = {
    "mfcc": [MFCC],
    "lfcc": [LFCC],
    "logmel": [LogMel],
    "logspec": [LogSpectrum],
    "logspec2": [TwoSpectra],
    "cqt": [CQT],
    "wavelet": [WaveletPackets],
    "mfcc+wavelet": [MFCC, WaveletPackets],
    "waveform": [Waveform],
    "wav2vec2": [EncoderStates],
}
AS_THEY_ARE = ("waveform", "wav2vec2")  # kinds of which no slopes are taken, and no means
COMMON = ("sample_rate", "n_fft", "hop_length")  # that every kind may be given, whether it needs them or not


def build(features: dict) -> FrontEnd:
    """The front-end that the section `features` of params.yaml describes.

    Parameters
    ----------
    features : dict
        `kind`, `deltas` (0, 1 or 2), `normalise` (one of `normalise.WAYS`; none where it is missing), and the
        settings of that kind's class, all on one level. `waveform` and `wav2vec2` take neither deltas nor
        normalisation, and have a hop of their own.

    Raises
    ------
    UserError
        If the kind or a setting is unknown or out of range.

    Examples
    --------
    >>> front_end = build({"kind": "mfcc", "sample_rate": 16000, "n_mfcc": 20, "deltas": 2})
    >>> front_end.coefficients, front_end.channels, front_end(torch.zeros(1, 16000)).shape
    (60, 3, torch.Size([1, 60, 101]))
    >>> build({"kind": "lcqt"})
    Traceback (most recent call last):
    ...
    aasist_lib.base.errors.UserError: features.kind: there is no 'lcqt'; did you mean 'cqt'?
    """
    settings = dict(features)
    kind, deltas = settings.pop("kind", "mfcc"), settings.pop("deltas", 0)
    normalise = settings.pop("normalise", "none")
    if kind not in KINDS:
        raise UserError(f"features.kind: there is no {kind!r}; {files.nearest(kind, KINDS)}")
    if deltas not in (0, 1, 2):
        raise UserError(f"features.deltas: {deltas!r} is not 0, 1 or 2")
    if normalise not in WAYS:
        raise UserError(f"features.normalise: there is no {normalise!r}; {files.nearest(normalise, WAYS)}")
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
    return FrontEnd(transforms[0] if len(transforms) == 1 else Stack(transforms), deltas, normalise)


def channel_names(features: dict) -> list[str]:
    """What the channels of a feature map are, in words for a figure.

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
