"""Delta and delta-delta coefficients."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError


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

    def forward(self, coefficients: Tensor) -> Tensor:
        """(batch, coefficients, frames) to the same shape."""
        frames = coefficients.shape[2]
        if not torch.compiler.is_exporting() and frames < self.WIDTH:
            raise UserError(
                f"an utterance of {frames} frames has no deltas: they take {self.WIDTH} frames; "
                "leave out recordings so short (extract.min_seconds), or set features.deltas: 0"
            )
        count = frames - self.WIDTH + 1
        slopes = coefficients[..., :count] * self.taps[0]
        for offset, tap in enumerate(self.taps[1:], 1):
            slopes.add_(coefficients[..., offset : offset + count], alpha=tap)
        nearest = torch.arange(frames, device=coefficients.device) - self.WIDTH // 2
        return slopes[..., nearest.clamp(min=0).clamp(max=count - 1)]
