"""Coefficients relative to their utterance, or to the seconds around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLIDING_SECONDS = 3.0
VARIANCE_FLOOR = 1e-2  # dB²: what varies less, such as silence, is not blown up to look like speech
WAYS = ("none", "mean", "mean_variance", "sliding_mean", "sliding_mean_variance")


class Normalise(nn.Module):
    """Takes the mean over time off each coefficient and, if asked, divides by its standard deviation.

    A fixed channel (microphone, distance, gain) adds a constant to each coefficient in decibels: the mean takes it
    away. Sliding means follow a channel that changes, and treat a long recording as the short ones it is made of.

    Sums run in double precision: over a long recording, single would lose what differs between two of them.

    Parameters
    ----------
    how : str
        One of `WAYS`: over the whole utterance, or sliding: over the 3 s around each frame, which shrink to what
        there is of them near either end.
    frame_rate : float
        Frames a second.

    Examples
    --------
    >>> Normalise("mean", 100.0)(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    def __init__(self, how: str, frame_rate: float):
        super().__init__()
        self.how, self.variance = how, how.endswith("variance")
        self.half = round(SLIDING_SECONDS / 2 * frame_rate) if how.startswith("sliding") else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., frames, coefficients) to the same shape."""
        if self.how == "none":
            return x
        exact = x.double()
        exact = exact - exact.mean(-2, keepdim=True)  # small numbers, whose squares may be subtracted
        if self.half is None:
            mean, square = 0, exact.square().mean(-2, keepdim=True) if self.variance else None
        else:
            mean = self._around(exact)
            square = self._around(exact.square()) if self.variance else None
        exact = exact - mean
        if self.variance:
            exact = exact * (square - mean**2).clamp(min=VARIANCE_FLOOR).rsqrt()
        return exact.to(x.dtype)

    def packed(self, x: Tensor, counts: list[int]) -> Tensor:
        """(frames of all, coefficients) to the same shape, each utterance over its own frames."""
        return x if self.how == "none" else torch.cat([self(part) for part in x.split(counts)])

    def _around(self, x: Tensor) -> Tensor:
        """Mean over the frames around each frame."""
        count = x.shape[-2]
        sums = nn.functional.pad(x.cumsum(-2), (0, 0, 1, 0))  # of the first 0, 1, ..., all frames
        frame = torch.arange(count, device=x.device)
        first, end = (frame - self.half).clamp(min=0), (frame + self.half + 1).clamp(max=count)
        return (sums[..., end, :] - sums[..., first, :]) / (end - first)[:, None]
