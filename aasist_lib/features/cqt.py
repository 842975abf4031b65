"""The constant-Q transform: filters of equal width in semitones, long at low and short at high frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aasist_lib.base.errors import UserError
from aasist_lib.features.bands import Bands, in_pieces

HANN_BANDWIDTH = 1.5  # equivalent noise bandwidth of a Hann window, in bins


class CQT(Bands):
    """Constant-Q power spectrum in decibels (J. Brown, Journal of the Acoustical Society of America 89, 1991).

    Window lengths and scaling follow `librosa.cqt` (white noise is flat). librosa halves the sampling rate from octave
    to octave, here every bin is computed at the full rate: for speech, values differ by 0.3 dB on average.

    Parameters
    ----------
    sample_rate, hop_length : as `MFCC`
    f_min : Hz, centre of the lowest bin, whose window sets `n_fft`
    bins_per_octave, n_bins : UserError if the highest bin exceeds half the sampling rate

    Examples
    --------
    >>> CQT(f_min=125.0, n_bins=48)(torch.zeros(2, 16000)).shape
    torch.Size([2, 48, 101])
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        hop_length: int = 160,
        f_min: float = 62.5,
        bins_per_octave: int = 12,
        n_bins: int = 83,
    ):
        step = 2 ** (2 / bins_per_octave)
        q = (step + 1) / (step - 1)
        frequencies = [f_min * 2 ** (bin / bins_per_octave) for bin in range(n_bins)]
        highest = frequencies[-1] * (1 + HANN_BANDWIDTH / 2 / q)
        if highest > sample_rate / 2:
            raise UserError(
                f"features.n_bins: the highest of {n_bins} bins reaches up to {highest:.0f} Hz, over half of "
                f"sample_rate: {sample_rate}; take fewer, or a lower f_min"
            )
        kernels = [_kernel(frequency, q * sample_rate / frequency, sample_rate) for frequency in frequencies]
        longest = 2 * kernels[0][1]
        super().__init__(sample_rate, longest, hop_length, n_bins)
        # One matrix per octave, as long as its longest window. Lengths halve from octave to octave, so all cost twice
        # the lowest; a single matrix would cost the lowest times the number of octaves.
        self._octaves = []
        for first in range(0, n_bins, bins_per_octave):
            octave = kernels[first : first + bins_per_octave]
            half = octave[0][1]
            matrix = torch.zeros(2 * half, len(octave), dtype=torch.complex128)
            for column, (kernel, before) in enumerate(octave):
                matrix[half - before : half - before + len(kernel), column] = kernel
            parts = torch.cat([matrix.real, matrix.imag], 1).float()
            self.register_buffer(f"octave_{first}", parts, persistent=False)
            self._octaves.append((f"octave_{first}", longest // 2 - half))

    def power(self, signal: Tensor) -> Tensor:
        octaves = []
        for name, skipped in self._octaves:
            kernels = getattr(self, name)
            frames = signal[..., skipped : signal.shape[-1] - skipped].unfold(-1, len(kernels), self.hop_length)
            octaves.append(in_pieces(lambda part, kernels=kernels: _power(part @ kernels), frames))
        return torch.cat(octaves, -1)


def _kernel(frequency: float, length: float, sample_rate: int) -> tuple[Tensor, int]:
    """A complex tone under a Hann window with unit gain times sqrt(length), and the samples before its centre."""
    before = math.ceil(length / 2)
    samples = torch.arange(-before, math.floor(length / 2), dtype=torch.float64)
    window = torch.hann_window(len(samples), dtype=torch.float64)
    tone = torch.polar(window, -2 * math.pi * frequency / sample_rate * samples)
    return tone * (math.sqrt(length) / window.sum()), before


def _power(parts: Tensor) -> Tensor:
    real, imaginary = parts.square().chunk(2, -1)
    return real + imaginary
