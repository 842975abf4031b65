"""Front-ends on the short-time power spectrum: filter banks and their cepstra."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aasist_lib.base.errors import UserError
from aasist_lib.features.bands import Bands, in_pieces

BLOCK = 16  # filters per matrix product, see Spectrum


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Slaney's mel filters of unit area (Auditory Toolbox, 1998), as librosa's: (n_fft // 2 + 1, n_mels)."""
    hz_per_mel, knee = 200.0 / 3, 1000.0
    log_step = math.log(6.4) / 27
    half = sample_rate / 2
    top = half / hz_per_mel if half < knee else knee / hz_per_mel + math.log(half / knee) / log_step
    mels = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    above = knee * torch.exp(log_step * (mels - knee / hz_per_mel))
    edges = torch.where(mels < knee / hz_per_mel, mels * hz_per_mel, above)
    return (triangles(edges, sample_rate, n_fft) * 2 / (edges[2:] - edges[:-2])).float()


def linear_filters(sample_rate: int, n_fft: int, n_filters: int) -> Tensor:
    """Half-overlapping triangular filters of equal width and unit height: (n_fft // 2 + 1, n_filters)."""
    edges = torch.linspace(0, sample_rate / 2, n_filters + 2, dtype=torch.float64)
    return triangles(edges, sample_rate, n_fft).float()


def triangles(edges: Tensor, sample_rate: int, n_fft: int) -> Tensor:
    """Filters with feet and peaks at `edges` (filters + 2,), in Hz, height 1: (bins, filters), float64."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def equal_bands(n_fft: int, n_bands: int) -> Tensor:
    """Adjacent bands of equal width, each the mean over its bins and shares of bins: (n_fft // 2 + 1, n_bands)."""
    top = n_fft / 2  # all in bins
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]
    edges = torch.linspace(0, top, n_bands + 1, dtype=torch.float64)
    above = torch.minimum(bins + 0.5, edges[1:])
    shared = (above - torch.maximum(bins - 0.5, edges[:-1])).clamp(min=0)
    return (shared * n_bands / top).float()


def dct_matrix(n_in: int, n_out: int) -> Tensor:
    """The first `n_out` basis vectors of the orthonormal DCT-II, as columns: (n_in, n_out), float64."""
    points = torch.arange(n_in, dtype=torch.float64)[:, None] + 0.5
    basis = torch.cos(math.pi / n_in * points * torch.arange(n_out, dtype=torch.float64))
    basis *= math.sqrt(2 / n_in)
    basis[:, 0] /= math.sqrt(2)
    return basis


class Spectrum(Bands):
    """Power spectrum under a Hann window through a filter bank, (n_fft // 2 + 1, bands), in decibels."""

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, filters: Tensor):
        super().__init__(sample_rate, n_fft, hop_length, filters.shape[1])
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        # Nine tenths of the filter bank are zeros: products of 16 filters with just the bins they touch take half the
        # time of one large product.
        self._blocks = []
        for first in range(0, filters.shape[1], BLOCK):
            block = filters[:, first : first + BLOCK]
            touched = block.any(1).nonzero().flatten().tolist() or [0]
            bins, name = slice(touched[0], touched[-1] + 1), f"filters_{first}"
            self.register_buffer(name, block[bins].contiguous(), persistent=False)
            self._blocks.append((name, bins))

    def power(self, signal: Tensor) -> Tensor:
        return in_pieces(self._gathered, signal.unfold(-1, self.n_fft, self.hop_length))

    def _gathered(self, frames: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))
        squares = spectrum.square() if spectrum.requires_grad else spectrum.square_()
        power = squares[..., 0] + squares[..., 1]  # several times faster than abs(), which takes a root
        return torch.cat([power[..., bins] @ getattr(self, name) for name, bins in self._blocks], -1)


class Cepstrum(Spectrum):
    """The first coefficients of the orthonormal DCT-II of a filter bank's decibels."""

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, filters: Tensor, coefficients: int):
        super().__init__(sample_rate, n_fft, hop_length, filters)
        if coefficients > filters.shape[1]:
            raise UserError(f"features: {coefficients} cepstral coefficients cannot come from {filters.shape[1]} bands")
        self.coefficients = coefficients
        # The factor 10 of 10 log10 is folded into the DCT.
        self.register_buffer("dct", (10 * dct_matrix(filters.shape[1], coefficients)).float(), persistent=False)

    def finish(self, log_power: Tensor) -> Tensor:
        cepstrum = log_power @ self.dct
        # The first coefficient is a large plain sum; a matrix product adds one by one and would lose a digit of it,
        # `sum` adds pairwise.
        cepstrum[..., 0] = log_power.sum(-1) * self.dct[0, 0]
        return cepstrum


class MFCC(Cepstrum):
    """Mel-frequency cepstral coefficients, equal to `librosa.feature.mfcc`, batched and differentiable.

    Hann window, centred frames, power spectrum, Slaney mel filters, decibels, orthonormal DCT-II.

    Parameters
    ----------
    sample_rate : Hz
    n_mfcc, n_mels : coefficients kept, mel bands
    n_fft, hop_length : frame length and shift in samples

    Raises
    ------
    UserError
        If a setting is not a positive integer, or `n_mfcc` exceeds `n_mels`.

    Examples
    --------
    >>> mfcc = MFCC(sample_rate=16000)
    >>> mfcc(torch.zeros(2, 16000)).shape
    torch.Size([2, 20, 101])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mfcc: int = 20,
        n_fft: int = 512,
        hop_length: int = 160,
        n_mels: int = 64,
    ):
        super().__init__(sample_rate, n_fft, hop_length, mel_filters(sample_rate, n_fft, n_mels), n_mfcc)
        self.n_mfcc = n_mfcc


class LFCC(Cepstrum):
    """Linear-frequency cepstral coefficients: as `MFCC`, with `n_filters` triangular filters of equal width.

    They resolve high frequencies, where vocoders leave traces, as finely as low ones; the baseline of the ASVspoof
    challenges (M. Sahidullah, T. Kinnunen, C. Hanilçi, Interspeech 2015).

    Examples
    --------
    >>> LFCC(n_lfcc=30)(torch.zeros(2, 16000)).shape
    torch.Size([2, 30, 101])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_lfcc: int = 20,
        n_fft: int = 512,
        hop_length: int = 160,
        n_filters: int = 40,
    ):
        super().__init__(sample_rate, n_fft, hop_length, linear_filters(sample_rate, n_fft, n_filters), n_lfcc)


class LogMel(Spectrum):
    """Mel spectrogram in decibels, parameters as `MFCC`; equals librosa's `power_to_db(melspectrogram(...))`.

    >>> LogMel(n_mels=80)(torch.zeros(2, 16000)).shape
    torch.Size([2, 80, 101])
    """

    def __init__(self, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 160, n_mels: int = 64):
        super().__init__(sample_rate, n_fft, hop_length, mel_filters(sample_rate, n_fft, n_mels))


class LogSpectrum(Spectrum):
    """Spectrogram in decibels: mean power of `n_bands` bands of equal width, other parameters as `MFCC`.

    >>> LogSpectrum(n_bands=100)(torch.zeros(2, 16000)).shape
    torch.Size([2, 100, 101])
    """

    def __init__(self, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 160, n_bands: int = 80):
        super().__init__(sample_rate, n_fft, hop_length, equal_bands(n_fft, n_bands))
