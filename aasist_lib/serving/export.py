"""Exports a detector as one ONNX file: waveform in, log-likelihood ratio out, with front-end and calibration.

Input `waveform`, (batch, samples) float32, at least `MIN_SECONDS`; outputs `llr`, the calibrated natural-log likelihood
ratio, and `score`, the raw logit, each (batch,). A waveform is one window: `Detector` averages over longer recordings.
Spectra are matrix products instead of FFTs: faster in onnxruntime, and TensorRT has no discrete Fourier transform.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import tempfile
import warnings
from contextlib import suppress
from importlib import metadata as packages
from pathlib import Path

import numpy as np
import onnx
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from aasist_lib import audio, calibration
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.detector import MIN_SECONDS, Detector, backends
from aasist_lib.features.bands import lowest
from aasist_lib.features.spectra import Spectrum
from aasist_lib.features.windows import WINDOW_SECONDS
from aasist_lib.models import aasist

OPSET = 20  # the first with Gelu as one operator
MOST_BYTES = 2**31 - 2**20  # limit of a protocol buffer
CLIPS = 100  # of dev, half of each class, for the ranges of int8
NAMES = ("llr", "score")
IN_INT8 = ("Conv", "MaxPool", "Add", "Relu")


class DftConv(nn.Module):
    """Replaces a `Spectrum`: the same decibels, by a convolution with windowed sines and cosines."""

    def __init__(self, spectrum: Spectrum):
        super().__init__()
        size = spectrum.n_fft
        self.half, self.hop_length, self.finish = size // 2, spectrum.hop_length, spectrum.finish
        window = torch.hann_window(size, dtype=torch.float64)
        angles = 2 * math.pi / size * torch.outer(torch.arange(self.half + 1), torch.arange(size)).double()
        sines = angles.sin()[1 : (size + 1) // 2]  # the first is 0, and for even sizes the last
        self.missing = (1, self.half - len(sines))
        kernels = window * torch.cat([angles.cos(), sines])
        self.register_buffer("kernels", kernels.float()[:, None])  # (cosines then sines of the bins, 1, size)
        filters = torch.zeros(self.half + 1, sum(getattr(spectrum, name).shape[1] for name, _ in spectrum._blocks))
        first = 0
        for name, bins in spectrum._blocks:
            block = getattr(spectrum, name)
            filters[bins, first : first + block.shape[1]] = block
            first += block.shape[1]
        self.register_buffer("filters", filters.T[None].contiguous())  # (1, bands, bins)

    def forward(self, waveforms: Tensor) -> Tensor:
        padded = nn.functional.pad(waveforms, (self.half, self.half))[:, None]
        squares = nn.functional.conv1d(padded, self.kernels, stride=self.hop_length).square()
        real, imaginary = squares[:, : self.half + 1], squares[:, self.half + 1 :]
        power = (self.filters @ (real + nn.functional.pad(imaginary, (0, 0, *self.missing)))).transpose(1, 2)
        return self.finish(torch.maximum(power, lowest(power)).log10()).transpose(1, 2)


class PiecewiseLinear(nn.Module):
    """Isotonic calibration as a sum of steps, one between each two knots, weighted by the share passed."""

    def __init__(self, fit: calibration.Isotonic):
        super().__init__()
        self.lowest = fit.llrs[0]
        at, llrs = torch.tensor(fit.scores, dtype=torch.float64), torch.tensor(fit.llrs, dtype=torch.float64)
        for name, values in (("at", at[:-1]), ("per", 1 / at.diff()), ("steps", llrs.diff())):
            self.register_buffer(name, values.float())

    def forward(self, scores: Tensor) -> Tensor:
        """(batch,) logits to (batch,) LLRs."""
        return self.lowest + (((scores[:, None] - self.at) * self.per).clamp(0, 1) * self.steps).sum(1)


class ExportModule(nn.Module):
    """Traceable detector: waveforms (batch, samples) to LLRs and raw scores, each (batch,)."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.front_end = copy.deepcopy(detector.front_end)
        for parent in list(self.front_end.modules()):
            for name, part in parent.named_children():
                if isinstance(part, Spectrum):
                    setattr(parent, name, DftConv(part))
        self.network = copy.deepcopy(detector.network)
        self.repeats = math.ceil(aasist.SAMPLES / MIN_SECONDS / detector.sample_rate)
        fit = detector.calibrated
        self.calibrated = PiecewiseLinear(fit) if isinstance(fit, calibration.Isotonic) else None
        self.line = None if self.calibrated else (fit.scale, fit.offset)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.network, aasist.AASIST):
            # it repeats short input, by a number that cannot be traced: repeat as for the shortest, then cut
            waveform = waveform[:, : aasist.SAMPLES].repeat(1, self.repeats)[:, : aasist.SAMPLES]
        score = self.network(self.front_end(waveform))
        return (self.calibrated(score) if self.calibrated else self.line[0] * score + self.line[1]), score


