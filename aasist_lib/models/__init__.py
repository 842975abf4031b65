"""Networks by name; a trained one is kept as safetensors (weights) and JSON (everything else).

A network maps features, (batch, coefficients, frames) without padding, to logits, (batch,), higher for bona fide.
Waveforms are features of one coefficient whose frames are the samples. Every network has

- `Options`, a frozen dataclass in its module, filled from the params section `model`, and `.options`, its own
- `.min_frames`, the fewest frames that it accepts
- `.embed(features)`, (batch, size): the input of the last layer, in training with dropout
- `.output`, the last layer; column 0 of its output is the logit
- `.cnn`, where it has one, the convolutional part that `train.freeze_cnn_epochs` freezes

Options that networks share: `coefficients`, rows of the input over all channels; `channels`, which these rows form
(static coefficients, deltas, delta-deltas); `width`, size of a token, or feature maps of the first stage of a ResNet;
`heads`, attention heads, which share the width; `dropout`, in and after attention, and before the last layer; `head`,
"linear", or "cosine" for the one-class softmax loss.
"""

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
    """A network with random weights from torch's random state.

    Parameters
    ----------
    name
        A key of `NETWORKS`.
    **options
        The params section `model` without its name, and `coefficients` and `channels` of the features.

    Raises
    ------
    UserError
        If the network does not fit the features, or its encoder cannot be read.

    Examples
    --------
    >>> build("cnn_attention", coefficients=60, channels=3, width=32).options.width
    32
    """
    kind, network = NETWORKS[name]
    return network(kind(**options))


def parameters(network: nn.Module) -> dict[str, int]:
    """Trainable parameters of each part of the network, and their `total`."""
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    parts |= {name: p.numel() for name, p in network.named_parameters(recurse=False)}
    parts = {name: count for name, count in parts.items() if count}
    return {**parts, "total": sum(p.numel() for p in network.parameters())}


def attention(network: nn.Module, features: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Attention between tokens (heads, n, n) and pooling weights (n,) for features (coefficients, frames), or None."""
    if not hasattr(network, "attention"):
        return None, None
    with torch.inference_mode():
        between, pooling = network.attention(torch.from_numpy(features)[None])
    return between[0].numpy(), pooling[0].numpy()


def save(network: nn.Module, folder: Path, about: dict) -> None:
    """Write network.safetensors and network.json, each atomically.

    `about` is the content of network.json; `load` needs its `model` (the params section with its name), `coefficients`
    and `channels`.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    with files.replacing(folder / "network.safetensors") as partial:
        save_file(weights, partial)
        os.chmod(partial, 0o644)  # save_file makes it private, and DVC would keep the mode
    files.write_json(folder / "network.json", about)


def load(folder: Path) -> tuple[nn.Module, dict]:
    """A trained network, in evaluation mode, and the content of its network.json.

    UserError if a file is missing or broken, or the two do not fit each other.
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
    except RuntimeError as error:  # names or shapes, which torch lists over many lines
        raise UserError(
            f"{weights_file} does not fit network.json beside it: {' '.join(str(error).split())[:200]}"
        ) from None
    return network.eval(), about


def read_json(path: Path) -> dict:
    """A JSON object from a file; UserError if it is missing or broken."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, or name another folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it again, or fetch it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: make it again, or fetch it anew")
    return found
