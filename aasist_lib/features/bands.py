"""Base of the spectral front-ends: framing, power in bands, decibels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aasist_lib.features.packing import pack, repeat, unpack

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

    def power(self, signal: Tensor, count: int | None = None) -> Tensor:
        """(..., samples) to (..., frames, bands); uncentred, at most `count` frames."""
        raise NotImplementedError

    def finish(self, log_power: Tensor) -> Tensor:
        """log10 power, (..., frames, bands), to (..., frames, coefficients)."""
        return 10 * log_power

    def frames(self, samples):
        """Frames of an utterance of so many samples (int or tensor); for odd `n_fft` as librosa counts them."""
        return 1 + (samples - self.n_fft % 2) // self.hop_length

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        counts = [self.frames(len(waveform)) for waveform in waveforms]
        tail = -(-self.n_fft // self.hop_length) - 1  # windows that reach past the end of an utterance
        spans = [count + tail for count in counts]
        power = self.power(self._signal(waveforms, spans), sum(spans))
        parts = zip(power.split(spans), counts, strict=True)
        floor = lowest(torch.stack([part[:count].amax() for part, count in parts]))
        found = self.finish(torch.maximum(power, repeat(floor, spans)[:, None]).log10())
        own = torch.arange(sum(counts), device=found.device)
        return found.index_select(0, own + repeat(tail * torch.arange(len(counts), device=own.device), counts)), counts

    def dense(self, waveforms: Tensor) -> Tensor:
        power = self.power(nn.functional.pad(waveforms, (self.n_fft // 2, self.n_fft // 2)))
        return self.finish(torch.maximum(power, lowest(power.amax((1, 2), keepdim=True))).log10())

    def _signal(self, waveforms: list[Tensor], spans: list[int]) -> Tensor:
        """All utterances, zero-padded to multiples of the hop, in one signal: one strided view holds all frames."""
        half = self.n_fft // 2
        zeros = waveforms[0].new_zeros(self.n_fft + self.hop_length)
        parts = [zeros[:half]]
        for waveform, span in zip(waveforms, spans, strict=True):
            used = waveform[: span * self.hop_length - half]  # the last window may not reach the last samples
            parts += [used, zeros[: span * self.hop_length - len(used)]]
        return torch.cat([*parts, zeros[: self.n_fft - half]])


def lowest(loudest: Tensor) -> Tensor:
    return (loudest * 10 ** (-TOP_DB / 10)).clamp(min=AMIN)


def in_pieces(work: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`work(frames)`, where packed, (frames, samples), in pieces that fit the cache."""
    # The gradient of each slice would allocate zeros for the whole signal.
    if frames.requires_grad or frames.dim() > 2:
        return work(frames)
    piece = max(1, CACHE_FLOATS // frames.shape[1])
    return torch.cat([work(frames[start : start + piece]) for start in range(0, len(frames), piece)])
