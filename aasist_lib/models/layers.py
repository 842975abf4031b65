"""Layers that several networks share; shapes: b utterances, c channels, k coefficients, t frames, n tokens, w width."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from aasist_lib.base.errors import UserError
from aasist_lib.features import dct_matrix


class BatchNorm(_BatchNorm):
    """Batch normalisation of (b, c, ...); torch's uses MKL's root, whose last bit differs between Intel and AMD.

    >>> norm = BatchNorm(2).eval()
    >>> norm.running_var.fill_(4 - norm.eps)
    tensor([4.0000, 4.0000])
    >>> norm(torch.tensor([[6.0, -2.0]])).tolist()
    [[3.0, -1.0]]
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.onnx.is_in_onnx_export():  # exported files keep the standard operator
            return super().forward(x)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))


class Normalise(nn.Module):
    """A learned scale per coefficient, the same for all utterances: (b, c*k, t) -> (b, c, k, t)."""

    def __init__(self, coefficients: int, channels: int, spectrum: bool = False):
        super().__init__()
        self.channels = channels
        self.scale = BatchNorm(coefficients)
        count = coefficients // channels
        basis = dct_matrix(count, count).float() if spectrum else None  # orthonormal: bands = basis @ cepstra
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(x).unflatten(1, (self.channels, -1))
        return x if self.basis is None else self.basis @ x


class Dropout(nn.Dropout):
    """`nn.Dropout` from 16 random bits per element; torch's doubles took a sixth of a training step in attention."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)  # of the 2^16 values of 16 bits
        if not self.training or not 0 < dropped < 2**16:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * (kept * (2**16 / (2**16 - dropped))).to(x.dtype)


class Attention(nn.Module):
    """A pre-norm transformer layer without positional encoding, (b, n, w) -> (b, n, w)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        y = self.norm1(x)
        if self.training and not need_weights:
            y, weights = self._attend(y), None
        else:
            # weights: (b, heads, n, n), rows are queries, columns keys
            y, weights = self.attention(y, y, y, need_weights=need_weights, average_attn_weights=False)
        x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.norm2(x))), weights

    def _attend(self, y: Tensor) -> Tensor:
        """`self.attention` of (b, n, w) in training: this module's dropout, no masks, no weights."""
        layer = self.attention
        parts = functional.linear(y, layer.in_proj_weight, layer.in_proj_bias).unflatten(2, (3, layer.num_heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (b, heads, n, w/heads) each
        weights = (q * layer.head_dim**-0.5 @ k.transpose(2, 3)).softmax(dim=3)
        return layer.out_proj((self.dropout(weights) @ v).transpose(1, 2).flatten(2))


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling, (b, n, w) -> (b, 2w) and weights (b, n) (Okabe et al., Interspeech 2018)."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.score(x).softmax(dim=1)  # (b, n, 1)
        mean = (weights * x).sum(dim=1)
        variance = (weights * (x - mean[:, None]).square()).sum(dim=1)
        # keeps the gradient of the root finite where all tokens are equal
        variance = variance.clamp(min=1e-5)
        # torch.sqrt is MKL's, whose last bit differs between Intel and AMD
        return torch.cat([mean, variance * variance.rsqrt()], dim=1), weights[..., 0]


class Cosine(nn.Linear):
    """Cosine between an embedding and a learned direction, (b, size) -> (b, 1), for one-class softmax.

    >>> layer = Cosine(3)
    >>> round(layer(5 * layer.weight.detach()).item(), 5)
    1.0
    """

    def __init__(self, size: int):
        super().__init__(size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.normalize(x), functional.normalize(self.weight)).clamp(-1, 1)


def output(head: str, size: int) -> nn.Linear:
    """The last layer, (b, size) -> (b, 1), for the option `head`."""
    return Cosine(size) if head == "cosine" else nn.Linear(size, 1)


def check_rows(options, least: int) -> None:
    """Refuse to build a network that needs `least` coefficients a channel for features that have fewer."""
    if (rows := options.coefficients // options.channels) < least:
        raise UserError(f"model.name: this network needs at least {least} coefficients a channel, not {rows}")


def check_waveforms(options, name: str) -> None:
    """Refuse to build the waveform network `name` for features."""
    if options.coefficients != 1 or options.channels != 1:
        raise UserError(f"model.name: {name} takes waveforms: set features.kind: waveform")


def check_features(features: Tensor, coefficients: int, frames: int) -> None:
    """Refuse features with another number of coefficients, 1 for waveforms, or fewer than `frames` frames."""
    if features.ndim != 3 or features.shape[1] != coefficients or features.shape[2] < frames:
        raise UserError(
            f"the network takes features of shape (batch, {coefficients}, {frames} or more), "
            f"not {tuple(features.shape)}"
        )
