"""Export: what is tested.

| what | must hold |
|---|---|
| the same | score and llr of one file as of the detector in torch, within 1e-4, of any length, in windows too |
| any detector | every front-end and network that a person can choose; what cannot be is refused by name |
| calibration | a line, or the bends of an isotonic one, within the graph |
| metadata | what scoring needs and where it comes from |
| int8 | one file, convolutions of the network alone in 8 bits, llr near |
| TensorRT | only operators that it documents |
| alone | scores where nothing but the package's own dependencies can be imported: no torch, librosa, sklearn |
| other Pythons | `pip install ".[serve]"` scores and serves there: each that pyproject.toml allows and that is found |
| what is no such file | one line: missing, text, cut, another model, other files' weights, broken metadata |
| the command | `aasist export`, and `aasist score --detector` on what it wrote |
"""

import json
import math
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_embeddings import make_encoder

from aasist_lib import Detector, audio, calibration, cli, features, models
from aasist_lib.base.errors import UserError
from aasist_lib.detector import backends
from aasist_lib.serving import export

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.service import Service  # noqa: E402

BENDS = calibration.Isotonic((-2.0, -0.5, 0.5, 1.5), (-3.0, -1.0, -1.0, 2.0))
COMMON = dict(sample_rate=16000, n_fft=256, hop_length=64, deltas=0, normalise="none")
SMALL = {
    "cnn_attention": dict(width=8, heads=2, spectrum=False),
    "resnet": dict(width=4),
    "transformer": dict(width=8, heads=2, layers=1),
    "aasist": dict(size="light"),
    "wav2vec2": dict(width=8),
}
# every kind of features (but mfcc, which `exported` has) and every network, and of normalisations what differs
CHOICES = [
    ("lfcc", dict(n_lfcc=20, n_filters=40, normalise="cmvn", n_fft=255), "cnn_attention", dict(spectrum=True)),
    ("logmel", dict(n_mels=64, normalise="sliding_cmn", hop_length=160), "transformer", {}),
    ("logspec", dict(n_bands=80), "transformer", dict(head="cosine")),
    ("logspec2", dict(n_bands=40, times=4), "resnet", {}),
    ("cqt", dict(f_min=125.0, bins_per_octave=12, n_bins=48, hop_length=160), "resnet", {}),
    ("wavelet", dict(wavelet="sym8", level=5, hop_length=160), "cnn_attention", {}),
    ("mfcc+wavelet", dict(n_mfcc=20, n_mels=40, wavelet="db4", level=4, deltas=1, hop_length=160), "transformer", {}),
    pytest.param("waveform", {}, "aasist", {}, marks=pytest.mark.slow),
    ("waveform", {}, "wav2vec2", {}),
    ("wav2vec2", dict(layers=[1, 3]), "wav2vec2", {}),
]
VALUES = [getattr(choice, "values", choice) for choice in CHOICES]


def made(kind: str, settings: dict, name: str, options: dict, encoder: str = "") -> Detector:
    """An untrained detector that listens."""
    chosen = COMMON | {"kind": kind} | settings | ({"encoder": encoder} if kind == "wav2vec2" else {})
    front_end = features.build(chosen)
    torch.manual_seed(5)
    options = SMALL[name] | options | ({"encoder": encoder} if (kind, name) == ("waveform", "wav2vec2") else {})
    network = models.build(name, coefficients=front_end.coefficients, channels=front_end.channels, **options).eval()
    if name in ("cnn_attention", "resnet", "transformer"):
        network.train()
        with torch.no_grad():  # batch normalisation learns what these features look like
            rng = np.random.default_rng(2)
            noise = rng.normal(size=(8, 16000)) * np.cumsum(rng.normal(size=(8, 16000)), 1) / 400
            for _ in range(20):
                network(front_end(torch.from_numpy(noise.astype(np.float32))))
        network.eval()
    with torch.no_grad():
        network.output.weight *= 20  # or all recordings would score nearly alike
    about = {"features": chosen, "model": {"name": name, **options}}
    return Detector(backends.Torch(network, about), BENDS, {"equal_error": 0.1, "min_cost": -1.0}, "equal_error")


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "detector.onnx"
    export.export(Detector.load(folder), path)
    return path


