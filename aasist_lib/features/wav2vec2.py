"""What a pre-trained encoder of speech makes of it: the states between its layers, as a feature map.

The encoders (wav2vec 2.0, HuBERT, WavLM and their kin) were trained on much more speech than any corpus of fakes
holds. One is read with transformers from a folder, or once from the Hugging Face hub; only safetensors are read and no
code that comes with a model is run. It is never trained here.

Baevski et al.: wav2vec 2.0 (2020); Hsu et al.: HuBERT (2021); Chen et al.: WavLM (2022)

Shapes in the comments: b utterances, s samples, n moments (of 20 ms), h width of the encoder.
"""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.packing import pack, unpack
from aasist_lib.features.windows import windows

RATE = 16000  # Hz: what all these encoders were trained on
TOGETHER_SECONDS = 16.0  # of sound that go through the encoder at once: more would take memory and gain nothing


def read_encoder(name: str, setting: str = "features.encoder") -> nn.Module:
    """An encoder with its weights, in evaluation mode.

    Parameters
    ----------
    name : str
        A folder with config.json and model.safetensors, or a name on the Hugging Face hub.
    setting : str
        Which setting names it, for messages.

    Raises
    ------
    UserError
        In one line, if it cannot be had or is something else.
    """
    from transformers import AutoConfig, AutoModel  # takes seconds to import, and other front-ends do without
    from transformers.utils import logging

    if Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(
            f"{setting}: the folder '{name}' is not there: put the encoder back (config.json and model.safetensors), "
            "or extract and train with another one"
        )
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # a word on every weight of another task's head that is left out
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not hasattr(config, "conv_kernel"):
            raise UserError(f"{setting}: '{name}' is a {config.model_type}, which takes no waveforms")
        config.apply_spec_augment = False  # augmenting is the training's matter, and short utterances could not be
        config.layerdrop = 0.0
        encoder, loading = AutoModel.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{setting}: '{name}' cannot be read: name a folder with config.json and model.safetensors, or a "
            f"model on the Hugging Face hub ({' '.join(str(error).split())[:150]})"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if not hasattr(encoder, "feature_extractor"):
        raise UserError(f"{setting}: '{name}' is a {config.model_type}, more than an encoder of waveforms")
    lacking = set(loading["missing_keys"]) - {"masked_spec_embed"}  # of masking, which is off
    if lacking:
        raise UserError(f"{setting}: '{name}' lacks {len(lacking)} of its weights, such as {min(lacking)}")
    # its convolutions would, in training, demand a gradient of their input: refused where it has one already
    encoder.feature_extractor._requires_grad = False
    return encoder.eval()


def shortest(encoder: nn.Module) -> int:
    """Samples from which the encoder's convolutions make one moment: 400, which is 25 ms."""
    samples = 1
    config = encoder.config
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def hop(encoder: nn.Module) -> int:
    """Samples from one moment to the next: 320, which is 20 ms."""
    return math.prod(encoder.config.conv_stride)


