"""Base of the spectral front-ends: framing, power in bands, decibels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

AMIN = 1e-10  # power below which a band counts as silent (librosa.power_to_db)
TOP_DB = 80.0  # dynamic range kept below an utterance's loudest band
CACHE_FLOATS = 2**18  # windowed signal processed at a time; fits a core's cache along with the spectra


class Bands(nn.Module):
    """Power in bands per frame in decibels, clipped 80 dB below the utterance's loudest band.

    Frames are centred, with zero padding at both ends. The clipping is the same for all kinds. Without it, digital
    silence would be further from speech than any two voices from each other, and its gradient would not be finite.
    """

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, coefficients: int):
        super().__init__()
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        self.coefficients = coefficients

    def power(self, signal: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, bands); uncentred."""
        raise NotImplementedError

    def finish(self, log_power: Tensor) -> Tensor:
        """log10 power, (batch, frames, bands), to (batch, frames, coefficients)."""
        return 10 * log_power

    def forward(self, waveforms: Tensor) -> Tensor:
        power = self.power(nn.functional.pad(waveforms, (self.n_fft // 2, self.n_fft // 2)))
        return self.finish(torch.maximum(power, lowest(power)).log10()).transpose(1, 2)


def lowest(power: Tensor) -> Tensor:
    """The power, per utterance, to which bands are raised."""
    return (power.amax((1, 2), keepdim=True) * 10 ** (-TOP_DB / 10)).clamp(min=AMIN)


def in_pieces(work: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`work(frames)`, (batch, frames, samples), in pieces that fit the cache."""
    # the gradient of each slice would allocate zeros for the whole signal, and loops cannot be exported
    if frames.requires_grad or torch.compiler.is_exporting():
        return work(frames)
    piece = max(1, CACHE_FLOATS // frames.shape[2])
    return torch.stack([torch.cat([work(part) for part in utterance.split(piece)]) for utterance in frames])
