"""Slopes of coefficients over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.packing import pack, repeat, unpack


class Deltas(nn.Module):
    """Slopes of coefficients over time, the values of `librosa.feature.delta(width=9, order=order)`.

    A polynomial of degree `order` is fitted to nine frames around each frame (A. Savitzky and M. Golay,
    Analytical Chemistry 36, 1964); its derivative of that order is constant over the nine, so that the four
    frames at either end, which the first and the last nine decide, repeat their neighbour's value.

    Parameters
    ----------
    order : int
        1 for slopes, 2 for their slopes.

    Examples
    --------
    >>> Deltas(1)(3 * torch.arange(12.0)[None, None]).round(decimals=4).unique()
    tensor([3.])
    """

    WIDTH = 9

    def __init__(self, order: int = 1):
        super().__init__()
        offsets = torch.arange(self.WIDTH, dtype=torch.float64) - self.WIDTH // 2
        fit = torch.linalg.pinv(offsets[:, None] ** torch.arange(order + 1))
        self.order = order
        self.taps = (math.factorial(order) * fit[order]).tolist()

    def forward(self, coefficients: Tensor, frames: Tensor | None = None) -> Tensor:
        """(batch, coefficients, frames) to the same shape; frames past an utterance's own are 0.

        Parameters
        ----------
        coefficients : Tensor
            (batch, coefficients, frames).
        frames : Tensor, optional
            (batch,), frames of each utterance; without it all have the full number.

        Raises
        ------
        UserError
            If an utterance has fewer than nine frames, where the fit is not defined.
        """
        parts = pack(coefficients.transpose(1, 2), frames)
        counts = [len(part) for part in parts]
        return unpack(self.packed(torch.cat(parts), counts), counts, coefficients.shape[2])

    def packed(self, x: Tensor, counts: list[int]) -> Tensor:
        """(frames of all, coefficients) to the same shape."""
        if min(counts) < self.WIDTH:
            raise UserError(
                f"an utterance of {min(counts)} frames has no deltas: they take {self.WIDTH} frames; "
                "leave out recordings so short (extract.min_seconds), or set features.deltas: 0"
            )
        return self.inner(x).index_select(0, self.nearest(counts, x.device))

    def dense(self, x: Tensor) -> Tensor:
        """(batch, frames, coefficients), all of full length and of nine frames at least, to the same shape."""
        first = torch.arange(x.shape[1], device=x.device) - self.WIDTH // 2
        return self.inner(x)[:, first.clamp(min=0).clamp(max=x.shape[1] - self.WIDTH)]

    def inner(self, x: Tensor) -> Tensor:
        """Slopes over each nine frames that follow one another, of packed ones some in two utterances."""
        count = x.shape[-2] - self.WIDTH + 1
        slopes = x[..., :count, :] * self.taps[0]
        for offset, tap in enumerate(self.taps[1:], 1):
            slopes.add_(x[..., offset : offset + count, :], alpha=tap)
        return slopes

    @classmethod
    def nearest(cls, counts: list[int], device) -> Tensor:
        """For each frame, which nine of `inner` are those of its own utterance nearest around it."""
        counted, half = torch.tensor(counts, device=device), cls.WIDTH // 2
        ends = counted.cumsum(0)
        first = torch.arange(sum(counts), device=device) - half
        return first.maximum(repeat(ends - counted, counts)).minimum(repeat(ends - cls.WIDTH, counts))
