"""AASIST: waveforms to graphs of bands and of moments, and attention between the two.

Jung et al.: AASIST: Audio anti-spoofing using integrated spectro-temporal graph attention networks
(2022, arXiv 2110.01200), written from the paper so that the published weights fit (`load_published`).

A fixed bank of band-pass filters and a residual CNN make a map of an utterance: 23 bands by 29 moments. Each
band, and each moment, is then a node of a graph; attention within each graph, and in two branches between them,
says what goes with what; only the nodes that matter most are kept.

Shapes in the comments: b utterances, s samples, c channels, f bands, t moments, n nodes, w width.
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

SAMPLES = 64600  # of an utterance, 4.04 s at 16 kHz: what it listens to
MIN_FRAMES = 1600  # samples; so short an utterance is repeated 41 times
SAMPLE_RATE = 16000  # Hz
FILTERS, TAPS = 70, 129
BANDS = FILTERS // 3
BRANCH = 32  # width of a node in the branches
EMBEDDING = 5 * BRANCH


@dataclass(frozen=True)
class Size:
    """What differs between AASIST and AASIST-L.

    Attributes
    ----------
    width : int
        Maps of the last four convolutional blocks, and so the size of a node.
    bands, moments, branch : float
        Share of nodes kept: of the graph of bands, of that of moments, and of both in a branch.
    """

    width: int
    bands: float
    moments: float
    branch: float


SIZES = {"full": Size(64, 0.5, 0.7, 0.5), "light": Size(24, 0.4, 0.5, 0.7)}


@dataclass(frozen=True)
class Options:
    """What can be chosen about the network; `models.build` passes the params section `model` here.

    Attributes
    ----------
    coefficients, channels : int
        Both 1: it takes waveforms.
    size : str
        "full" is AASIST (297,866 parameters), "light" AASIST-L (85,306).
    """

    coefficients: int = 1
    channels: int = 1
    size: str = "full"

    def __post_init__(self):
        layers.check_waveforms(self, "aasist")
        if self.size not in SIZES:
            raise UserError(f"model.size: '{self.size}' is unknown: use {' or '.join(SIZES)}")


def filters() -> Tensor:
    """The bank (FILTERS, 1, TAPS): band-passes side by side on the mel scale from 0 Hz to half the sample rate.

    >>> filters().shape
    torch.Size([70, 1, 129])
    """
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, FILTERS + 1) / 2595) - 1)  # Hz
    cycles = 2 * edges[:, None] / SAMPLE_RATE  # a sample, times two
    below = cycles * np.sinc(cycles * (np.arange(TAPS) - TAPS // 2))  # ideal low-pass up to each edge
    bank = np.hamming(TAPS) * (below[1:] - below[:-1])
    return torch.tensor(bank, dtype=torch.float32)[:, None]


class Filters(nn.Module):
    """Loudness in bands, (b, s) -> (b, 1, f, t)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", filters(), persistent=False)
        self.norm = layers.BatchNorm(1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv1d(x[:, None], self.bank)  # (b, 70, s - 128)
        x = functional.max_pool2d(x.abs()[:, None], 3)  # (b, 1, 23, 21490) of 64,600 samples
        return functional.selu(self.norm(x), inplace=True)


class Residual(nn.Module):
    """Two 2x3 convolutions beside a shortcut, then a third of the moments: (b, c, f, t) -> (b, out, f, t/3).

    The paper has a norm before the first convolution as well. In the published network it is there, in all
    blocks but the first, yet what it makes is not used: its weights never left 1 and 0. They are kept so that the
    published files fit and the counts of parameters are the published ones.
    """

    def __init__(self, channels: int, out: int, first: bool):
        super().__init__()
        self.unused = None if first else layers.BatchNorm(channels)
        self.conv1 = nn.Conv2d(channels, out, (2, 3), padding=(1, 1))
        self.norm = layers.BatchNorm(out)
        self.conv2 = nn.Conv2d(out, out, (2, 3), padding=(0, 1))
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.selu(self.norm(self.conv1(x)), inplace=True))  # one band more, then again as many
        return functional.max_pool2d(y.add_(self.shortcut(x)), (1, 3))


def _direction(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(width, 1)))


def _per_node(norm: layers.BatchNorm, x: Tensor) -> Tensor:
    return norm(x.flatten(0, 1)).view_as(x)


class Graph(nn.Module):
    """Attention between all nodes of one graph, (b, n, w) -> (b, n, out)."""

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