def states(encoder: nn.Module, waveforms: Tensor) -> tuple[Tensor, ...]:
    """What goes into the encoder's first layer, and what each layer makes of it.

    The encoder gets an utterance without its mean and with a variance of 1. All of these encoders were trained so or
    begin with a normalisation of their own, which loudness does not pass.

    Parameters
    ----------
    encoder : transformers' model
    waveforms : Tensor (b, s)
        `RATE` samples a second, at least `shortest` of them, no padding.

    Returns
    -------
    tuple of Tensor (b, n, h)
        One more than there are layers. n is how many times `hop` goes into s, and at least 1: where the encoder stops
        a moment earlier, its last one counts twice, so that the windows of a long recording keep step with time.
    """
    x = waveforms - waveforms.mean(dim=1, keepdim=True)
    x = x * (x.square().mean(dim=1, keepdim=True) + 1e-7).rsqrt()
    found = encoder(x, output_hidden_states=True).hidden_states
    count = torch.sym_max(1, x.shape[1] // hop(encoder))
    moments = torch.arange(count, device=x.device).clamp(max=found[0].shape[1] - 1)
    return tuple(state[:, moments] for state in found)


class EncoderStates(nn.Module):
    """States of a pre-trained encoder, one below the other: a frame every 20 ms.

    Each frame depends on the whole utterance, or on its window of a long one: a recording is cut as `windows` says
    and each window is an utterance of its own, here as in scoring. So the map of a crop is not a crop of the map.

    Parameters
    ----------
    encoder : str
        See `read_encoder`.
    layers : "all", "mean" or list of int
        The states that are kept: all of them, the mean of all, or those of these numbers, from 0 (what goes into the
        first layer) to the number of layers (what the last one makes).
    sample_rate : int
        In Hz; 16,000.

    Attributes
    ----------
    channels : int
        How many states are kept.
    coefficients : int
        `channels` times the width of the encoder.
    hop_length, min_samples : int
        In samples: from one frame to the next, and of the shortest utterance.
    number : str
        In which the store keeps a value: float16, whose 11 binary digits are more than what a state depends on.
    """

    number = "float16"

    def __init__(self, encoder: str, layers: str | list[int] = "all", sample_rate: int = RATE):
        super().__init__()
        if sample_rate != RATE:
            raise UserError(f"features.sample_rate: {sample_rate} is not {RATE}, which is what speech encoders take")
        if not isinstance(encoder, str) or not encoder:
            raise UserError("features.encoder: wav2vec2 needs a folder or a name on the Hugging Face hub")
        self.encoder = read_encoder(encoder).requires_grad_(False)
        config = self.encoder.config
        self.layers = check_layers(layers, config.num_hidden_layers)
        self.channels = 1 if self.layers == "mean" else len(self.layers)
        self.coefficients = self.channels * config.hidden_size
        self.sample_rate, self.hop_length = sample_rate, hop(self.encoder)
        self.min_samples = shortest(self.encoder)
        if self.layers != "mean":
            # what comes after the last state asked for is not computed
            self.encoder.encoder.layers = self.encoder.encoder.layers[: max(1, *self.layers)]

    def train(self, mode: bool = True) -> nn.Module:
        """It stays in evaluation mode, since its dropout is not the training's."""
        super().train(mode)
        self.encoder.eval()
        return self

    def frames(self, samples: int) -> int:
        """Of an utterance of so many samples."""
        return sum(max(1, (end - start) // self.hop_length) for start, end in windows(samples, self.sample_rate))

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, coefficients, frames); frames past an utterance's own are 0."""
        return unpack(*self.packed(pack(waveforms, lengths)), self.frames(waveforms.shape[1]))

    def packed(self, waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (samples,) each, to (frames of all, coefficients), and how many frames each one has."""
        if (least := min(map(len, waveforms))) < self.min_samples:
            raise UserError(
                f"an utterance of {least} samples is too short for the encoder, which takes {self.min_samples}: "
                "leave out recordings so short (extract.min_seconds)"
            )
        parts = [wave[start:end] for wave in waveforms for start, end in windows(len(wave), self.sample_rate)]
        maps = []
        for length, alike in groupby(parts, len):  # padding would change what shorter ones give
            together = max(1, int(TOGETHER_SECONDS * self.sample_rate) // length)
            for some in torch.stack(list(alike)).split(together):
                maps.append(self.dense(some).flatten(0, 1))
        return torch.cat(maps), [self.frames(len(wave)) for wave in waveforms]

    def dense(self, waveforms: Tensor) -> Tensor:
        """(batch, samples), each one window, to (batch, frames, coefficients)."""
        found = states(self.encoder, waveforms)
        if self.layers == "mean":
            return torch.stack(found).mean(0)
        return torch.cat([found[layer] for layer in self.layers], -1)


def check_layers(layers, count: int) -> str | list[int]:
    """`layers` of an encoder with `count` of them, "all" spelt out; UserError for what cannot be.

    >>> check_layers("all", 2), check_layers([2, 1], 2), check_layers("mean", 2)
    ([0, 1, 2], [2, 1], 'mean')
    """
    if layers == "mean":
        return layers
    if layers == "all":
        return list(range(count + 1))
    if not isinstance(layers, list | tuple) or not layers or len(set(layers)) < len(layers):
        raise UserError(f"features.layers: {layers!r} is neither all, nor mean, nor a list of different numbers")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer <= count:
            raise UserError(f"features.layers: {layer!r} is no state of this encoder, whose states are 0 to {count}")
    return list(layers)
