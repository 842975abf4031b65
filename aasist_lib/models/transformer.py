"""A transformer on tokens of six frames, which two strided convolutions make.

Positions are relative: a depthwise convolution over tokens (conditional positional encoding, Chu et al., 2021) works at
lengths not seen in training, where a table of positions has no rows.
Shapes in comments: b utterances, k coefficients of all channels, t frames, n tokens, w width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from aasist_lib.models import layers

MIN_FRAMES = 8
NEIGHBOURS = 15  # tokens, kernel of the positional encoding


@dataclass(frozen=True)
class Options:
    """As in `models`; `layers` is the number of attention layers."""

    coefficients: int = 60
    channels: int = 3
    width: int = 96
    heads: int = 4
    layers: int = 4
    dropout: float = 0.1
    head: str = "linear"


class ConvPositions(nn.Module):
    """Conditional positional encoding: a depthwise convolution over tokens, added to them, (b, n, w)."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, NEIGHBOURS, padding=NEIGHBOURS // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)


class Transformer(nn.Module):
    """Convolutional tokens, attention layers, attentive pooling: features of at least 8 frames to logits.

    Examples
    --------
    >>> import torch
    >>> network = Transformer(Options(coefficients=60, channels=3)).eval()
    >>> network(torch.zeros(2, 60, 400)).shape
    torch.Size([2])
    """

    min_frames = MIN_FRAMES

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        width = options.width
        self.cnn = nn.Sequential(
            layers.Normalise(options.coefficients, options.channels),
            nn.Flatten(1, 2),  # (b, k, t): a token covers all coefficients
            nn.Conv1d(options.coefficients, width, 5, stride=2, padding=2, bias=False),
            layers.BatchNorm(width),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=3, padding=2),  # (b, w, t/6)
        )
        self.positions = ConvPositions(width)
        self.layers = nn.ModuleList(
            layers.Attention(width, options.heads, options.dropout) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pool = layers.AttentiveStatistics(width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = layers.output(options.head, 2 * width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, coefficients, frames) to (batch,)."""
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, k, t) -> (b, 2w)."""
        tokens = self.tokens(features)
        for layer in self.layers:
            tokens, _ = layer(tokens)
        return self.dropout(self.pool(self.norm(tokens))[0])

    def tokens(self, features: Tensor) -> Tensor:
        """(b, k, t) -> (b, t/6, w), the input of attention."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        return self.positions(self.cnn(features).transpose(1, 2))

    def attention(self, features: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
        """As `CNNAttention.attention`, with the weights of `layer`."""
        tokens, between = self.tokens(features), []
        for block in self.layers:
            tokens, weights = block(tokens, need_weights=True)
            between.append(weights)
        return between[layer], self.pool(self.norm(tokens))[1]
