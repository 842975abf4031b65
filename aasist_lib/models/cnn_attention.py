"""The project's own network: a small CNN, one layer of self-attention, attentive statistics.

Convolutions see local patterns of the coefficients and their slopes; attention relates distant moments
(a voice whose pitch or timbre is too alike from one second to the next); pooling turns any number of frames
into one vector. It is small enough to train in minutes on two processor cores.

The layers it shares with other networks are in layers.py. Shapes are in the comments:
b utterances, c channels, k coefficients of a channel, t frames, n tokens, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.models import layers

STEM, MIDDLE, TOP = 16, 32, 48  # feature maps of the three convolutional stages
MIN_FRAMES = 8


@dataclass(frozen=True)
class Options:
    """What can be chosen about the network; `models.build` passes the params section `model` here.

    Attributes
    ----------
    coefficients : int
        Rows of the input, all channels together.
    channels : int
        Channels the rows divide into: static coefficients, slopes, slopes of the slopes.
    width : int
        Size of a token that attention sees.
    heads : int
        Attention heads; they share the width.
    dropout : float
        In attention, after it and before the last layer.
    spectrum : bool
        For cepstral features: an inverse DCT turns the scaled coefficients of each channel into as many bands of a
        smooth spectrum, since convolutions expect neighbours to be alike, which orders of a cepstrum are not.
    head : str
        "linear", or "cosine" for the one-class softmax loss: the cosine with one learned direction.
    """

    coefficients: int = 60
    channels: int = 3
    width: int = 64
    heads: int = 4
    dropout: float = 0.3
    spectrum: bool = False
    head: str = "linear"

    def __post_init__(self):
        layers.check_options(self, least=4)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, (b, c, k, t) -> (b, out, k/stride, t)."""

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
    """Features of utterances to one logit each, higher for bona fide.

    Parameters
    ----------
    options : Options

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
        rows = (options.coefficients // options.channels // 2 + 1) // 2  # left after the two halvings
        self.cnn = nn.Sequential(
            layers.Normalise(options.coefficients, options.channels, options.spectrum),  # (b, c, k, t)
            nn.Conv2d(options.channels, STEM, (3, 5), stride=(1, 2), padding=(1, 2), bias=False),
            nn.MaxPool2d(2),  # (b, STEM, k/2, t/4), this early because what comes before it costs most
            layers.BatchNorm(STEM),
            nn.ReLU(),
            Residual(STEM, MIDDLE),  # (b, MIDDLE, k/2, t/4)
            Residual(MIDDLE, TOP, stride=2),  # (b, TOP, k/4, t/4)
        )
        self.project = nn.Linear(TOP * rows, options.width)
        # No position is added: the convolutions have already mixed each token with its neighbours, and without
        # positions the layer works at lengths it was not trained on.
        self.transformer = layers.Attention(options.width, options.heads, options.dropout)
        self.pool = layers.AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = layers.output(options.head, 2 * options.width)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of utterances.

        Parameters
        ----------
        features : Tensor (batch, coefficients, frames)
            At least 8 frames, none of them padding.

        Returns
        -------
        Tensor (batch,)
        """
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, 2w): what the last layer sees, in training with dropout."""
        tokens, _ = self.transformer(self.tokens(features))
        return self.dropout(self.pool(tokens)[0])

    def tokens(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, t/4, w): what attention sees, one token for four frames."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        return self.project(self.cnn(features).flatten(1, 2).transpose(1, 2))

    def attention(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the network attends to, for looking at; the network should be in `.eval()`.

        Returns
        -------
        between : Tensor (batch, heads, tokens, tokens)
            How much the token of a row listens to that of a column; rows sum to 1.
        pooling : Tensor (batch, tokens)
            Share of each token in the final mean and deviation; sums to 1.
        """
        tokens, between = self.transformer(self.tokens(features), need_weights=True)
        return between, self.pool(tokens)[1]