def export(detector: Detector, output: Path, *, about: dict[str, str] | None = None, clips=None) -> int:
    """Write a detector as one ONNX file, completely or not at all.

    Parameters
    ----------
    detector
        Loaded from a folder, not from an ONNX file.
    about
        Additional metadata of the file, such as `provenance`.
    clips
        Paths of recordings of dev. If given, convolutions are quantised to 8 bits: see `in_int8`.

    Returns
    -------
    size
        Bytes written.

    Raises
    ------
    UserError
        The network or front-end cannot be exported, or the file cannot be written.
    """
    made = graph(detector)
    if clips is not None:
        made = in_int8(made, clips, detector.sample_rate)
    held = metadata(detector) | (about or {}) | {"numbers": "float32" if clips is None else "int8"}
    onnx.helper.set_model_props(made, held)
    onnx.checker.check_model(made)
    content = made.SerializeToString()
    with files.whole(output) as beside:
        beside.write_bytes(content)
    return len(content)


def graph(detector: Detector) -> onnx.ModelProto:
    """Export the float32 graph of a detector, without metadata; UserError if that is not possible."""
    if not isinstance(detector.backend, backends.Torch):
        raise UserError("an ONNX file is exported already: name the folder of a detector")
    kind, name = detector.about["features"].get("kind", "mfcc"), detector.about.get("model", {}).get("name", "")
    refused = f"features.kind: {kind} with model.name: {name} cannot be exported"
    module = ExportModule(detector).eval()
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > MOST_BYTES:
        raise UserError(f"{refused}: its {size / 2**30:.1f} GiB of weights are more than one ONNX file holds")
    least = math.ceil(MIN_SECONDS * detector.sample_rate)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=least)}
    said = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of missing libraries and of opset conversions
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                module,
                (torch.zeros(2, 2 * least),),
                input_names=["waveform"],
                output_names=list(NAMES),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(sizes,),
                verbose=False,
            ).model_proto
    except Exception as error:  # any failure of the exporter: the network's name says more than the stack
        while error.__cause__:
            error = error.__cause__
        raise UserError(f"{refused} ({' '.join(str(error).split())[:150]})") from None
    finally:
        logging.disable(said)
    return made


