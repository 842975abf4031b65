"""Front-ends on the power spectrum of short frames: banks of filters, and cepstra of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aasist_lib.base.errors import UserError
from aasist_lib.features.bands import Bands, check_counts, in_pieces

BLOCK = 16  # filters that share a matrix product, see Spectrum


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of unit area.

    Linear below 1 kHz (66.7 Hz a mel), logarithmic above (a factor of 6.4 in 27 mels): M. Slaney, Auditory
    Toolbox, 1998, which is also what `librosa.filters.mel` computes by default.

    Parameters
    ----------
    sample_rate : int
        In Hz; the filters reach from 0 to half of it.
    n_fft : int
        Samples of a frame.
    n_mels : int
        Number of filters.

    Returns
    -------
    Tensor
        (n_fft // 2 + 1, n_mels), float32.

    Examples
    --------
    >>> mel_filters(16000, 512, 64).shape
    torch.Size([257, 64])
    """
    hz_per_mel, knee = 200.0 / 3, 1000.0
    log_step = math.log(6.4) / 27
    half = sample_rate / 2
    top = half / hz_per_mel if half < knee else knee / hz_per_mel + math.log(half / knee) / log_step
    mels = torch.linspace(0, top, n_mels + 2, dtype=torch.float64)
    above = knee * torch.exp(log_step * (mels - knee / hz_per_mel))
    edges = torch.where(mels < knee / hz_per_mel, mels * hz_per_mel, above)
    return (triangles(edges, sample_rate, n_fft) * 2 / (edges[2:] - edges[:-2])).float()


def linear_filters(sample_rate: int, n_fft: int, n_filters: int) -> Tensor:
    """Triangular filters of equal width and unit height, each half over the next: (n_fft // 2 + 1, n_filters).

    >>> linear_filters(16000, 512, 40).shape
    torch.Size([257, 40])
    """
    edges = torch.linspace(0, sample_rate / 2, n_filters + 2, dtype=torch.float64)
    return triangles(edges, sample_rate, n_fft).float()


