"""Adversarial changes of waveforms: FGSM (Goodfellow, Shlens and Szegedy 2015) and PGD (Madry et al. 2018)."""

import math
from collections.abc import Callable

from torch import Tensor


def pgd(
    gradient: Callable[[Tensor], Tensor],
    waveforms: Tensor,
    bound: Tensor | float,
    steps: int,
    *,
    peak: float = math.inf,
) -> Tensor:
    """Change waveforms along the sign of a gradient by projected gradient ascent; one step of it is FGSM.

    Parameters
    ----------
    gradient
        The gradient, at given waveforms, of what is to rise.
    waveforms
        (..., samples).
    bound
        Largest change of a sample; a tensor is broadcast against the waveforms.
    steps
        Number of steps of 2.5 / `steps` of the bound; a single one is the bound.
    peak
        Largest absolute value of a sample.
    """
    size = bound * (1.0 if steps == 1 else 2.5 / steps)
    changed = waveforms
    for _ in range(steps):
        moved = changed + size * gradient(changed).nan_to_num().sign()
        changed = moved.clamp(waveforms - bound, waveforms + bound).clamp(-peak, peak)
    return changed