def metadata(detector: Detector) -> dict[str, str]:
    """Metadata of the ONNX file: what `backends.Onnx` needs beside the graph, and hashes of settings and weights."""
    backend, fit = detector.backend, detector.calibrated.to_dict()
    weights = hashlib.sha256()
    for name, tensor in sorted(backend.network.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return {
        "format": backends.FORMAT,
        "version": packages.version("aasist"),
        "sample_rate": str(detector.sample_rate),
        "min_seconds": str(MIN_SECONDS),
        "window_seconds": str(backend.window_seconds),
        "policy": detector.policy,
        "settings": hashlib.sha256(_json([backend.about, fit]).encode()).hexdigest(),
        "weights": weights.hexdigest(),
        "features": _json(backend.about["features"]),
        "model": _json(backend.about.get("model", {})),
        "calibration": _json(fit),
        "thresholds": _json(detector.thresholds),
    }


def provenance(folder: Path) -> dict[str, str]:
    """Hash of the data (`data`) that a detector was trained on, from dvc.lock or data.dvc above its folder; or {}."""
    for root in Path(folder).absolute().parents:
        if (root / "dvc.lock").is_file():
            stages = YAML(typ="safe").load(root / "dvc.lock").get("stages") or {}
            found = [dep.get("md5") for dep in stages.get("extract", {}).get("deps", []) if dep.get("path") == "data"]
            if found and found[0]:
                return {"data": found[0]}
        if (root / "data.dvc").is_file():
            (out,) = YAML(typ="safe").load(root / "data.dvc")["outs"]
            return {"data": out["md5"]} if "md5" in out else {}
    return {}


def project_clips() -> list[Path]:
    """`dev_clips` of the project's data/; UserError without a project or its data."""
    from aasist_lib import corpora, params
    from aasist_lib.base import paths

    root = paths.root()
    table, _ = corpora.from_settings(root / "data", params.read("corpus", root / "params.yaml"))
    return dev_clips(table, root / "data")


def dev_clips(table, root: Path, count: int = CLIPS) -> list[Path]:
    """Choose up to `count` recordings spread evenly over dev, half of each class."""
    dev = table[table["split"] == "dev"]
    found = []
    for _, rows in dev.groupby("label", sort=True):
        at = np.unique(np.linspace(0, len(rows) - 1, count // 2).astype(int))
        found += [Path(root) / path for path in rows["path"].iloc[at]]
    if not found:
        raise UserError("--int8: there are no recordings of dev, from which the ranges of numbers are taken")
    return found


def in_int8(made: onnx.ModelProto, clips, sample_rate: int) -> onnx.ModelProto:
    """Quantise the convolutions, and what lies between them, to 8 bits, with ranges from `clips`."""
    # Spectra, attention, pooling and calibration stay in float32: quantising them costs more than it gains. Weights are
    # symmetric, per output channel; activations, mostly after a rectifier, are not.
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    waveforms = iter([{"waveform": waveform[None]} for waveform in _first_windows(clips, sample_rate)])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(waveforms, None)

    others = {node.name for node in made.graph.node if "/network: " not in _origin(node)}
    with tempfile.TemporaryDirectory() as folder:
        first, ready, done = (str(Path(folder) / name) for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(made, first)
        # folds batch normalisation into the convolutions, for one rounding instead of two
        shape_inference.quant_pre_process(first, ready, skip_symbolic_shape=True)
        chosen = {node.name: node.op_type for node in onnx.load(ready).graph.node if node.op_type in IN_INT8}
        chosen = {name: kind for name, kind in chosen.items() if name not in others}
        if "Conv" not in chosen.values():
            raise UserError("--int8: this network has no convolutions, which alone are in 8-bit numbers")
        quantization.quantize_static(
            ready,
            done,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=list(chosen),
            op_types_to_quantize=list(IN_INT8),
            extra_options={"WeightSymmetric": True},
        )
        return onnx.load(done)


def _first_windows(clips, sample_rate: int) -> list[np.ndarray]:
    """First window of each usable clip, (samples,) each."""
    found = []
    for path in clips:
        with suppress(audio.BadAudio):
            found.append(next(audio.read_windows(path, sample_rate, WINDOW_SECONDS)))
    found = [waveform for waveform in found if len(waveform) >= MIN_SECONDS * sample_rate]
    if not found:
        raise UserError("--int8: none of the recordings of dev can be used")
    return found


def _origin(node) -> str:
    """Module that a node came from, according to the exporter."""
    return next((x.value for x in node.metadata_props if x.key == "namespace"), "")


def _json(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
