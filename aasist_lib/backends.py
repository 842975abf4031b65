"""What a detector runs on: one waveform to the network's raw score, by torch or by onnxruntime.

Both have `sample_rate` (Hz) and `window_seconds` (where long recordings are cut). Either library is imported when a
detector is made, and not before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aasist_lib.errors import UserError


class Torch:
    """A network with its front-end in torch: a detector's folder.

    Parameters
    ----------
    network : nn.Module
        Features to logits, in evaluation mode.
    about : dict
        What network.json says; `features` decides the front-end.

    Attributes
    ----------
    network, front_end : nn.Module
    """

    def __init__(self, network, about: dict):
        from aasist_lib import features, models

        self.network, self.about = network, about
        self.front_end = features.build(about["features"]).eval()
        self.sample_rate, self.window_seconds = self.front_end.sample_rate, models.WINDOW_SECONDS

    @classmethod
    def load(cls, folder: Path) -> Torch:
        """Read network.safetensors and network.json; UserError in one line if they are not there or do not fit."""
        try:
            from aasist_lib import models
        except ModuleNotFoundError as error:
            raise UserError(
                f"{folder}: a detector's folder needs {error.name}, which is not installed: "
                'pip install "aasist[research]", or score with an ONNX file (aasist export)'
            ) from None
        network, about = models.load(folder)
        if "features" not in about:
            raise UserError(f"{folder / 'network.json'} names no features: train again")
        made = cls(network, about)
        if made.front_end.coefficients != about["coefficients"]:
            raise UserError(
                f"{folder / 'network.json'}: these features have {made.front_end.coefficients} coefficients, "
                f"and the network takes {about['coefficients']}: train again"
            )
        return made

    def __call__(self, waveform: np.ndarray) -> float:
        """(samples,), float32, to the logit."""
        import torch

        with torch.inference_mode():
            return self.network(self.front_end(torch.from_numpy(waveform)[None])).item()
