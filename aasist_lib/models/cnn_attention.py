"""The default network: a small CNN, one self-attention layer, attentive statistics pooling.

Convolutions model local patterns of the coefficients and their deltas, attention relates distant frames (pitch or
timbre that is too constant over seconds). It trains in minutes on two CPU cores.
Shapes in comments: b utterances, c channels, k coefficients per channel, t frames, n tokens, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.models import layers

STEM, MIDDLE, TOP = 16, 32, 48  # feature maps of the three convolutional stages
MIN_FRAMES = 8


@dataclass(frozen=True)
class Options:
    """As in `models`; `spectrum` turns cepstra into smooth spectra, where neighbours are similar, by an inverse DCT."""

    coefficients: int = 60
    channels: int = 3
    width: int = 64
    heads: int = 4
    dropout: float = 0.3
    spectrum: bool = False
    head: str = "linear"

    def __post_init__(self):
        layers.check_rows(self, least=4)


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, (b, c, k, t) -> (b, out, k/stride, t)."""

    def __init__(self, channels: int, out: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, stride=(stride, 1), bias=False),
            layers.BatchNorm(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            layers.BatchNorm(out),
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride=(stride, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class CNNAttention(nn.Module):
    """CNN, self-attention and attentive pooling: features of at least 8 frames to logits.

    Examples
    --------
    >>> network = CNNAttention(Options(coefficients=60, channels=3)).eval()
    >>> network(torch.zeros(2, 60, 400)).shape
    torch.Size([2])
    """

    min_frames = MIN_FRAMES

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        rows = (options.coefficients // options.channels // 2 + 1) // 2  # after halving twice
        self.cnn = nn.Sequential(
            layers.Normalise(options.coefficients, options.channels, options.spectrum),  # (b, c, k, t)
            nn.Conv2d(options.channels, STEM, (3, 5), stride=(1, 2), padding=(1, 2), bias=False),
            nn.MaxPool2d(2),  # (b, STEM, k/2, t/4), early, since the layers before it cost most
            layers.BatchNorm(STEM),
            nn.ReLU(),
            Residual(STEM, MIDDLE),  # (b, MIDDLE, k/2, t/4)
            Residual(MIDDLE, TOP, stride=2),  # (b, TOP, k/4, t/4)
        )
        self.project = nn.Linear(TOP * rows, options.width)
        # No positional encoding: convolutions have mixed neighbouring tokens already, and without it the layer works at
        # lengths that it was not trained on.
        self.transformer = layers.Attention(options.width, options.heads, options.dropout)
        self.pool = layers.AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = layers.output(options.head, 2 * options.width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, coefficients, frames) to (batch,)."""
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, 2w)."""
        tokens, _ = self.transformer(self.tokens(features))
        return self.dropout(self.pool(tokens)[0])

    def tokens(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, t/4, w), the input of attention."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        return self.project(self.cnn(features).flatten(1, 2).transpose(1, 2))

    def attention(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Attention weights (b, heads, n, n), whose rows sum to 1, and pooling weights (b, n); use in `.eval()`."""
        tokens, between = self.transformer(self.tokens(features), need_weights=True)
        return between, self.pool(tokens)[1]
