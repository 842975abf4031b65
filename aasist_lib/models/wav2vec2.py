"""A pre-trained encoder of speech, and a small head that tells bona fide from fake by what it hears.

The encoder (wav2vec 2.0, HuBERT, WavLM and their kin) was trained on much more speech than any corpus of fakes
holds; its layers take part by learned shares, since those in the middle tell more of a voice than the last, which
tells words.

From waveforms (`features.kind: waveform`) the network has the encoder within, and hears all of its layers; it may be
trained along. From an encoder's states (`features.kind: wav2vec2`), which extract computed once, it is the head alone
and hears the layers that were kept. Fed with all of them, a head has the same weights under the same names as the
network with a frozen encoder, and gives the same logits: one can start from the other (`train.init_from`).

- Baevski et al.: wav2vec 2.0 (2020); Tak et al.: Automatic speaker verification spoofing and deepfake detection
  using wav2vec 2.0 and data augmentation (2022)

Shapes in the comments: b utterances, s samples, n moments of 20 ms, h width of the encoder, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.wav2vec2 import read_encoder, shortest, states
from aasist_lib.models import layers

LEAST_WIDTH = 128  # of an encoder; maps of fewer coefficients a channel are of some other front-end
TRAINED = ("head", "all")


@dataclass(frozen=True)
class Options:
    """What can be chosen about the network; `models.build` passes the params section `model` here.

    Attributes
    ----------
    coefficients, channels : int
        Both 1 for waveforms; else how many states are kept, and as many times the width of the encoder.
    encoder : str
        A folder with config.json and model.safetensors, or a name on the Hugging Face hub. Of no matter to a head
        alone, whose features name the encoder.
    trained : str
        "head" leaves the encoder as it is, and out of what is saved; "all" fine-tunes it, which takes waveforms.
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
        if not self.hears and (self.coefficients < LEAST_WIDTH * self.channels or self.coefficients % self.channels):
            raise UserError(
                "model.name: wav2vec2 takes waveforms or an encoder's states: set features.kind: waveform or wav2vec2"
            )
        if self.hears and not self.encoder:
            raise UserError("model.encoder: wav2vec2 needs a folder or a name on the Hugging Face hub")
        if self.trained not in TRAINED:
            raise UserError(f"model.trained: '{self.trained}' is unknown: use {' or '.join(TRAINED)}")
        if self.trained == "all" and not self.hears:
            raise UserError(
                "model.trained: all would train the encoder, which these features have left behind: set "
                "features.kind: waveform, or model.trained: head"
            )
        layers.check_numbers(self)

    @property
    def hears(self) -> bool:
        """Whether it takes waveforms."""
        return self.coefficients == self.channels == 1


def _without_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Leave a frozen encoder out of `state_dict`."""
    if network.encoder is not None and not network.fine_tuned:
        for name in [name for name in weights if name.startswith(f"{prefix}encoder.")]:
            del weights[name]


def _with_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Give `load_state_dict` the encoder that is there already in place of the one left out."""
    if network.encoder is not None and not network.fine_tuned:
        weights.update(network.encoder.state_dict(prefix=f"{prefix}encoder."))


class Wav2Vec2(nn.Module):
    """Waveforms, or an encoder's states, to one logit each, higher for bona fide.

    Parameters
    ----------
    options : Options

    Attributes
    ----------
    encoder : transformers' model or None
        None in a head alone. Where `trained` is head it stays in evaluation mode, gets no gradients and is not part of
        `state_dict`.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        self.fine_tuned = options.trained == "all"
        if options.hears:
            self.encoder = read_encoder(options.encoder, "model.encoder").requires_grad_(self.fine_tuned)
            count, size = self.encoder.config.num_hidden_layers + 1, self.encoder.config.hidden_size
        else:
            self.encoder = None
            count, size = options.channels, options.coefficients // options.channels
        self.shares = nn.Parameter(torch.zeros(count))  # softmax of them: all layers alike
        self.project = nn.Linear(size, options.width)
        self.pool = layers.AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(2 * options.width, 1)
        self.register_state_dict_post_hook(_without_encoder)
        self.register_load_state_dict_pre_hook(_with_encoder)
        self.train()

    @property
    def min_frames(self) -> int:
        """Samples from which the encoder's convolutions make one moment; of its states, one."""
        return 1 if self.encoder is None else shortest(self.encoder)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if self.encoder is not None and not self.fine_tuned:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Logits of utterances.

        Parameters
        ----------
        features : Tensor
            (batch, 1, samples), waveforms at the rate the encoder knows (16 kHz), at least `min_frames` samples, no
            padding; of a head alone (batch, coefficients, frames).

        Returns
        -------
        Tensor (batch,)
        """
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, 1, s) or (b, coefficients, n) -> (b, 2w): what the last layer sees, in training with dropout."""
        shares = self.shares.softmax(dim=0)
        mixed = sum(share * state for share, state in zip(shares, self.states(features), strict=True))  # (b, n, h)
        return self.dropout(self.pool(self.project(mixed))[0])  # (b, n, w) -> (b, 2w)

    def states(self, features: Tensor) -> tuple[Tensor, ...]:
        """Of each layer that takes part (b, n, h)."""
        if self.encoder is None:
            layers.check_features(features, self.options.coefficients, self.min_frames)
            return features.unflatten(1, (self.options.channels, -1)).transpose(2, 3).unbind(1)
        x = layers.waveforms(features, self.min_frames)
        # a frozen encoder keeps nothing for a backward pass, unless its input is to get a gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.fine_tuned or x.requires_grad)):
            return states(self.encoder, x)
