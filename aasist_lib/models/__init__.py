"""Networks by name, and how a trained one is kept: weights as safetensors, everything else as JSON.

A network maps features (batch, coefficients, frames) to logits (batch,), higher for bona fide. Waveforms are
features of one coefficient, their samples the frames. Every network has

- `Options`, a frozen dataclass in its module, and `.options`, what it was built with
- `.min_frames`: it takes any number of frames from this on
- `.embed(features)` (batch, size): what its last layer sees
- `.output`: that layer; column 0 of what it makes of the embedding is the logit
- `.cnn`, where it has one: its convolutional part (`train.freeze_cnn_epochs` freezes that)
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.features.windows import WINDOW_SECONDS, windows  # noqa: F401
from aasist_lib.models import aasist, cnn_attention, resnet, transformer, wav2vec2

NETWORKS = {
    "cnn_attention": (cnn_attention.Options, cnn_attention.CNNAttention),
    "resnet": (resnet.Options, resnet.ResNet),
    "transformer": (transformer.Options, transformer.Transformer),
    "aasist": (aasist.Options, aasist.AASIST),
    "wav2vec2": (wav2vec2.Options, wav2vec2.Wav2Vec2),
}


def build(name: str, **options) -> nn.Module:
    """A network with fresh weights, drawn from torch's random state.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    **options
        The params section `model` without its name, and `coefficients` and `channels` of the features.

    Returns
    -------
    nn.Module
        (batch, coefficients, frames) -> (batch,); `.options` holds what it was built with.

    Raises
    ------
    UserError
        Unknown name or option (the nearest valid one is named), or a value that cannot be.

    Examples
    --------
    >>> build("cnn_attention", coefficients=60, channels=3, width=32).options.width
    32
    """
    if name not in NETWORKS:
        raise UserError(f"model.name: '{name}' is unknown: {files.nearest(name, NETWORKS)}")
    kind, network = NETWORKS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise UserError(f"model.{option}: {name} has no such option: {files.nearest(option, known)}")
    return network(kind(**options))


def parameters(network: nn.Module) -> dict[str, int]:
    """Learned numbers by part of the network, in order, with "total" at the end.

    >>> list(parameters(build("cnn_attention")))
    ['cnn', 'project', 'transformer', 'pool', 'output', 'total']
    """
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    parts |= {name: p.numel() for name, p in network.named_parameters(recurse=False)}
    parts = {name: count for name, count in parts.items() if count}
    return {**parts, "total": sum(p.numel() for p in network.parameters())}


def attention(network: nn.Module, features: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What a network attends to in one utterance, for looking at.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    features : np.ndarray
        (coefficients, frames).

    Returns
    -------
    between : np.ndarray or None
        (heads, tokens, tokens): how much the token of a row listens to that of a column. None, and `pooling` too, of a
        network whose attention cannot be looked at.
    pooling : np.ndarray or None
        (tokens,): share of each token in what is judged.
    """
    if not hasattr(network, "attention"):
        return None, None
    with torch.inference_mode():
        between, pooling = network.attention(torch.from_numpy(features)[None])
    return between[0].numpy(), pooling[0].numpy()


def save(network: nn.Module, folder: Path, about: dict) -> None:
    """Write `network.safetensors` and `network.json` (what `about` says), each whole or not at all.

    `about` holds at least `model` (the params section, name included), `coefficients` and `channels`:
    `load` builds the network again from these.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    with files.replacing(folder / "network.safetensors") as partial:
        save_file(weights, partial)
        os.chmod(partial, 0o644)  # save_file makes it private, and DVC would keep that
    files.write_json(folder / "network.json", about)


def load(folder: Path) -> tuple[nn.Module, dict]:
    """A trained network, in evaluation mode, and what its `network.json` says.

    Raises
    ------
    UserError
        A file is missing, broken, or the two do not belong together.
    """
    folder = Path(folder)
    about = read_json(folder / "network.json")
    weights_file = folder / "network.safetensors"
    try:
        network = build(**about["model"], coefficients=about["coefficients"], channels=about["channels"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'network.json'} does not describe a network ({error}): train it again") from None
    try:
        network.load_state_dict(load_file(weights_file))
    except FileNotFoundError:
        raise UserError(f"{weights_file} is missing: train first, or name another folder") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights_file} cannot be read ({error}): train again, or fetch it anew") from None
    except RuntimeError as error:  # names or shapes: torch says which, over many lines
        raise UserError(
            f"{weights_file} does not fit network.json beside it: {' '.join(str(error).split())[:200]}"
        ) from None
    return network.eval(), about


def read_json(path: Path) -> dict:
    """A JSON object from a file; UserError in one line if it is missing or broken."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, or name another folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it again, or fetch it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: make it again, or fetch it anew")
    return found
