"""What all front-ends but the waveform share: frames of a signal, power in bands, decibels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.packing import pack, repeat, unpack

AMIN = 1e-10  # power below which a band counts as silent (librosa.power_to_db)
TOP_DB = 80.0  # an utterance's bands are cut off this far below its loudest one
CACHE_FLOATS = 2**18  # of windowed signal at a time: what a core's cache holds beside the spectra


class Bands(nn.Module):
    """Power in bands, frame by frame, in decibels: 10 log10, cut off 80 below the utterance's loudest band.

    Frames are centred on multiples of `hop_length`, with zeros beyond both ends. A subclass says what `power` lies
    in which band, and may make coefficients of the decibels in `finish`.

    The cut-off is the same for all kinds. Without it digital silence, which codecs and editors leave behind, would
    lie further from speech than any difference between voices, and its gradient would not be finite.

    Parameters
    ----------
    sample_rate : int
        Of the waveforms, in Hz.
    n_fft : int
        Samples that a frame sees.
    hop_length : int
        Samples between two frames.
    coefficients : int
        Of each frame.
    """

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, coefficients: int):
        super().__init__()
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        self.coefficients = coefficients

    def power(self, signal: Tensor, count: int | None = None) -> Tensor:
        """(..., samples) to (..., frames, bands): of the first `count` frames that fit in, or all; none centred."""
        raise NotImplementedError

    def finish(self, log_power: Tensor) -> Tensor:
        """(..., frames, bands), log10 of power, to (..., frames, coefficients)."""
        return 10 * log_power

    def frames(self, samples):
        """Frames of an utterance of so many samples (an int or a tensor): 1 + samples // hop_length.

        (For the rare odd n_fft, what librosa gives: one sample less.)
        """
        return 1 + (samples - self.n_fft % 2) // self.hop_length

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames); frames past an utterance's own are 0.

        Parameters
        ----------
        waveforms : Tensor
            (batch, samples), floating point.
        lengths : Tensor, optional
            (batch,), samples of each utterance, at least 1; without it all have the full length.
        """
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, coefficients), and how many frames each one has."""
        counts = [self.frames(len(waveform)) for waveform in waveforms]
        tail = -(-self.n_fft // self.hop_length) - 1  # windows that reach over the end of an utterance
        spans = [count + tail for count in counts]
        power = self.power(self._signal(waveforms, spans), sum(spans))
        parts = zip(power.split(spans), counts, strict=True)
        floor = lowest(torch.stack([part[:count].amax() for part, count in parts]))
        found = self.finish(torch.maximum(power, repeat(floor, spans)[:, None]).log10())
        own = torch.arange(sum(counts), device=found.device)
        return found.index_select(0, own + repeat(tail * torch.arange(len(counts), device=own.device), counts)), counts

    def dense(self, waveforms: Tensor) -> Tensor:
        """(batch, samples), all of full length, to (batch, frames, coefficients), in operations that can be traced."""
        power = self.power(nn.functional.pad(waveforms, (self.n_fft // 2, self.n_fft // 2)))
        return self.finish(torch.maximum(power, lowest(power.amax((1, 2), keepdim=True))).log10())

    def _signal(self, waveforms: list[Tensor], spans: list[int]) -> Tensor:
        """All utterances in one signal, each at a multiple of the hop with zeros around it.

        A single strided view then holds all frames, to be worked through in even pieces. The three frames or so
        that lie between two utterances are computed for nothing.
        """
        half = self.n_fft // 2
        zeros = waveforms[0].new_zeros(self.n_fft + self.hop_length)
        parts = [zeros[:half]]
        for waveform, span in zip(waveforms, spans, strict=True):
            used = waveform[: span * self.hop_length - half]  # the last window may not reach the last samples
            parts += [used, zeros[: span * self.hop_length - len(used)]]
        return torch.cat([*parts, zeros[: self.n_fft - half]])


def lowest(loudest: Tensor) -> Tensor:
    """Power at which an utterance is cut off whose loudest band has so much."""
    return (loudest * 10 ** (-TOP_DB / 10)).clamp(min=AMIN)


def in_pieces(work: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`work(frames)`, a cache's worth of frames at a time where they are packed: (frames, samples)."""
    # Gradients through many slices would each cost a signal's worth of zeros: then all at once.
    if frames.requires_grad or frames.dim() > 2:
        return work(frames)
    piece = max(1, CACHE_FLOATS // frames.shape[1])
    return torch.cat([work(frames[start : start + piece]) for start in range(0, len(frames), piece)])


def check_counts(**settings) -> None:
    """Refuse what is not a positive whole number."""
    for name, value in settings.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"features.{name}: {value!r} is not a positive whole number")
