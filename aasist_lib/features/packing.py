"""Conversion between padded batches and packed frames (utterances concatenated, with their counts)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pack(padded: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Remove padding: (batch, longest, ...) to a list of (length, ...)."""
    if lengths is None:
        return list(padded)
    return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]


def repeat(values: Tensor, counts: list[int]) -> Tensor:
    """(utterances,) to (all frames,): each value repeated for the frames of its utterance."""
    return values.repeat_interleave(torch.tensor(counts, device=values.device), output_size=sum(counts))


def unpack(packed: Tensor, counts: list[int], longest: int) -> Tensor:
    """(all frames, coefficients) to (batch, coefficients, longest), zero-padded."""
    padded = nn.utils.rnn.pad_sequence(packed.split(counts), batch_first=True)
    return nn.functional.pad(padded, (0, 0, 0, longest - max(counts))).transpose(1, 2)
