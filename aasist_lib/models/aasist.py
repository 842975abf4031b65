"""AASIST: spectro-temporal graph attention networks on raw waveforms (Jung et al., 2022, arXiv 2110.01200).

Written from the paper so that the published weights fit (`load_published`). A fixed sinc filter bank and a residual CNN
give a map of 23 bands by 29 time steps. Bands and time steps are nodes of a spectral and a temporal graph, with graph
attention and pooling in each, then heterogeneous attention between both in two branches.
Shapes in comments: b utterances, s samples, c channels, f bands, t time steps, n nodes, w width.
"""

import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from aasist_lib.base.errors import UserError
from aasist_lib.models import layers

SAMPLES = 64600  # input length, 4.04 s at 16 kHz
MIN_FRAMES = 1600  # samples; so short an utterance is repeated 41 times
SAMPLE_RATE = 16000  # Hz
FILTERS, TAPS = 70, 129
BANDS = FILTERS // 3
BRANCH = 32  # width of a node in the branches
EMBEDDING = 5 * BRANCH


@dataclass(frozen=True)
class Size:
    """What AASIST and AASIST-L differ in: CNN width, and pooling ratios of the two graphs and of the branches."""

    width: int
    bands: float
    moments: float
    branch: float


SIZES = {"full": Size(64, 0.5, 0.7, 0.5), "light": Size(24, 0.4, 0.5, 0.7)}


@dataclass(frozen=True)
class Options:
    """As in `models`; `size` is "full" (AASIST, 297,866 parameters) or "light" (AASIST-L, 85,306)."""

    coefficients: int = 1
    channels: int = 1
    size: str = "full"

    def __post_init__(self):
        layers.check_waveforms(self, "aasist")


def filters() -> Tensor:
    """The filter bank, (FILTERS, 1, TAPS): adjacent mel band-passes from 0 Hz to half the sampling rate."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, FILTERS + 1) / 2595) - 1)  # Hz
    cycles = 2 * edges[:, None] / SAMPLE_RATE  # per sample, times two
    below = cycles * np.sinc(cycles * (np.arange(TAPS) - TAPS // 2))  # ideal low-pass up to each edge
    bank = np.hamming(TAPS) * (below[1:] - below[:-1])
    return torch.tensor(bank, dtype=torch.float32)[:, None]


class Filters(nn.Module):
    """Magnitudes in bands, (b, s) -> (b, 1, f, t)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", filters(), persistent=False)
        self.norm = layers.BatchNorm(1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv1d(x[:, None], self.bank)  # (b, 70, s - 128)
        x = functional.max_pool2d(x.abs()[:, None], 3)  # (b, 1, 23, 21490) of 64,600 samples
        return functional.selu(self.norm(x), inplace=True)


class Residual(nn.Module):
    """Two 2x3 convolutions with a shortcut, then pooling over time: (b, c, f, t) -> (b, out, f, t/3)."""

    def __init__(self, channels: int, out: int, first: bool):
        super().__init__()
        # the published network has this norm but ignores its output: kept so that files and parameter counts fit
        self.unused = None if first else layers.BatchNorm(channels)
        self.conv1 = nn.Conv2d(channels, out, (2, 3), padding=(1, 1))
        self.norm = layers.BatchNorm(out)
        self.conv2 = nn.Conv2d(out, out, (2, 3), padding=(0, 1))
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.selu(self.norm(self.conv1(x)), inplace=True))  # conv1 adds a band, conv2 removes it
        return functional.max_pool2d(y.add_(self.shortcut(x)), (1, 3))


def _direction(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(width, 1)))


def _per_node(norm: layers.BatchNorm, x: Tensor) -> Tensor:
    return norm(x.flatten(0, 1)).view_as(x)


class GraphAttention(nn.Module):
    """Graph attention between all nodes of one graph, (b, n, w) -> (b, n, out)."""

    TEMPERATURE = 2.0

    def __init__(self, width: int, out: int):
        super().__init__()
        self.compare = nn.Linear(width, out)
        self.weigh = _direction(out)
        self.gathered = nn.Linear(width, out)
        self.own = nn.Linear(width, out)
        self.norm = layers.BatchNorm(out)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        pairs = torch.tanh(self.compare(x[:, :, None] * x[:, None]))  # (b, n, n, out)
        shares = ((pairs @ self.weigh)[..., 0] / self.TEMPERATURE).softmax(dim=-1)  # (b, n, n), rows sum to 1
        x = self.gathered(shares @ x) + self.own(x)
        return functional.selu(_per_node(self.norm, x))


