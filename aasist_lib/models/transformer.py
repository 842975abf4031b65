"""A transformer over short stretches of the features.

Two strided convolutions turn six frames, all coefficients of them, into a token; a few layers of attention
relate the tokens; attentive statistics make one vector of any number of them.

Positions are relative: a convolution adds to each token what its neighbours are (as in Chu et al.: Conditional
positional encodings for vision transformers, 2021), which is the same at lengths not trained on, where a table
of positions has no rows.

Shapes in the comments: b utterances, k coefficients of all channels, t frames, n tokens, w width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.models import layers

MIN_FRAMES = 8
NEIGHBOURS = 15  # tokens that a token learns its position from


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
        Size of a token.
    heads : int
        Attention heads of a layer; they share the width.
    layers : int
        Layers of attention.
    dropout : float
        In attention, after it and before the last layer.
    head : str
        "linear", or "cosine" for the one-class softmax loss: the cosine with one learned direction.
    """

    coefficients: int = 60
    channels: int = 3
    width: int = 96
    heads: int = 4
    layers: int = 4
    dropout: float = 0.1
    head: str = "linear"

    def __post_init__(self):
        layers.check_options(self)
        if self.layers < 1:
            raise UserError(f"model.layers: {self.layers} is not at least 1")


class Positions(nn.Module):
    """Adds to each token what its neighbours are, every feature of the width for itself: (b, n, w) -> (b, n, w)."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, NEIGHBOURS, padding=NEIGHBOURS // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)


class Transformer(nn.Module):
    """Features of utterances to one logit each, higher for bona fide.

    Parameters
    ----------
    options : Options

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
            nn.Flatten(1, 2),  # (b, k, t): a token sees all coefficients at once
            nn.Conv1d(options.coefficients, width, 5, stride=2, padding=2, bias=False),
            layers.BatchNorm(width),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=3, padding=2),  # (b, w, t/6)
        )
        self.positions = Positions(width)
        self.layers = nn.ModuleList(
            layers.Attention(width, options.heads, options.dropout) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pool = layers.AttentiveStatistics(width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = layers.output(options.head, 2 * width)

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
        """(b, k, t) -> (b, 2w): what the last layer sees, in training with dropout."""
        tokens = self.tokens(features)
        for layer in self.layers:
            tokens, _ = layer(tokens)
        return self.dropout(self.pool(self.norm(tokens))[0])

    def tokens(self, features: Tensor) -> Tensor:
        """(b, k, t) -> (b, t/6, w): what attention sees, one token for six frames."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        return self.positions(self.cnn(features).transpose(1, 2))

    def attention(self, features: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
        """What the network attends to, for looking at; the network should be in `.eval()`.

        Returns
        -------
        between : Tensor (batch, heads, tokens, tokens)
            How much, in `layer`, the token of a row listens to that of a column; rows sum to 1.
        pooling : Tensor (batch, tokens)
            Share of each token in the final mean and deviation; sums to 1.
        """
        tokens, between = self.tokens(features), []
        for block in self.layers:
            tokens, weights = block(tokens, need_weights=True)
            between.append(weights)
        return between[layer], self.pool(self.norm(tokens))[1]
