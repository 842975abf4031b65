"""What a detector runs on: a waveform to the network's raw score, by torch or onnxruntime.

Both have `sample_rate` (Hz) and `window_seconds`. Either library is imported only when a detector is made.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from aasist_lib.base.errors import UserError

FORMAT = "aasist 1"  # in an exported file's metadata
# Before the value "location", which names a file: field 1 of 8 bytes, each number in any length that parsers accept
LOCATION_KEY = re.compile(rb"(\x0a|\x8a[\x80-\xff]{0,8}[\x00-\x7f])(\x08|\x88[\x80-\xff]{0,8}[\x00-\x7f])\Z")


class Torch:
    """A network and its front-end in torch; `about` is the content of network.json."""

    def __init__(self, network, about: dict):
        from aasist_lib import features, models

        self.network, self.about = network, about
        self.front_end = features.build(about["features"]).eval()
        self.sample_rate, self.window_seconds = self.front_end.sample_rate, models.WINDOW_SECONDS

    @classmethod
    def load(cls, folder: Path) -> Torch:
        """Read network.safetensors and network.json; UserError if they are missing or do not fit."""
        try:
            from aasist_lib import models
        except ModuleNotFoundError as error:
            raise UserError(
                f"{folder}: a detector's folder needs {error.name}, which is not installed: "
                'in a checkout of the project, pip install ".[research]", or score with an ONNX file (aasist export)'
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
        """(samples,) float32 to the logit."""
        import torch

        with torch.inference_mode():
            return self.network(self.front_end(torch.from_numpy(waveform)[None])).item()


class Onnx:
    """A detector in one ONNX file of `export.export`, in onnxruntime without torch; UserError for any other file."""

    def __init__(self, path: Path):
        import onnxruntime

        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            raise UserError(
                f"{path}: there is no such detector: name a folder or an ONNX file (aasist export)"
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        if refers_outside(data):
            raise UserError(f"{path} keeps weights in other files, which are not read: make it with aasist export")
        # threads as OMP_NUM_THREADS says, as torch; without it one per core
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads sleep
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the format that is checked above
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors for a broken file have no other base
            raise UserError(
                f"{path} is no ONNX model that can be used ({' '.join(str(error).split())[:150]})"
            ) from None
        self.path, self.metadata = Path(path), dict(self.session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("format") != FORMAT:
            raise UserError(f"{path} is an ONNX model, but no detector of this version: make it with aasist export")
        try:
            self.sample_rate = int(self.metadata["sample_rate"])
            self.window_seconds = float(self.metadata["window_seconds"])
            self.about = {name: json.loads(self.metadata[name]) for name in ("features", "model")}
            self.calibration = json.loads(self.metadata["calibration"])
            self.thresholds = {name: float(x) for name, x in json.loads(self.metadata["thresholds"]).items()}
            self.policy = self.metadata["policy"]
            self.thresholds[self.policy]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: its metadata is broken ({error!r}): make it again with aasist export") from None
        if not (self.sample_rate > 0 and self.window_seconds > 0):
            raise UserError(f"{path}: its metadata is broken (sample_rate, window_seconds): make it again")
        inputs, outputs = ({x.name for x in found} for found in (self.session.get_inputs(), self.session.get_outputs()))
        if inputs != {"waveform"} or "score" not in outputs:
            raise UserError(f"{path} does not take a waveform to a score: make it again with aasist export")

    def __call__(self, waveform: np.ndarray) -> float:
        """(samples,) float32 to the logit."""
        try:
            (found,) = self.session.run(["score"], {"waveform": waveform[None]})
            return float(found[0])
        except Exception as error:
            raise UserError(f"{self.path} cannot score it ({' '.join(str(error).split())[:150]})") from None


def refers_outside(model: bytes) -> bool:
    """Whether an ONNX model keeps a tensor in another file: onnxruntime would read any path that it names."""
    at = model.find(b"location")
    while at >= 0:
        if LOCATION_KEY.search(model, max(0, at - 20), at):
            return True
        at = model.find(b"location", at + 1)
    return False
