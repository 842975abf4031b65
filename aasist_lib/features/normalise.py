"""Mean and variance normalisation of coefficients over an utterance or a sliding window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aasist_lib.base import files
from aasist_lib.base.errors import UserError

SLIDING_SECONDS = 3.0
VARIANCE_FLOOR = 1e-2  # dB²: keeps silence, which hardly varies, from being scaled up to look like speech
WAYS = ("none", "cmn", "cmvn", "sliding_cmn", "sliding_cmvn")


class Normalise(nn.Module):
    """Subtract each coefficient's mean over time and, if asked, divide by its standard deviation.

    A fixed channel (microphone, distance, gain) adds a constant to coefficients in decibels, which this removes. A
    sliding window follows a channel that changes. Sums run in float64: float32 loses digits over long recordings.

    Parameters
    ----------
    how : one of `WAYS`; sliding windows span 3 s around each frame and shrink at both ends
    frame_rate : frames per second

    Examples
    --------
    >>> Normalise("cmn", 100.0)(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    tensor([[[-1.,  1.],
             [ 0.,  0.]]])
    """

    def __init__(self, how: str, frame_rate: float):
        super().__init__()
        if how not in WAYS:
            raise UserError(f"features.normalise: there is no {how!r}; {files.nearest(how, WAYS)}")
        self.how, self.variance = how, how.endswith("cmvn")
        self.half = round(SLIDING_SECONDS / 2 * frame_rate) if how.startswith("sliding") else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, coefficients, frames) to the same shape."""
        if self.how == "none":
            return x
        exact = x.double()
        exact = exact - exact.mean(-1, keepdim=True)  # centred first, so that the difference of squares below is stable
        if self.half is None:
            mean, square = 0, exact.square().mean(-1, keepdim=True) if self.variance else None
        else:
            mean = self._around(exact)
            square = self._around(exact.square()) if self.variance else None
        exact = exact - mean
        if self.variance:
            exact = exact * (square - mean**2).clamp(min=VARIANCE_FLOOR).rsqrt()
        return exact.to(x.dtype)

    def _around(self, x: Tensor) -> Tensor:
        """Mean over the sliding window of each frame."""
        count = x.shape[-1]
        sums = nn.functional.pad(x.cumsum(-1), (1, 0))  # over the first 0, 1, ..., all frames
        frame = torch.arange(count, device=x.device)
        first, end = (frame - self.half).clamp(min=0), (frame + self.half + 1).clamp(max=count)
        return (sums[..., end] - sums[..., first]) / (end - first)
