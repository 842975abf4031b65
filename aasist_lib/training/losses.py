"""Training losses: outputs and targets, 0 (spoof) to 1 (bona fide), (batch,) each, to a loss per utterance, in nats.

All are linear in the target, so that mixup mixes the losses alike.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

GAMMA = 2.0  # gamma of the focal loss
ALPHA, M_REAL, M_FAKE = 20.0, 0.9, 0.2  # alpha and the two margins of the one-class softmax, as published


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy; outputs are log odds of bona fide."""
    return -targets * logsigmoid(outputs) - (1 - targets) * logsigmoid(-outputs)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Focal loss with gamma 2 (Lin et al., 2017): little weight on easy utterances; outputs are log odds."""
    real, fake = outputs.sigmoid(), (-outputs).sigmoid()
    return -targets * fake**GAMMA * logsigmoid(outputs) - (1 - targets) * real**GAMMA * logsigmoid(-outputs)


def one_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """One-class softmax (Zhang, Jiang and Duan, 2021); outputs are cosines with a learned direction."""
    return targets * softplus(ALPHA * (M_REAL - outputs)) + (1 - targets) * softplus(ALPHA * (outputs - M_FAKE))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "one_class": one_class,
}
HEADS = {"one_class": "cosine"}  # option `head` of the network, where not linear


def weighted(losses: Tensor, targets: Tensor, bonafide_weight: float) -> Tensor:
    """Mean over a batch in which bona fide utterances have weight `bonafide_weight` and spoofs 1."""
    weights = 1 + (bonafide_weight - 1) * targets
    return (weights * losses).sum() / weights.sum()
