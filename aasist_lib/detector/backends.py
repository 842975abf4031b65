"""What a detector runs on: a waveform to the network's raw score, by torch or onnxruntime.

Both have `sample_rate` (Hz) and `window_seconds`. Either library is imported only when a detector is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aasist_lib.base.errors import UserError

FORMAT = "aasist 1"  # in an exported file's metadata
# Paths to tensors in messages of onnx.proto: kind -> field -> kind of its content
NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor


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
        # onnxruntime would read any path that the file names; parsed here, so that the package onnx is not needed
        try:
            outside = refers_outside(memoryview(data))
        except (ValueError, RecursionError):  # no protocol buffer, or endlessly nested graphs
            raise UserError(f"{path} is no ONNX model: make it with aasist export") from None
        if outside:
            raise UserError(f"{path} keeps weights in other files, which are not read: make it with aasist export")
        # threads as OMP_NUM_THREADS says, as torch; without it one per core
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads sleep
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors for a broken file have no other base
            raise UserError(f"{path} cannot be used ({' '.join(str(error).split())[:150]})") from None
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


def refers_outside(model: memoryview, kind: str = "model") -> bool:
    """Whether an ONNX model keeps a tensor in another file; ValueError if it is not a protocol buffer."""
    inner = NESTED[kind]
    for number, value in _fields(model):
        if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
            return True
        if number in inner and (not isinstance(value, memoryview) or refers_outside(value, inner[number])):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of an encoded protocol buffer: an integer, or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(message):
                break
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number breaks off")

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire) if wire != 2 else varint()
        if size is None or not number or at + size > len(message):
            raise ValueError("no such field")
        at += size
        yield number, message[at - size : at]
