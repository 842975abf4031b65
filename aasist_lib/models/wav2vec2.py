"""A pre-trained speech encoder with a small classification head.

The encoder (wav2vec 2.0, Baevski et al., 2020; HuBERT; WavLM) saw much more speech than any spoofing corpus holds. Its
layers are averaged with learned weights, since middle layers tell more of the voice than the last (Tak et al., 2022).

With `features.kind: waveform` the encoder is part of the network and may be fine-tuned. With `features.kind: wav2vec2`
the network is the head alone, on states that extract computed. On all states, a head has the weights, names and logits
of the network with a frozen encoder, so that each can start from the other (`train.init_from`).

Shapes in comments: b utterances, s samples, n frames of 20 ms, h width of the encoder, w width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aasist_lib.base.errors import UserError
from aasist_lib.features.wav2vec2 import read_encoder, shortest, states
from aasist_lib.models import layers

LEAST_WIDTH = 128  # of an encoder: fewer coefficients per channel come from another front-end


@dataclass(frozen=True)
class Options:
    """As in `models`; `coefficients` and `channels` are 1 for waveforms, else those of the encoder's states.

    `encoder` is as for `features.EncoderStates`, unused by a head alone. `trained` is "head" (the encoder stays frozen
    and out of the saved weights) or "all" (it is fine-tuned, on waveforms only). `width` is that of the projected
    frames.
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
        if self.trained == "all" and not self.hears:
            raise UserError(
                "model.trained: all would train the encoder, which these features have left behind: set "
                "features.kind: waveform, or model.trained: head"
            )

    @property
    def hears(self) -> bool:
        """Whether the input is waveforms."""
        return self.coefficients == self.channels == 1


def _without_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Leave a frozen encoder out of `state_dict`."""
    if network.encoder is not None and not network.fine_tuned:
        for name in [name for name in weights if name.startswith(f"{prefix}encoder.")]:
            del weights[name]


def _with_encoder(network: nn.Module, weights: dict, prefix: str, *_) -> None:
    """Give `load_state_dict` the frozen encoder that `state_dict` left out."""
    if network.encoder is not None and not network.fine_tuned:
        weights.update(network.encoder.state_dict(prefix=f"{prefix}encoder."))


class Wav2Vec2(nn.Module):
    """Waveforms at 16 kHz, or an encoder's states, to logits; a frozen encoder is not part of `state_dict`."""

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
        self.shares = nn.Parameter(torch.zeros(count))  # before softmax: equal weights at first
        self.project = nn.Linear(size, options.width)
        self.pool = layers.AttentiveStatistics(options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(2 * options.width, 1)
        self.register_state_dict_post_hook(_without_encoder)
        self.register_load_state_dict_pre_hook(_with_encoder)
        self.train()

    @property
    def min_frames(self) -> int:
        """Fewest samples from which the encoder makes a frame; 1 of a head alone."""
        return 1 if self.encoder is None else shortest(self.encoder)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if self.encoder is not None and not self.fine_tuned:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 1, samples), or of a head alone (batch, coefficients, frames), to (batch,)."""
        return self.output(self.embed(features))[:, 0]

    def embed(self, features: Tensor) -> Tensor:
        """(b, 1, s) or (b, coefficients, n) -> (b, 2w)."""
        shares = self.shares.softmax(dim=0)
        mixed = sum(share * state for share, state in zip(shares, self.states(features), strict=True))  # (b, n, h)
        return self.dropout(self.pool(self.project(mixed))[0])  # (b, n, w) -> (b, 2w)

    def states(self, features: Tensor) -> tuple[Tensor, ...]:
        """The hidden states that are averaged, (b, n, h) each."""
        layers.check_features(features, self.options.coefficients, self.min_frames)
        if self.encoder is None:
            return features.unflatten(1, (self.options.channels, -1)).transpose(2, 3).unbind(1)
        x = features[:, 0]
        # a frozen encoder needs no graph, unless its input needs a gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.fine_tuned or x.requires_grad)):
            return states(self.encoder, x)