@pytest.fixture
def at_once(exported, monkeypatch):
    """The graph of `folder` without the seconds that making it takes."""
    model = onnx.load(exported)
    del model.metadata_props[:]
    monkeypatch.setattr(export, "graph", lambda detector: model)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def waves(speech_files) -> list[np.ndarray]:
    """Real speech of 0.25 s to 11.9 s."""
    whole = np.concatenate([audio.read(path, 16000) for path in speech_files])
    return [whole[start : start + count] for start, count in ((9000, 4000), (0, 16001), (60000, 64007), (0, 190400))]


def differences(one: Detector, other: Detector, waves) -> list[float]:
    return [abs(one.backend(wave) - other.backend(wave)) for wave in waves]


def test_the_same_as_in_torch(folder, exported, speech_files, tmp_path):
    long = np.resize(np.concatenate([audio.read(path, 16000) for path in speech_files]), 30 * 16000)
    soundfile.write(tmp_path / "long.wav", long, 16000)
    files = [*speech_files, tmp_path / "long.wav"]
    expected, found = Detector.load(folder).score(files), Detector.load(exported).score(files)
    np.testing.assert_allclose(found["llr"], expected["llr"], atol=1e-4)
    assert found.drop(columns="llr").equals(expected.drop(columns="llr")) and expected["llr"].std() > 0.01
    (a, b) = (Detector.load(path).score_one(tmp_path / "long.wav").windows for path in (folder, exported))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_graph_gives_both_and_takes_any_batch(folder, exported, waves):
    detector, session = Detector.load(folder), Detector.load(exported).backend.session
    for batch in (np.stack([waves[3][:9001], waves[3][-9001:], waves[2][:9001]]), waves[0][None], waves[3][None]):
        llr, score = session.run(["llr", "score"], {"waveform": batch})
        expected = [detector.backend(wave) for wave in batch]
        np.testing.assert_allclose(score, expected, atol=1e-4)
        np.testing.assert_allclose(llr, detector.calibrated(expected), atol=1e-4)
    assert not operators(onnx.load(exported)) - of_tensorrt()
    (takes,) = session.get_inputs()
    assert (takes.name, takes.shape, takes.type) == ("waveform", ["batch", "samples"], "tensor(float)")


@pytest.mark.parametrize("kind, settings, name, options", CHOICES, ids=[f"{c[0]}-{c[2]}" for c in VALUES])
def test_any_detector(kind, settings, name, options, waves, tmp_path, request):
    needs = "wav2vec2" in (kind, name)
    detector = made(kind, settings, name, options, request.getfixturevalue("encoder") if needs else "")
    export.export(detector, tmp_path / "a.onnx")
    other = Detector.load(tmp_path / "a.onnx")
    scores = [detector.backend(wave) for wave in waves]
    assert np.ptp(scores) > 1e-3 and max(differences(detector, other, waves)) < 1e-4
    llr = [other.backend.session.run(["llr"], {"waveform": wave[None]})[0][0] for wave in waves]
    np.testing.assert_allclose(llr, BENDS(scores), atol=4e-4)  # whose slope is up to 3
    assert not operators(onnx.load(tmp_path / "a.onnx")) - of_tensorrt()


def test_all_choices_are_among_them():
    assert {"mfcc", *(kind for kind, *_ in VALUES)} == set(features.KINDS)
    assert {name for *_, name, _ in VALUES} == set(models.NETWORKS)


