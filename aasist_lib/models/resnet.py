"""SE-ResNet, residual convolutions with squeeze and excitation, which did well on cepstra in ASVspoof challenges.

He et al.: Deep residual learning for image recognition (2016); Hu et al.: Squeeze-and-excitation networks (2018).
Shapes in comments: b utterances, c channels, k coefficients per channel, t frames, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.models import layers

MIN_FRAMES = 8
# of each stage: feature maps over `width`, and stride in (coefficients, frames)
STAGES = [(1, (1, 1)), (2, (2, 2)), (4, (2, 2)), (8, (2, 1))]


@dataclass(frozen=True)
class Options:
    """As in `models`; `width` is the feature maps of the first stage, doubled from stage to stage."""

    coefficients: int = 60
    channels: int = 3
    width: int = 16
    dropout: float = 0.3
    head: str = "linear"

    def __post_init__(self):
        layers.check_rows(self, least=4)


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: scale each map by a gate from 0 to 1 computed from the means of all maps."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 8, 4)
        self.share = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.share(x.mean(dim=(2, 3)))[:, :, None, None]


class Residual(nn.Module):
    """Two 3x3 convolutions, squeeze and excitation, and a shortcut: (b, c, k, t) -> (b, out, k/stride, t/stride)."""

    def __init__(self, channels: int, out: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, stride=stride, bias=False),
            layers.BatchNorm(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            layers.BatchNorm(out),
            SqueezeExcite(out),
        )
        if channels == out and stride == (1, 1):
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), layers.BatchNorm(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """SE-ResNet with attentive pooling: features of at least 8 frames to logits.

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
        """(batch, coefficients, frames) to (batch,)."""
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, c*k, t) -> (b, 16w)."""
        layers.check_features(features, self.options.coefficients, MIN_FRAMES)
        moments = self.project(self.cnn(features).flatten(1, 2).transpose(1, 2))  # (b, t/16, 8w)
        return self.dropout(self.pool(moments)[0])