class HeterogeneousAttention(nn.Module):
    """Heterogeneous attention: (b, t, w), (b, f, w) and the stack node (b, 1, w) to the same with width `out`."""

    TEMPERATURE = 100.0

    def __init__(self, width: int, out: int):
        super().__init__()
        self.moment = nn.Linear(width, width)  # both node types into one space
        self.band = nn.Linear(width, width)
        self.compare = nn.Linear(width, out)
        self.weigh_moments = _direction(out)  # between two temporal nodes
        self.weigh_bands = _direction(out)
        self.weigh_across = _direction(out)
        self.gathered = nn.Linear(width, out)
        self.own = nn.Linear(width, out)
        self.norm = layers.BatchNorm(out)
        self.stack_compare = nn.Linear(width, out)
        self.stack_weigh = _direction(out)
        self.stack_gathered = nn.Linear(width, out)
        self.stack_own = nn.Linear(width, out)
        self.dropout = nn.Dropout(0.2)

    def forward(self, moments: Tensor, bands: Tensor, stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = moments.shape[1]
        x = self.dropout(torch.cat([self.moment(moments), self.band(bands)], dim=1))  # (b, t+f, w)

        heard = torch.tanh(self.stack_compare(x * stack)) @ self.stack_weigh  # (b, t+f, 1)
        heard = (heard / self.TEMPERATURE).softmax(dim=1).transpose(1, 2)
        stack = self.stack_gathered(heard @ x) + self.stack_own(stack)

        pairs = torch.tanh(self.compare(x[:, :, None] * x[:, None]))  # (b, t+f, t+f, out)
        across = pairs[:, :t, t:] @ self.weigh_across  # symmetric
        upper = torch.cat([pairs[:, :t, :t] @ self.weigh_moments, across], dim=2)
        lower = torch.cat([across.transpose(1, 2), pairs[:, t:, t:] @ self.weigh_bands], dim=2)
        shares = (torch.cat([upper, lower], dim=1)[..., 0] / self.TEMPERATURE).softmax(dim=-1)
        x = self.gathered(shares @ x) + self.own(x)
        x = functional.selu(_per_node(self.norm, x))
        return x[:, :t], x[:, t:], stack


class GraphPool(nn.Module):
    """Graph pooling: the share of nodes with the highest scores, scaled by them, (b, n, w) -> (b, kept, w)."""

    def __init__(self, width: int, share: float):
        super().__init__()
        self.share = share
        self.score = nn.Linear(width, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(self.dropout(x)).sigmoid()  # (b, n, 1)
        best = scores.topk(max(int(x.shape[1] * self.share), 1), dim=1).indices
        return (x * scores).gather(1, best.expand(-1, -1, x.shape[2]))


class Branch(nn.Module):
    """Two heterogeneous attention layers, the second with a shortcut, and pooling; the branch's own stack node."""

    def __init__(self, width: int, share: float):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(1, 1, width))
        self.first = HeterogeneousAttention(width, BRANCH)
        self.keep_moments = GraphPool(BRANCH, share)
        self.keep_bands = GraphPool(BRANCH, share)
        self.second = HeterogeneousAttention(BRANCH, BRANCH)
        self.dropout = nn.Dropout(0.2)

    def forward(self, moments: Tensor, bands: Tensor) -> list[Tensor]:
        moments, bands, stack = self.first(moments, bands, self.stack)
        before = self.keep_moments(moments), self.keep_bands(bands), stack
        return [self.dropout(x + y) for x, y in zip(before, self.second(*before), strict=True)]


class AASIST(nn.Module):
    """Waveforms at 16 kHz to bona fide logits.

    Shorter utterances are repeated to 64,600 samples; of longer ones only the first 64,600 are used, in training too.

    The logit is that of the bona fide class, from which the published error rates were computed. Training uses this
    logit alone, as the log odds; the spoof logit serves the published weights only (`logits`). `output` has the bona
    fide class in column 0, as every network.

    Examples
    --------
    >>> network = AASIST(Options(size="light")).eval()
    >>> network(torch.zeros(2, 1, 16000)).shape
    torch.Size([2])
    """

    min_frames = MIN_FRAMES

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        size = SIZES[options.size]
        maps = [1, 32, 32, *[size.width] * 4]
        self.cnn = nn.Sequential(
            Filters(), *[Residual(a, b, first=a == 1) for a, b in zip(maps, maps[1:], strict=False)]
        )  # (b, w, 23, 29)
        self.positions = nn.Parameter(torch.randn(1, BANDS, size.width))
        self.bands = nn.Sequential(GraphAttention(size.width, size.width), GraphPool(size.width, size.bands))
        self.moments = nn.Sequential(GraphAttention(size.width, size.width), GraphPool(size.width, size.moments))
        self.branches = nn.ModuleList(Branch(size.width, size.branch) for _ in range(2))
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(EMBEDDING, 2)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 1, samples), at least 1,600 samples, to (batch,)."""
        return self.output(self.embed(features))[:, 0]

    def logits(self, features: Tensor) -> Tensor:
        """(b, 1, s) -> (b, 2): logits of spoof and bona fide, in the published order."""
        return self.output(self.embed(features)).flip(1)

    def embed(self, features: Tensor) -> Tensor:
        layers.check_features(features, 1, MIN_FRAMES)
        x = features[:, 0]
        x = x.repeat(1, math.ceil(SAMPLES / x.shape[1]))[:, :SAMPLES]
        x = self.cnn(x).abs()  # (b, w, 23, 29)
        bands = self.bands(x.amax(dim=3).transpose(1, 2) + self.positions)  # (b, 11, w)
        moments = self.moments(x.amax(dim=2).transpose(1, 2))  # (b, 20, w)

        one, other = (branch(moments, bands) for branch in self.branches)
        moments, bands, stack = (torch.maximum(x, y) for x, y in zip(one, other, strict=True))
        parts = [
            *(moments.abs().amax(dim=1), moments.mean(dim=1)),
            *(bands.abs().amax(dim=1), bands.mean(dim=1)),
            stack[:, 0],
        ]
        return self.dropout(torch.cat(parts, dim=1))


# From published to own parameter names: regular expressions, applied in order
RENAMED = [
    (r"^pos_S$", "positions"),
    (r"^master([12])$", r"branches.\1.stack"),
    (r"^first_bn\.", "cnn.0.norm."),
    (r"^encoder\.(\d)\.0\.", lambda found: f"cnn.{int(found[1]) + 1}."),
    (r"\.bn1\.", ".unused."),
    (r"\.conv_downsample\.", ".shortcut."),
    (r"^GAT_layer_S\.", "bands.0."),
    (r"^GAT_layer_T\.", "moments.0."),
    (r"^pool_S\.proj", "bands.1.score"),
    (r"^pool_T\.proj", "moments.1.score"),
    (r"^HtrgGAT_layer_ST([12])1\.", r"branches.\1.first."),
    (r"^HtrgGAT_layer_ST([12])2\.", r"branches.\1.second."),
    (r"^pool_hS([12])\.proj", r"branches.\1.keep_bands.score"),
    (r"^pool_hT([12])\.proj", r"branches.\1.keep_moments.score"),
    (r"^branches\.(\d)", lambda found: f"branches.{int(found[1]) - 1}"),
    (r"\.proj_type1\.", ".moment."),
    (r"\.proj_type2\.", ".band."),
    (r"\.att_projM\.", ".stack_compare."),
    (r"\.att_proj\.", ".compare."),
    (r"\.att_weightM$", ".stack_weigh"),
    (r"\.att_weight11$", ".weigh_moments"),
    (r"\.att_weight22$", ".weigh_bands"),
    (r"\.att_weight12$", ".weigh_across"),
    (r"\.att_weight$", ".weigh"),
    (r"\.proj_with_attM\.", ".stack_gathered."),
    (r"\.proj_without_attM\.", ".stack_own."),
    (r"\.proj_with_att\.", ".gathered."),
    (r"\.proj_without_att\.", ".own."),
    (r"\.bn2?\.", ".norm."),
    (r"^out_layer\.", "output."),
]


def load_published(path: Path) -> AASIST:
    """AASIST or AASIST-L with the weights published in clovaai/aasist, in evaluation mode.

    `path` is AASIST.pth, AASIST-L.pth, or the same as .safetensors; only tensors are read. UserError for anything else.
    """
    try:
        if Path(path).suffix == ".safetensors":
            published = load_file(path)
        else:
            published = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: take AASIST.pth or AASIST-L.pth from clovaai/aasist") from None
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(published, dict) or not all(isinstance(x, Tensor) for x in published.values()):
        raise UserError(f"{path} holds no weights by name: it is not a published AASIST")
    weights = {}
    for name, tensor in published.items():
        if name.startswith("out_layer."):
            tensor = tensor.flip(0)  # spoof first in the file, bona fide first here
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        weights[name] = tensor
    width = weights["positions"].shape[-1] if "positions" in weights else None
    for name, size in SIZES.items():
        if size.width == width:
            network = AASIST(Options(size=name))
            break
    else:
        raise UserError(f"{path} holds other weights than AASIST's or AASIST-L's")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # names or shapes, which torch lists over many lines
        raise UserError(f"{path} is not a published AASIST: {' '.join(str(error).split())[:200]}") from None
    return network.eval()
