"""What training makes small.

Each loss gives one number an utterance, from the network's output and a target between 0 (spoof) and 1 (bona fide). It
is linear in the target, so that of two utterances mixed together the losses mix alike.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from aasist_lib.base.errors import UserError

FOCUS = 2.0  # gamma of the focal loss
SCALE, REAL, FAKE = 20.0, 0.9, 0.2  # alpha and the two margins of the one-class softmax, as published


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of log odds of bona fide speech.

    Parameters
    ----------
    outputs, targets : Tensor
        (batch,) each.

    Returns
    -------
    Tensor
        (batch,), in nats.

    >>> import torch
    >>> cross_entropy(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensor([0.6931, 0.6931])
    """
    return -targets * logsigmoid(outputs) - (1 - targets) * logsigmoid(-outputs)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with little weight on what is told apart already (Lin and others, 2017; gamma 2).

    Parameters
    ----------
    outputs, targets : Tensor
        (batch,) each; outputs are log odds of bona fide speech.

    Returns
    -------
    Tensor
        (batch,), in nats.

    >>> import torch
    >>> focal(torch.zeros(1), torch.ones(1))
    tensor([0.1733])
    """
    real, fake = outputs.sigmoid(), (-outputs).sigmoid()
    return -targets * fake**FOCUS * logsigmoid(outputs) - (1 - targets) * real**FOCUS * logsigmoid(-outputs)


def one_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """One-class softmax (Zhang, Jiang and Duan, 2021): real voices near one direction, fakes anywhere away from it.

    Parameters
    ----------
    outputs, targets : Tensor
        (batch,) each; outputs are cosines between an utterance's embedding and that direction.

    Returns
    -------
    Tensor
        (batch,): log(1 + exp(20 (0.9 - c))) of a real voice, log(1 + exp(20 (c - 0.2))) of a fake.

    >>> import torch
    >>> one_class(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])).round(decimals=2)
    tensor([ 0.1300, 16.0000])
    """
    return targets * softplus(SCALE * (REAL - outputs)) + (1 - targets) * softplus(SCALE * (outputs - FAKE))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "one_class": one_class,
}
HEADS = {"one_class": "cosine"}  # what the network ends in, where not in a plain linear layer


def weighted(losses: Tensor, targets: Tensor, bonafide_weight: float) -> Tensor:
    """Mean over a batch, in which a real voice counts so many times as much as a fake.

    Parameters
    ----------
    losses, targets : Tensor
        (batch,) each.
    bonafide_weight : float
        1 for equal weights.

    Returns
    -------
    Tensor
        ().

    >>> import torch
    >>> weighted(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]), 3.0)
    tensor(1.5000)
    """
    weights = 1 + (bonafide_weight - 1) * targets
    return (weights * losses).sum() / weights.sum()


def named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name.

    Raises
    ------
    UserError
        There is none.
    """
    if name not in LOSSES:
        raise UserError(f"train.loss: there is no '{name}'; there are: {', '.join(LOSSES)}")
    return LOSSES[name]