class TwoGraphs(nn.Module):
    """Attention between the nodes of two graphs of unlike kind, and a stack node that hears all of them.

    moments (b, t, w), bands (b, f, w), stack (b, 1, w) -> the same with out for w
    """

    TEMPERATURE = 100.0

    def __init__(self, width: int, out: int):
        super().__init__()
        self.moment = nn.Linear(width, width)  # both kinds brought into one space
        self.band = nn.Linear(width, width)
        self.compare = nn.Linear(width, out)
        self.weigh_moments = _direction(out)  # a moment with a moment
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
        across = pairs[:, :t, t:] @ self.weigh_across  # the same both ways
        upper = torch.cat([pairs[:, :t, :t] @ self.weigh_moments, across], dim=2)
        lower = torch.cat([across.transpose(1, 2), pairs[:, t:, t:] @ self.weigh_bands], dim=2)
        shares = (torch.cat([upper, lower], dim=1)[..., 0] / self.TEMPERATURE).softmax(dim=-1)
        x = self.gathered(shares @ x) + self.own(x)
        x = functional.selu(_per_node(self.norm, x))
        return x[:, :t], x[:, t:], stack


class Keep(nn.Module):
    """The share of nodes with the highest scores, highest first, each times its score: (b, n, w) -> (b, kept, w)."""

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
    """Two layers of attention between the graphs, the second beside a shortcut, with a stack node of its own.

    moments (b, t, w), bands (b, f, w) -> (b, t*share, BRANCH), (b, f*share, BRANCH), (b, 1, BRANCH)
    """

    def __init__(self, width: int, share: float):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(1, 1, width))
        self.first = TwoGraphs(width, BRANCH)
        self.keep_moments = Keep(BRANCH, share)
        self.keep_bands = Keep(BRANCH, share)
        self.second = TwoGraphs(BRANCH, BRANCH)
        self.dropout = nn.Dropout(0.2)

    def forward(self, moments: Tensor, bands: Tensor) -> list[Tensor]:
        moments, bands, stack = self.first(moments, bands, self.stack)
        before = self.keep_moments(moments), self.keep_bands(bands), stack
        return [self.dropout(x + y) for x, y in zip(before, self.second(*before), strict=True)]


class AASIST(nn.Module):
    """Waveforms to one logit each, higher for bona fide.

    An utterance shorter than 64,600 samples is repeated; of a longer one the first 64,600 are heard, in training too.

    The logit is that of the bona fide class, the number the published error rates were made from. It is also what
    is trained here: a loss on one number makes it the log odds, and what is scored is then what was trained. The
    spoof class's logit does not take part in that; `logits` gives it for the published weights.

    Parameters
    ----------
    options : Options

    Attributes
    ----------
    output : nn.Linear
        (b, 160) -> (b, 2): bona fide first, so that its column 0 is what `forward` gives, as in every network.

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
        self.bands = nn.Sequential(Graph(size.width, size.width), Keep(size.width, size.bands))
        self.moments = nn.Sequential(Graph(size.width, size.width), Keep(size.width, size.moments))
        self.branches = nn.ModuleList(Branch(size.width, size.branch) for _ in range(2))
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(EMBEDDING, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Bona fide logits of utterances.

        Parameters
        ----------
        features : Tensor (batch, 1, samples)
            Waveforms, 16 kHz, at least 1,600 samples.

        Returns
        -------
        Tensor (batch,)
        """
        return self.output(self.embed(features))[:, 0]

    def logits(self, features: Tensor) -> Tensor:
        """(b, 1, s) -> (b, 2): the logits of spoof and bona fide, in the published order."""
        return self.output(self.embed(features)).flip(1)

    def embed(self, features: Tensor) -> Tensor:
        """(b, 1, s) -> (b, 160): what the last layer sees, in training with dropout."""
        x = layers.waveforms(features, MIN_FRAMES)
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


# Names in the published files and here, as regular expressions, tried in order on what the one before left
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
    """AASIST or AASIST-L with weights as published with clovaai/aasist, in evaluation mode.

    Parameters
    ----------
    path : path of AASIST.pth or AASIST-L.pth, or of the same as .safetensors
        Which of the two is told from the shapes. Nothing but tensors is read from the file.

    Raises
    ------
    UserError
        The file is missing, broken or something else.
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
    except RuntimeError as error:  # names or shapes: torch says which, over many lines
        raise UserError(f"{path} is not a published AASIST: {' '.join(str(error).split())[:200]}") from None
    return network.eval()
