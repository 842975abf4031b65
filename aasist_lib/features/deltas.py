"""Delta and delta-delta coefficients."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.packing import pack, repeat, unpack


class Deltas(nn.Module):
    """Delta (`order` 1) or delta-delta (2) coefficients, as `librosa.feature.delta(width=9, order=order)`.

    A polynomial of degree `order` is fitted to nine frames (A. Savitzky and M. Golay, Analytical Chemistry 36, 1964).
    The four frames at either end take the value of the nearest full window. UserError for fewer than nine frames.

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
        """(batch, coefficients, frames) to the same shape; `frames`, (batch,), counts those before the padding."""
        parts = pack(coefficients.transpose(1, 2), frames)
        counts = [len(part) for part in parts]
        return unpack(self.packed(torch.cat(parts), counts), counts, coefficients.shape[2])

    def packed(self, x: Tensor, counts: list[int]) -> Tensor:
        if min(counts) < self.WIDTH:
            raise UserError(
                f"an utterance of {min(counts)} frames has no deltas: they take {self.WIDTH} frames; "
                "leave out recordings so short (extract.min_seconds), or set features.deltas: 0"
            )
        return self.inner(x).index_select(0, self.nearest(counts, x.device))

    def dense(self, x: Tensor) -> Tensor:
        first = torch.arange(x.shape[1], device=x.device) - self.WIDTH // 2
        return self.inner(x)[:, first.clamp(min=0).clamp(max=x.shape[1] - self.WIDTH)]

    def inner(self, x: Tensor) -> Tensor:
        """Derivative over every window of nine frames; windows of packed input may span two utterances."""
        count = x.shape[-2] - self.WIDTH + 1
        slopes = x[..., :count, :] * self.taps[0]
        for offset, tap in enumerate(self.taps[1:], 1):
            slopes.add_(x[..., offset : offset + count, :], alpha=tap)
        return slopes

    @classmethod
    def nearest(cls, counts: list[int], device) -> Tensor:
        """Per frame, the index of the window of its own utterance nearest around it."""
        counted, half = torch.tensor(counts, device=device), cls.WIDTH // 2
        ends = counted.cumsum(0)
        first = torch.arange(sum(counts), device=device) - half
        return first.maximum(repeat(ends - counted, counts)).minimum(repeat(ends - cls.WIDTH, counts))
