"""A pre-trained encoder of speech, and a small head that tells bona fide from fake by what it hears.

The encoder (wav2vec 2.0, HuBERT, WavLM and their kin) was trained on much more speech than any corpus of fakes
holds; all of its layers take part, by learned shares, since those in the middle tell more of a voice than the
last, which tells words. It is read with transformers from a folder, or once from the Hugging Face hub; only
safetensors are read and no code that comes with a model is run.

- Baevski et al.: wav2vec 2.0 (2020); Tak et al.: Automatic speaker verification spoofing and deepfake detection
  using wav2vec 2.0 and data augmentation (2022)

Shapes in the comments: b utterances, s samples, n moments of 20 ms, h width of the encoder, w width.
"""

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aasist_lib.errors import UserError
from aasist_lib.models import layers

MIN_FRAMES = 400  # samples; `min_frames` of a network is that of its encoder
TRAINED = ("head", "all")


@dataclass(frozen=True)
class Options:
    """What can be chosen about the network; `models.build` passes the params section `model` here.

    Attributes
    ----------
    coefficients, channels : int
        Both 1: it takes waveforms.
    encoder : str
        A folder with config.json and model.safetensors, or a name on the Hugging Face hub.
    trained : str
        "head" leaves the encoder as it is, and out of what is saved; "all" fine-tunes it.
    width : int
        Of a moment after projection.
    dropout : float
        Before the last layer.
    """

    coefficients: int = 1
    channels: int = 1
    encoder: str = ""
    trained: str = "head"
    width: int = 64
    dropout: float = 0.3

    def __post_init__(self):
        layers.check_waveforms(self, "wav2vec2")
        if not self.encoder:
            raise UserError("model.encoder: wav2vec2 needs a folder or a name on the Hugging Face hub")
        if self.trained not in TRAINED:
            raise UserError(f"model.trained: '{self.trained}' is unknown: use {' or '.join(TRAINED)}")
        layers.check_numbers(self)


def read_encoder(name: str) -> nn.Module:
    """The encoder with its weights, in evaluation mode; UserError in one line if it cannot be had."""
    from transformers import AutoConfig, AutoModel  # takes seconds to import, and other networks do without
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # a word on every weight of another task's head that is left out
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not hasattr(config, "conv_kernel"):
            raise UserError(f"model.encoder: '{name}' is a {config.model_type}, which takes no waveforms")
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
            f"model.encoder: '{name}' cannot be read: name a folder with config.json and model.safetensors, or a "
            f"model on the Hugging Face hub ({' '.join(str(error).split())[:150]})"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if not hasattr(encoder, "feature_extractor"):
        raise UserError(f"model.encoder: '{name}' is a {config.model_type}, more than an encoder of waveforms")
    lacking = set(loading["missing_keys"]) - {"masked_spec_embed"}  # of masking, which is off
    if lacking:
        raise UserError(f"model.encoder: '{name}' lacks {len(lacking)} of its weights, such as {min(lacking)}")
    return encoder.eval()


def _without_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Leave a frozen encoder out of `state_dict`."""
    if not network.fine_tuned:
        for name in [name for name in weights if name.startswith(f"{prefix}encoder.")]:
            del weights[name]


def _with_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Give `load_state_dict` the encoder that is there already in place of the one left out."""
    if not network.fine_tuned:
        weights.update(network.encoder.state_dict(prefix=f"{prefix}encoder."))


class Wav2Vec2(nn.Module):
    """Waveforms to one logit each, higher for bona fide.

    Parameters
    ----------
    options : Options

    Attributes
    ----------
    encoder : transformers' model
        Where `trained` is head it stays in evaluation mode, gets no gradients and is not part of `state_dict`.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        self.encoder = read_encoder(options.encoder)
        self.fine_tuned = options.trained == "all"
        self.encoder.requires_grad_(self.fine_tuned)
        # its convolutions would, in training, demand a gradient of their input: refused where it has one already
        self.encoder.feature_extractor._requires_grad = False
        config = self.encoder.config
        self.shares = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))  # softmax of them: all layers alike
        self.project = nn.Linear(config.hidden_size, options.width)
        self.pool = layers.AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(2 * options.width, 1)
        self.register_state_dict_post_hook(_without_encoder)
        self.register_load_state_dict_pre_hook(_with_encoder)
        self.train()

    @property
    def min_frames(self) -> int:
        """Samples from which the encoder's convolutions make one moment."""
        samples = 1
        config = self.encoder.config
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if not self.fine_tuned:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Logits of utterances.

        Parameters
        ----------
        features : Tensor (batch, 1, samples)
            Waveforms at the rate the encoder knows (16 kHz), at least `min_frames` samples, no padding.

        Returns
        -------
        Tensor (batch,)
        """
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, 1, s) -> (b, 2w): what the last layer sees, in training with dropout."""
        x = layers.waveforms(features, self.min_frames)
        x = x - x.mean(dim=1, keepdim=True)
        x = x / (x.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        # a frozen encoder keeps nothing for a backward pass, unless its input is to get a gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.fine_tuned or x.requires_grad)):
            hidden = self.encoder(x, output_hidden_states=True).hidden_states  # of each layer (b, n, h)
        shares = self.shares.softmax(dim=0)
        moments = self.project(sum(share * layer for share, layer in zip(shares, hidden, strict=True)))
        return self.dropout(self.pool(moments)[0])  # (b, n, w) -> (b, 2w)
