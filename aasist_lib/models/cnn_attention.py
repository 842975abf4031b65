"""The project's own network: a small CNN, one layer of self-attention, attentive statistics.

Convolutions see local patterns of the coefficients and their slopes; attention relates distant moments
(a voice whose pitch or timbre is too alike from one second to the next); pooling turns any number of frames
into one vector. It is small enough to train in minutes on two processor cores.

The whole network is in this file, top to bottom; shapes are in the comments:
b utterances, c channels, k coefficients of a channel, t frames, n tokens, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.errors import UserError
from aasist_lib.features import dct_matrix

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
    """

    coefficients: int = 60
    channels: int = 3
    width: int = 64
    heads: int = 4
    dropout: float = 0.3
    spectrum: bool = False

    def __post_init__(self):
        if self.channels < 1 or self.coefficients % self.channels:
            raise UserError(f"{self.coefficients} coefficients do not divide into {self.channels} channels")
        if self.coefficients // self.channels < 4:
            raise UserError(
                f"cnn_attention needs at least 4 coefficients a channel, not {self.coefficients // self.channels}"
            )
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"model.width: {self.width} is not a multiple of model.heads, {self.heads}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout: {self.dropout} is not between 0 and 1")


class Normalise(nn.Module):
    """(b, c*k, t) -> (b, c, k, t): every coefficient scaled alike for all utterances.

    The scale is a batch normalisation's, so it is learned once and loudness of movement within an
    utterance (which differs between voices) is kept.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.channels = options.channels
        self.scale = nn.BatchNorm1d(options.coefficients)
        count = options.coefficients // options.channels
        basis = dct_matrix(count, count).float() if options.spectrum else None  # orthonormal: bands = basis @ cepstra
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(x).unflatten(1, (self.channels, -1))
        return x if self.basis is None else self.basis @ x


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, (b, c, k, t) -> (b, out, k/stride, t)."""

    def __init__(self, channels: int, out: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, stride=(stride, 1), bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride=(stride, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Transformer(nn.Module):
    """One pre-norm transformer layer, (b, n, w) -> (b, n, w).

    No position is added: the convolutions below have already mixed each token with its neighbours, and
    without positions the layer works at lengths it was not trained on.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.norm1 = nn.LayerNorm(options.width)
        self.attention = nn.MultiheadAttention(options.width, options.heads, dropout=options.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(options.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(options.width, 2 * options.width),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(2 * options.width, options.width),
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        y = self.norm1(x)
        # weights: (b, heads, n, n), row = the token that listens, column = the one listened to
        y, weights = self.attention(y, y, y, need_weights=need_weights, average_attn_weights=False)
        x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.norm2(x))), weights


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over tokens, weighted by attention: (b, n, w) -> (b, 2w), (b, n).

    Okabe, Koshinaka and Shinoda: Attentive statistics pooling for deep speaker embedding (2018).
    """

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.score(x).softmax(dim=1)  # (b, n, 1)
        mean = (weights * x).sum(dim=1)
        variance = (weights * (x - mean[:, None]).square()).sum(dim=1)
        # the floor keeps the root's slope finite where all tokens are alike
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1), weights[..., 0]


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

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        rows = (options.coefficients // options.channels // 2 + 1) // 2  # left after the two halvings
        self.cnn = nn.Sequential(
            Normalise(options),  # (b, c, k, t)
            nn.Conv2d(options.channels, STEM, (3, 5), stride=(1, 2), padding=(1, 2), bias=False),
            nn.MaxPool2d(2),  # (b, STEM, k/2, t/4), this early because what comes before it costs most
            nn.BatchNorm2d(STEM),
            nn.ReLU(),
            Residual(STEM, MIDDLE),  # (b, MIDDLE, k/2, t/4)
            Residual(MIDDLE, TOP, stride=2),  # (b, TOP, k/4, t/4)
        )
        self.project = nn.Linear(TOP * rows, options.width)
        self.transformer = Transformer(options)
        self.pool = AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(2 * options.width, 1)

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
        tokens, _ = self.transformer(self.tokens(features))
        pooled, _ = self.pool(tokens)
        return self.output(self.dropout(pooled))[:, 0]

    def tokens(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, t/4, w): what attention sees, one token for four frames."""
        if features.shape[1] != self.options.coefficients or features.shape[2] < MIN_FRAMES:
            raise UserError(
                f"the network takes {self.options.coefficients} coefficients and at least {MIN_FRAMES} frames, "
                f"not {features.shape[1]} and {features.shape[2]}"
            )
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
