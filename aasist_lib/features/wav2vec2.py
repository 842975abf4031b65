"""Hidden states of a pre-trained speech encoder as a feature map.

wav2vec 2.0 (Baevski et al., 2020), HuBERT (Hsu et al., 2021), WavLM (Chen et al., 2022) and their kind are read with
transformers from a folder or the Hugging Face hub: safetensors only, and no code that comes with a model is run. The
encoder is not trained here. Shapes in comments: b utterances, s samples, n frames of 20 ms, h width of the encoder.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.windows import windows

RATE = 16000  # Hz, of all these encoders' training data
TOGETHER_SECONDS = 16.0  # of audio per forward pass: more would take memory and gain nothing


def read_encoder(name: str, setting: str = "features.encoder") -> nn.Module:
    """An encoder in evaluation mode, from a folder or a hub name; UserError, naming `setting`, if it cannot be had."""
    from transformers import AutoConfig, AutoModel  # slow to import, and needed here alone
    from transformers.utils import logging

    if Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(
            f"{setting}: the folder '{name}' is not there: put the encoder back (config.json and model.safetensors), "
            "or extract and train with another one"
        )
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # else it reports every unused weight of a task head
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not hasattr(config, "conv_kernel"):
            raise UserError(f"{setting}: '{name}' is a {config.model_type}, which takes no waveforms")
        config.apply_spec_augment = False  # augmentation belongs to training, and fails on short utterances
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
    lacking = set(loading["missing_keys"]) - {"masked_spec_embed"}  # used for masking only, which is off
    if lacking:
        raise UserError(f"{setting}: '{name}' lacks {len(lacking)} of its weights, such as {min(lacking)}")
    # in training mode it would call requires_grad_ on its input, which fails where that has a gradient already
    encoder.feature_extractor._requires_grad = False
    return encoder.eval()


def shortest(encoder: nn.Module) -> int:
    """Fewest samples from which the encoder's convolutions make one frame: 400, which is 25 ms."""
    samples = 1
    config = encoder.config
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def hop(encoder: nn.Module) -> int:
    """Samples from frame to frame: 320, which is 20 ms."""
    return math.prod(encoder.config.conv_stride)


def states(encoder: nn.Module, waveforms: Tensor) -> tuple[Tensor, ...]:
    """The first layer's input and each layer's output, (b, n, h) each, of unpadded waveforms (b, s) at `RATE`."""
    # zero mean and unit variance: these encoders were trained so, or normalise their input themselves
    x = waveforms - waveforms.mean(dim=1, keepdim=True)
    x = x * (x.square().mean(dim=1, keepdim=True) + 1e-7).rsqrt()
    found = encoder(x, output_hidden_states=True).hidden_states
    # where the encoder gives a frame fewer, its last one is repeated: windows of a recording stay aligned in time
    count = torch.sym_max(1, x.shape[1] // hop(encoder))
    moments = torch.arange(count, device=x.device).clamp(max=found[0].shape[1] - 1)
    return tuple(state[:, moments] for state in found)


class EncoderStates(nn.Module):
    """Hidden states of a frozen pre-trained encoder, stacked: a frame every 20 ms.

    Each frame depends on the whole utterance, or on its window of a long one (cut by `windows`, as in scoring). So the
    map of a crop is not a crop of the map. Values are stored as float16, whose 11 significant bits exceed the accuracy
    of a state.

    Parameters
    ----------
    encoder
        A folder with config.json and model.safetensors, or a name on the Hugging Face hub.
    layers
        "all" states, their "mean", or a list of numbers from 0 (input of the first layer) to the number of layers.
    sample_rate : 16,000 Hz

    Raises
    ------
    UserError
        If the encoder cannot be read, or the layers or the rate do not fit it; for an utterance below `min_samples`.
    """

    number = "float16"

    def __init__(self, encoder: str, layers: str | list[int] = "all", sample_rate: int = RATE):
        super().__init__()
        if sample_rate != RATE:
            raise UserError(f"features.sample_rate: {sample_rate} is not {RATE}, which is what speech encoders take")
        self.encoder = read_encoder(encoder).requires_grad_(False)
        config = self.encoder.config
        self.layers = check_layers(layers, config.num_hidden_layers)
        self.channels = 1 if self.layers == "mean" else len(self.layers)
        self.coefficients = self.channels * config.hidden_size
        self.sample_rate, self.hop_length = sample_rate, hop(self.encoder)
        self.min_samples = shortest(self.encoder)
        if self.layers != "mean":
            # layers after the last state kept are not computed
            self.encoder.encoder.layers = self.encoder.encoder.layers[: max(1, *self.layers)]

    def train(self, mode: bool = True) -> nn.Module:
        """Keep the encoder in evaluation mode: no dropout in feature extraction."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        if torch.compiler.is_exporting():
            return self._states(waveforms)
        if samples < self.min_samples:
            raise UserError(
                f"an utterance of {samples} samples is too short for the encoder, which takes {self.min_samples}: "
                "leave out recordings so short (extract.min_seconds)"
            )
        parts = []
        for start, end in windows(samples, self.sample_rate):
            together = max(1, int(TOGETHER_SECONDS * self.sample_rate) // (end - start))
            parts.append(torch.cat([self._states(some) for some in waveforms[:, start:end].split(together)]))
        return torch.cat(parts, 2)

    def _states(self, waveforms: Tensor) -> Tensor:
        found = states(self.encoder, waveforms)
        kept = [torch.stack(found).mean(0)] if self.layers == "mean" else [found[layer] for layer in self.layers]
        return torch.cat(kept, -1).transpose(1, 2)


def check_layers(layers, count: int) -> str | list[int]:
    """`layers` of an encoder with `count` layers, "all" spelt out; UserError for a number that it does not have."""
    if layers == "mean":
        return layers
    states = range(count + 1)
    for layer in layers if layers != "all" else ():
        if layer not in states:
            raise UserError(f"features.layers: {layer!r} is no state of this encoder, whose states are 0 to {count}")
    return list(states if layers == "all" else layers)