def test_bends():
    scores = torch.linspace(-4, 3, 101)
    np.testing.assert_allclose(export.PiecewiseLinear(BENDS)(scores), BENDS(scores), atol=1e-6)
    constant = calibration.Isotonic((0.5,), (-0.25,))
    assert export.PiecewiseLinear(constant)(scores).tolist() == [-0.25] * 101


def test_metadata(folder, exported):
    detector, held = Detector.load(exported), Detector.load(exported).backend.metadata
    assert detector.thresholds == Detector.load(folder).thresholds and detector.policy == "equal_error"
    assert (held["sample_rate"], held["window_seconds"], held["min_seconds"]) == ("16000", "8.0", "0.25")
    assert json.loads(held["features"]) == json.loads((folder / "network.json").read_text())["features"]
    assert json.loads(held["calibration"]) == {"kind": "affine", "scale": 2.0, "offset": 0.25}
    assert held["numbers"] == "float32" and len(held["settings"]) == len(held["weights"]) == 64
    assert held["version"] and "data" not in held
    with pytest.raises(AttributeError, match="Onnx has no 'network'"):
        detector.network  # noqa: B018


def test_where_the_data_come_from(tmp_path):
    (tmp_path / "models/detector").mkdir(parents=True)
    assert export.provenance(tmp_path / "models/detector") == {}
    (tmp_path / "data.dvc").write_text("outs:\n- path: data\n  md5: 0123.dir\n")
    assert export.provenance(tmp_path / "models/detector") == {"data": "0123.dir"}
    (tmp_path / "dvc.lock").write_text("stages:\n  extract:\n    deps:\n    - path: data\n      md5: 4567.dir\n")
    assert export.provenance(tmp_path / "models/detector") == {"data": "4567.dir"}


def test_int8(folder, exported, at_once, speech_files, tmp_path):
    detector = Detector.load(folder)
    export.export(detector, tmp_path / "int8.onnx", clips=speech_files[:8])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert (tmp_path / "int8.onnx").stat().st_size < exported.stat().st_size
    model = onnx.load(tmp_path / "int8.onnx")
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert sum("Dequantize" not in name for name in weights) == 1 < len(weights)  # of the spectra
    assert "QuantizeLinear" in operators(model)
    other = Detector.load(tmp_path / "int8.onnx")
    assert other.backend.metadata["numbers"] == "int8"
    found, expected = other.score(speech_files)["llr"], detector.score(speech_files)["llr"]
    assert 0 < (found - expected).abs().max() < 0.5 and found.corr(expected) > 0.8


