"""SE-ResNet: residual convolutions whose feature maps are weighted by squeeze and excitation.

The kind of network that did best on cepstra in several ASVspoof challenges, thin enough for two processor
cores: maps shrink early, since what comes before costs most.

- He, Zhang, Ren and Sun: Deep residual learning for image recognition (2016)
- Hu, Shen and Sun: Squeeze-and-excitation networks (2018)

Shapes in the comments: b utterances, c channels, k coefficients of a channel, t frames, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.models import layers

MIN_FRAMES = 8
# maps of a stage in widths of the first, and what it divides (coefficients, frames) by
STAGES = [(1, (1, 1)), (2, (2, 2)), (4, (2, 2)), (8, (2, 1))]


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
        Feature maps of the first stage; each stage has twice those of the one before.
    dropout : float
        Before the last layer.
    head : str
        "linear", or "cosine" for the one-class softmax loss: the cosine with one learned direction.
    """

    coefficients: int = 60
    channels: int = 3
    width: int = 16
    dropout: float = 0.3
    head: str = "linear"

    def __post_init__(self):
        layers.check_options(self, least=4)


class Excite(nn.Module):
    """Squeeze and excitation: each map times a share from 0 to 1 that the means of all maps decide, (b, c, k, t)."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 8, 4)
        self.share = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.share(x.mean(dim=(2, 3)))[:, :, None, None]


class Residual(nn.Module):
    """Two 3x3 convolutions and squeeze and excitation beside a shortcut.

    (b, c, k, t) -> (b, out, k/stride[0], t/stride[1])
    """

    def __init__(self, channels: int, out: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, stride=stride, bias=False),
            layers.BatchNorm(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            layers.BatchNorm(out),
            Excite(out),
        )
        if channels == out and stride == (1, 1):
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), layers.BatchNorm(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Features of utterances to one logit each, higher for bona fide.

    Parameters
    ----------
    options : Options

    Examples
    --------
    >>> network = ResNet(Options(coefficients=60, channels=3)).eval()
    >>> network(torch.zeros(2, 60, 400)).shape
    torch.Size([2])
    """

    min_frames = MIN_FRAMES

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        maps = options.width
        rows = options.coefficients // options.channels // 2
        blocks = []
        for factor, stride in STAGES:
            out = factor * options.width
            blocks += [Residual(maps, out, stride), Residual(out, out)]
            maps, rows = out, -(-rows // stride[0])
        self.cnn = nn.Sequential(
            layers.Normalise(options.coefficients, options.channels),  # (b, c, k, t)
            nn.Conv2d(options.channels, options.width, (3, 5), stride=(1, 2), padding=(1, 2), bias=False),
            nn.MaxPool2d(2),  # (b, w, k/2, t/4)
            layers.BatchNorm(options.width),
            nn.ReLU(),
            *blocks,  # (b, 8w, k/16, t/16)
        )
        self.project = nn.Linear(maps * rows, maps)
        self.pool = layers.AttentiveStatistics(maps)
        self.dropout = nn.Dropout(options.dropout)
        self.output = layers.output(options.head, 2 * maps)

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
        """(b, c*k, t) -> (b, 16w): what the last layer sees, in training with dropout."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        moments = self.project(self.cnn(features).flatten(1, 2).transpose(1, 2))  # (b, t/16, 8w)
        return self.dropout(self.pool(moments)[0])