def triangles(edges: Tensor, sample_rate: int, n_fft: int) -> Tensor:
    """Filters that rise from an edge, (filters + 2,), to 1 at the next and fall to the third; float64."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / n_fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def equal_bands(n_fft: int, n_bands: int) -> Tensor:
    """Bands of equal width, side by side from 0 to half the sampling rate: (n_fft // 2 + 1, n_bands), float32.

    A bin of the spectrum stands for the frequencies nearer to it than to its neighbours; a band is the mean over its
    own, with shares of the bins that its borders cut.

    >>> equal_bands(8, 2)
    tensor([[0.2500, 0.0000],
            [0.5000, 0.0000],
            [0.2500, 0.2500],
            [0.0000, 0.5000],
            [0.0000, 0.2500]])
    """
    top = n_fft / 2  # all in bins
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]
    edges = torch.linspace(0, top, n_bands + 1, dtype=torch.float64)
    above = torch.minimum(bins + 0.5, edges[1:])
    shared = (above - torch.maximum(bins - 0.5, edges[:-1])).clamp(min=0)
    return (shared * n_bands / top).float()


def dct_matrix(n_in: int, n_out: int) -> Tensor:
    """The first `n_out` rows of the orthonormal DCT-II of `n_in` points, as columns: (n_in, n_out), float64.

    Examples
    --------
    >>> basis = dct_matrix(8, 8)
    >>> bool(torch.allclose(basis.T @ basis, torch.eye(8, dtype=torch.float64)))
    True
    """
    points = torch.arange(n_in, dtype=torch.float64)[:, None] + 0.5
    basis = torch.cos(math.pi / n_in * points * torch.arange(n_out, dtype=torch.float64))
    basis *= math.sqrt(2 / n_in)
    basis[:, 0] /= math.sqrt(2)
    return basis


class Spectrum(Bands):
    """Power spectrum of frames under a Hann window, gathered by filters, in decibels.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As in `Bands`.
    filters : Tensor
        (n_fft // 2 + 1, bands), float32.
    """

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, filters: Tensor):
        super().__init__(sample_rate, n_fft, hop_length, filters.shape[1])
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        # Nine tenths of the filter bank are zeros. Neighbouring filters share their few bins, so that products
        # of 16 filters with just the bins they touch take half the time of the one large product.
        self._blocks = []
        for first in range(0, filters.shape[1], BLOCK):
            block = filters[:, first : first + BLOCK]
            touched = block.any(1).nonzero().flatten().tolist() or [0]
            bins, name = slice(touched[0], touched[-1] + 1), f"filters_{first}"
            self.register_buffer(name, block[bins].contiguous(), persistent=False)
            self._blocks.append((name, bins))

    def power(self, signal: Tensor, count: int | None = None) -> Tensor:
        """(..., samples) to (..., frames, bands)."""
        return in_pieces(self._gathered, signal.unfold(-1, self.n_fft, self.hop_length)[..., :count, :])

    def _gathered(self, frames: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))
        squares = spectrum.square() if spectrum.requires_grad else spectrum.square_()
        power = squares[..., 0] + squares[..., 1]  # several times quicker than abs(), which takes a root
        return torch.cat([power[..., bins] @ getattr(self, name) for name, bins in self._blocks], -1)


class Cepstrum(Spectrum):
    """The first so many coefficients of the orthonormal DCT-II of the decibels of a bank of filters."""

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, filters: Tensor, coefficients: int):
        super().__init__(sample_rate, n_fft, hop_length, filters)
        self.coefficients = coefficients
        # Decibels are 10 log10: the factor stands in the last matrix.
        self.register_buffer("dct", (10 * dct_matrix(filters.shape[1], coefficients)).float(), persistent=False)

    def finish(self, log_power: Tensor) -> Tensor:
        """(..., frames, bands) to (..., frames, coefficients)."""
        cepstrum = log_power @ self.dct
        # The first coefficient is a plain sum. Large as it is, a matrix product, which adds up its 64 numbers
        # one by one, would lose a digit of it; `sum` adds in pairs.
        cepstrum[..., 0] = log_power.sum(-1) * self.dct[0, 0]
        return cepstrum


class MFCC(Cepstrum):
    """Mel-frequency cepstral coefficients, the values of `librosa.feature.mfcc`, in batches and differentiable.

    Hann window, frames centred on multiples of `hop_length` with zeros beyond both ends, power spectrum,
    Slaney mel filters, decibels cut off 80 below the utterance's loudest band, orthonormal DCT-II.

    Parameters
    ----------
    sample_rate : int
        Of the waveforms, in Hz.
    n_mfcc, n_mels : int
        Coefficients kept, of so many mel bands.
    n_fft, hop_length : int
        Samples of a frame and between two frames.

    Raises
    ------
    UserError
        If a setting is not a positive whole number, or `n_mfcc` exceeds `n_mels`.

    Examples
    --------
    >>> mfcc = MFCC(sample_rate=16000)
    >>> mfcc(torch.zeros(2, 16000)).shape
    torch.Size([2, 20, 101])
    >>> a, b = torch.sin(torch.arange(8000) / 9), torch.sin(torch.arange(5000) / 7)
    >>> batch = torch.nn.utils.rnn.pad_sequence([a, b], batch_first=True)
    >>> together = mfcc(batch, torch.tensor([8000, 5000]))
    >>> bool(torch.allclose(together[1, :, : mfcc.frames(5000)], mfcc(b[None])[0], atol=1e-3))
    True
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mfcc: int = 20,
        n_fft: int = 512,
        hop_length: int = 160,
        n_mels: int = 64,
    ):
        check_counts(sample_rate=sample_rate, n_mfcc=n_mfcc, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels)
        if n_mfcc > n_mels:
            raise UserError(f"features.n_mfcc: {n_mfcc} coefficients cannot come from n_mels: {n_mels} bands")
        super().__init__(sample_rate, n_fft, hop_length, mel_filters(sample_rate, n_fft, n_mels), n_mfcc)
        self.n_mfcc = n_mfcc


class LFCC(Cepstrum):
    """Linear-frequency cepstral coefficients: as MFCC, with triangular filters of equal width up to half the rate.

    They resolve high frequencies as finely as low ones, where vocoders leave traces that mel bands blur; the
    baseline of the ASVspoof challenges (M. Sahidullah, T. Kinnunen, C. Hanilçi, Interspeech 2015).

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As in MFCC.
    n_lfcc, n_filters : int
        Coefficients kept, of so many filters.

    Raises
    ------
    UserError
        If a setting is not a positive whole number, or `n_lfcc` exceeds `n_filters`.

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
        check_counts(sample_rate=sample_rate, n_lfcc=n_lfcc, n_fft=n_fft, hop_length=hop_length, n_filters=n_filters)
        if n_lfcc > n_filters:
            raise UserError(f"features.n_lfcc: {n_lfcc} coefficients cannot come from n_filters: {n_filters}")
        super().__init__(sample_rate, n_fft, hop_length, linear_filters(sample_rate, n_fft, n_filters), n_lfcc)


class LogMel(Spectrum):
    """Mel bands in decibels: what MFCC takes its DCT of, librosa's `power_to_db(melspectrogram(...))`.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As in MFCC.
    n_mels : int
        Bands.

    Examples
    --------
    >>> LogMel(n_mels=80)(torch.zeros(2, 16000)).shape
    torch.Size([2, 80, 101])
    """

    def __init__(self, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 160, n_mels: int = 64):
        check_counts(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels)
        super().__init__(sample_rate, n_fft, hop_length, mel_filters(sample_rate, n_fft, n_mels))


class LogSpectrum(Spectrum):
    """The spectrogram in decibels, as the mean power of bands of equal width from 0 to half the sampling rate.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        As in MFCC.
    n_bands : int
        Bands; more than n_fft // 2 show no more detail.

    Examples
    --------
    >>> LogSpectrum(n_bands=100)(torch.zeros(2, 16000)).shape
    torch.Size([2, 100, 101])
    """

    def __init__(self, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 160, n_bands: int = 80):
        check_counts(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_bands=n_bands)
        super().__init__(sample_rate, n_fft, hop_length, equal_bands(n_fft, n_bands))
