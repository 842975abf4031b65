"""Utterances of different lengths together: padded to a batch, or packed, one after another, with their counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pack(padded: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The utterances of a batch without their padding: (batch, longest, ...) to a list of (length, ...)."""
    if lengths is None:
        return list(padded)
    return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]


def repeat(values: Tensor, counts: list[int]) -> Tensor:
    """(utterances,) to (frames of all,): the value of its utterance for each frame."""
    return values.repeat_interleave(torch.tensor(counts, device=values.device), output_size=sum(counts))


def unpack(packed: Tensor, counts: list[int], longest: int) -> Tensor:
    """(frames of all, coefficients) to (batch, coefficients, longest), zeros past an utterance's own frames."""
    padded = nn.utils.rnn.pad_sequence(packed.split(counts), batch_first=True)
    return nn.functional.pad(padded, (0, 0, 0, longest - max(counts))).transpose(1, 2)