def test_int8_needs_clips(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(UserError, match="none of the recordings of dev can be used"):
        export.in_int8(onnx.ModelProto(), [tmp_path / "a.wav"], 16000)


def operators(model: onnx.ModelProto) -> set[str]:
    assert not model.functions and all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    assert all(attribute.type != onnx.AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute)
    return {node.op_type for node in model.graph.node}


def of_tensorrt() -> set[str]:
    return set((ROOT / "tests/tensorrt_operators.txt").read_text().split("\n", 1)[1].split())


ALONE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[4:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from aasist_lib import Detector
from aasist_lib.cli import main
row = Detector.load(sys.argv[1]).score(sys.argv[2]).iloc[0]
print(row["llr"], row["error"])
assert main(["score", sys.argv[2], "--detector", sys.argv[1], "--format", "csv"]) == 0
for wants_more in (["score", sys.argv[2]], ["export"]):
    assert main([*wants_more, "--detector", sys.argv[3]]) == 2
assert main(["metrics", "scores", "keys", "--format", "csv"]) == 2
"""


def beyond() -> set[str]:
    """Modules that `pip install aasist` without extras does not bring: it brings dependencies, theirs, and so on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found, todo = {"aasist"}, list(map(Requirement, project["dependencies"]))
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            todo += map(Requirement, metadata.requires(name) or [])
    named = metadata.packages_distributions()
    return {module for module, names in named.items() if not found & set(map(canonicalize_name, names))}


def test_scores_without_torch(folder, exported, speech_files):
    """Where nothing can be imported but what the package itself asks for."""
    modules = beyond()
    assert {"torch", "librosa", "sklearn", "scipy", "onnx"} <= modules and "onnxruntime" not in modules
    expected = Detector.load(folder).score(speech_files[0])["llr"][0]
    command = [sys.executable, "-c", ALONE, str(exported), str(speech_files[0]), str(folder), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    llr, *error = done.stdout.splitlines()[0].split()
    assert float(llr) == pytest.approx(expected, abs=1e-4) and not error
    wants, *others = done.stderr.splitlines()
    assert wants.startswith(f"aasist: {folder}: a detector's folder needs ") and 'pip install ".[research]"' in wants
    assert [line.split(": in a checkout")[0] for line in others] == [
        "aasist: export needs onnx, which is not installed", "aasist: metrics needs scipy, which is not installed",
    ]  # fmt: skip


def other_python(version: str) -> Path | str | None:
    """One that starts: what pyenv puts into PATH need not."""
    for python in (shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        if python and subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return python
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", [v for v in ("3.11", "3.12", "3.13") if not sys.version.startswith(f"{v}.")])
def test_installed_in_another_python(version, folder, exported, speech_files, tmp_path, monkeypatch):
    """What `pip install ".[serve]"` brings there, in the versions of requirements.lock, scores and serves the file."""
    python = other_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} in PATH or in ~/.pyenv/versions")
    package, environment = tmp_path / "package", tmp_path / "environment"
    shutil.copytree(ROOT / "aasist_lib", package / "aasist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, package)
    subprocess.run([python, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--constraint", ROOT / "requirements.lock", f"{package}[serve]"], check=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "executable", str(environment / "bin/python"))
    expected = pytest.approx(Detector.load(folder).score(speech_files[0])["llr"][0], abs=1e-4)
    command = [environment / "bin/aasist", "score", speech_files[0], "--detector", exported, "--format", "json"]
    (scored,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert scored["llr"] == expected
    with Service(exported, PYTHONPATH="") as service, open(speech_files[0], "rb") as file:
        answer = httpx.post(f"{service.url}/v1/score", files={"file": file}).json()
    assert answer["files"][0]["llr"] == expected


def varint(number: int) -> bytes:
    low = bytes([number & 0x7F | (0x80 if number > 0x7F else 0)])
    return low + (varint(number >> 7) if number > 0x7F else b"")


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        Detector.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_such_file(exported, tmp_path):
    path = tmp_path / "a.onnx"
    refused(path, "there is no such detector")
    path.write_text("not a model, but text that goes on for a while")
    refused(path, "no ONNX model")
    whole = exported.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "no ONNX model")
    path.write_bytes(b"")
    refused(path, "no ONNX model")
    inner = b""
    for _ in range(2000):  # a graph in an attribute of a node of a graph, and so on
        for field in (6, 5, 1):
            inner = bytes([field << 3 | 2]) + varint(len(inner)) + inner
    path.write_bytes(bytes([7 << 3 | 2]) + varint(len(inner)) + inner)
    refused(path, "no ONNX model")


def test_another_model(exported, tmp_path):
    path = tmp_path / "a.onnx"
    model = onnx.load(exported)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    refused(path, "no detector of this version")
    for name, value in (("thresholds", "{}"), ("sample_rate", "fast"), ("policy", "other"), ("features", "{")):
        held = Detector.load(exported).backend.metadata | {name: value}
        onnx.helper.set_model_props(model, held)
        path.write_bytes(model.SerializeToString())
        refused(path, "its metadata is broken")
    onnx.helper.set_model_props(model, Detector.load(exported).backend.metadata | {"calibration": '{"kind": "affine"}'})
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="calibration: scale None"):
        Detector.load(path)


def test_weights_in_other_files_are_refused(exported, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4 * 2**20))

    def outside(tensor):
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "secret"

    places = []
    for place in range(4):
        model = onnx.load(exported)
        tensor = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [4], np.zeros(4, np.float32).tobytes(), raw=True)
        if place == 0:
            outside(model.graph.initializer[0])
        elif place == 1:  # the value of a node
            outside(tensor)
            model.graph.node.append(onnx.helper.make_node("Constant", [], ["t"], value=tensor))
        elif place == 2:  # a graph within a node
            outside(tensor)
            inner = onnx.helper.make_graph([], "inner", [], [], initializer=[tensor])
            model.graph.node.append(onnx.helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=inner))
        else:  # a function of the model's own
            outside(tensor)
            node = onnx.helper.make_node("Constant", [], ["t"], value=tensor)
            imports = [onnx.helper.make_opsetid("", 20)]
            model.functions.append(onnx.helper.make_function("own", "f", [], ["t"], [node], imports))
        places.append(tmp_path / f"{place}.onnx")
        places[-1].write_bytes(model.SerializeToString())
        refused(places[-1], "keeps weights in other files")
    whole = exported.read_bytes()
    assert not backends.refers_outside(whole) and not backends.refers_outside(whole + b"\x12\x08location")
    for tag, size in (
        (b"\x0a", b"\x08"),
        (b"\x8a\x80\x00", b"\x08"),
        (b"\x0a", b"\x88\x80\x80\x80\x10"),
    ):  # all are read
        assert backends.refers_outside(whole + tag + size + b"location" + whole)


def test_onnxruntimes_own_format_is_refused(exported, tmp_path):
    """There, files are named otherwise."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "a.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    refused((tmp_path / "a.ort").rename(tmp_path / "a.onnx"), "no ONNX model")


def test_what_cannot_be_exported_is_named(exported, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is exported already"):
        export.export(Detector.load(exported), tmp_path / "a.onnx")
    detector = made("logspec", dict(n_bands=20, hop_length=160), "cnn_attention", {})

    def forward(x):
        return torch.linalg.eigvals(x[:, :20, :20]).abs().sum((1,))  # no operator of ONNX

    monkeypatch.setattr(detector.network, "forward", forward)
    with pytest.raises(UserError, match="features.kind: logspec with model.name: cnn_attention cannot be exp") as error:
        export.export(detector, tmp_path / "a.onnx")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="GiB of weights are more than one ONNX file holds"):
        export.export(detector, tmp_path / "a.onnx")


def test_command(folder, at_once, speech_files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--detector", str(folder)]) == 0
    assert "detector.onnx: " in capsys.readouterr().out
    assert cli.main(["score", str(speech_files[0]), "--detector", "detector.onnx", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["llr"] == pytest.approx(Detector.load(folder).score(speech_files[0])["llr"][0], abs=1e-4)
    for arguments, said in (
        (["--detector", str(folder), "--output", "absent/a.onnx"], "is not a folder"),
        (["--detector", str(folder), "--int8"], "no dvc.yaml"),
        ([], "no detector here"),
    ):
        assert cli.main(["export", *arguments]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "data/protocol.csv").exists() or not (ROOT / "models/detector").exists(), reason="no corpus"
)
def test_two_hundred_clips_of_the_corpus(tmp_path):
    import pandas as pd

    detector = Detector.load(ROOT / "models/detector")
    export.export(detector, tmp_path / "a.onnx")
    table = pd.read_csv(ROOT / "data/protocol.csv", usecols=["path", "split"])
    clips = [ROOT / "data" / path for path in table[table["split"] == "eval"]["path"].sample(200, random_state=1)]
    expected, found = detector.score(clips), Detector.load(tmp_path / "a.onnx").score(clips)
    assert expected["seconds"].nunique() > 100 and expected["llr"].std() > 1
    np.testing.assert_allclose(found["llr"], expected["llr"], atol=1e-4)
    assert (found["decision"] == expected["decision"]).all() and not math.isnan(found["llr"].sum())
