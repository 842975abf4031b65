"""Settings: what params.yaml may say, and what a person reads when it says something else.

| what | test |
|---|---|
| the committed file is valid, and the same for DVC's YAML (1.2) and papermill's (1.1) | test_committed |
| a section alone; mistakes elsewhere do not matter to it | test_section_alone |
| every kind of mistake is named with its key and what to do | test_mistakes |
| settings may be laid over the file's, and are checked alike | test_overlaid |
| of an encoder's layers: all, mean, or different numbers | test_layers |
| several mistakes are told together | test_together |
| a file that is no YAML, or absent | test_no_settings |
| every kind, network and choice of the schema is one that the library has, and the other way round | test_choices |
| the settings of a kind or network are those that its class takes | test_classes |
"""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from aasist_lib import calibration, corpora, evaluation, features, models, params, store
from aasist_lib.augment import effects, rawboost
from aasist_lib.base.errors import UserError
from aasist_lib.evaluation import scorefiles
from aasist_lib.features.normalise import WAYS
from aasist_lib.models import aasist
from aasist_lib.training import distributed, losses

COMMITTED = Path(__file__).parents[1] / "params.yaml"
TEXT = COMMITTED.read_text("utf-8")


@pytest.fixture
def changed(tmp_path):
    def changed(key, new):
        """With another line in the place of the key's, whatever value that has at present."""
        text, found = re.subn(rf"^ *{key}:.*$", new, TEXT, flags=re.MULTILINE)
        assert found == 1
        path = tmp_path / "params.yaml"
        path.write_text(text, "utf-8")
        return path

    return changed


def test_committed():
    settings = params.load(COMMITTED)
    raw = yaml.safe_load(TEXT)
    chosen = {"features": raw["features"][raw["features"]["kind"]], "model": raw["model"][raw["model"]["name"]]}
    for section, value in settings.items():
        flat = {key: one for key, one in raw[section].items() if not isinstance(one, dict)} if section in chosen else {}
        assert value == (flat | chosen[section] if section in chosen else raw[section])
    assert list(settings) == list(params.Params.model_fields)


def test_section_alone(changed):
    path = changed("max_epochs", "  max_epoch: 3")
    assert params.read("seed", path) == params.load(COMMITTED)["seed"]
    assert params.read("model", path) == params.load(COMMITTED)["model"]
    with pytest.raises(UserError, match="max_epoch is not a setting: did you mean 'max_epochs'"):
        params.read("train", path)
    with pytest.raises(UserError, match="no section 'trian': did you mean 'train'"):
        params.read("trian", path)


def test_whole_number_where_a_share_is_meant(changed):
    value = params.read("train", changed("crop_seconds", "  crop_seconds: 2"))["crop_seconds"]
    assert value == 2.0 and isinstance(value, float)


@pytest.mark.parametrize(
    "key, new, said",
    [
        ("lr", "  lr: '3e-4'", "train.lr: '3e-4' is text, not a number: write 3.0e-4"),
        ("lr", "  lr: fast", "train.lr: 'fast' is text, not a number"),
        ("lr", "  lr: 0", "train.lr: 0: input should be greater than 0"),
        ("lr", "  lr: .nan", "train.lr: nan"),
        ("lr", "  lr:", "train.lr: None"),
        ("mfcc", "  mfcc: {n_mfcc: 20, nmels: 64}", "features.mfcc.nmels is not a setting: did you mean 'n_mels'"),
        ("mfcc", "  mfcc: {n_mfcc: 20, n_mels: 1}", "must not exceed n_mels (1)"),
        ("mfcc", "  mfcc: {n_mfcc: 20, n_mels: 64.5}", "features.mfcc.n_mels: 64.5"),
        ("deltas", "  deltas: 3", "features.deltas: 3"),
        ("noise_snr_db", "  noise_snr_db: [30, 5]", "augment.noise_snr_db: 30 to 5 is no range"),
        ("address", "  address: tcp://x:1", "compute: address tcp://x:1 is of a Dask cluster: set backend: dask"),
        ("eval_format", "  eval_format: wavefak", "none of '', protocol, "),
        ("hop_length", "  hop_length: 99999", "features: hop_length (99999) must not exceed n_fft"),
        ("resnet", "  resnet: {width: 0, dropout: 0.3}", "model.resnet.width: 0"),
        (
            "transformer",
            "  transformer: {width: 96, heads: 5, layers: 4, dropout: 0.1}",
            "must be a multiple of heads (5)",
        ),
        ("fakes", "  fakes: 0", "audit.fakes: 0"),
        ("fold_draws", "  fold_draw: 4000", "audit.fold_draw is not a setting: did you mean 'fold_draws'"),
        ("threads", "threads: true", "threads: True"),
        ("threads", "threads: 0", "threads: 0"),
        ("threads", "thread: 2", "threads is missing"),
        ("policy", "  policy: equal_errors", "did you mean 'equal_error'"),
        ("name", "  name: cnn_atention", "model.name: 'cnn_atention' is none of"),
        ("train", "train: 3\nx:", "train must hold `key: value` lines, not 3"),
    ],
)
def test_mistakes(changed, key, new, said):
    with pytest.raises(UserError) as error:
        params.load(changed(key, new))
    assert said in str(error.value)
    assert str(error.value).startswith("params.yaml: ")


def test_overlaid():
    found = params.overlaid({"model": {"name": "resnet", "resnet": {"width": 8}}, "train": {"lr": 2.0e-3}}, COMMITTED)
    committed = params.load(COMMITTED)
    assert found["model"] == {"name": "resnet", "width": 8, "dropout": 0.3}
    assert found["train"] == committed["train"] | {"lr": 2.0e-3}
    assert params.overlaid({}, COMMITTED) == committed
    with pytest.raises(UserError, match="^lfcc-gmm: train.lrr is not a setting: did you mean 'lr'"):
        params.overlaid({"train": {"lrr": 1.0}}, COMMITTED, "lfcc-gmm")


@pytest.mark.parametrize("layers", ["all", "mean", [0, 5], [], [1, 1], [-1], [1.5], [True], "last", 3])
def test_layers(layers):
    changes = {"features": {"kind": "wav2vec2", "wav2vec2": {"layers": layers}}}
    if layers in ("all", "mean", [0, 5]):
        assert params.overlaid(changes, COMMITTED)["features"]["layers"] == layers
    else:
        with pytest.raises(UserError, match="^changes: features.wav2vec2.layers: .* is neither all, nor mean"):
            params.overlaid(changes, COMMITTED)


def test_together(changed):
    with pytest.raises(UserError) as error:
        params.load(changed("lr", "  learning_rate: 0.1"))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    "text, said", [("a: [1", "is not YAML"), ("3", "must be sections"), ("seed: 1\nseed: 2", "YAML")]
)
def test_no_settings(tmp_path, text, said):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        params.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        params.load(tmp_path / "absent.yaml")


def test_renamed():
    """Keys and values of before are refused with what they are called now."""
    for changes, message in (
        ({"train": {"averaging": 0.5}}, "train.averaging is not a setting: it is now ema_decay"),
        ({"calibrate": {"policy": "few_misses"}}, "calibrate.policy: 'few_misses' is now 'min_tpr'"),
    ):
        with pytest.raises(UserError, match=f"^changes: {message}$"):
            params.overlaid(changes)


FEATURES, MODEL, AUGMENT = params.Features.model_fields, params.Model.model_fields, params.Augment.model_fields
CHOICES = [  # what the schema offers, what the library has
    (params.Format, corpora.FORMATS),
    (params.Corpus.model_fields["subset"].annotation, scorefiles.SUBSETS),
    (FEATURES["kind"].annotation, features.KINDS),
    (FEATURES["normalise"].annotation, WAYS),
    (params.Extract.model_fields["content"].annotation, store.CONTENTS),
    (params.Compute.model_fields["accelerator"].annotation, distributed.ACCELERATORS),
    (MODEL["name"].annotation, models.NETWORKS),
    (params.Aasist.model_fields["size"].annotation, aasist.SIZES),
    (get_args(AUGMENT["rawboost_kinds"].annotation)[0], rawboost.KINDS),
    (params.Train.model_fields["loss"].annotation, losses.LOSSES),
    (params.Calibrate.model_fields["policy"].annotation, calibration.POLICIES),
    (params.Calibrate.model_fields["policy"].annotation, evaluation.text.POLICIES),
]


@pytest.mark.parametrize("offered, there", CHOICES)
def test_choices(offered, there):
    assert set(get_args(offered)) == set(there)


def test_codecs():
    """Without the two that the audit alone applies."""
    assert set(get_args(get_args(AUGMENT["codecs"].annotation)[0])) <= set(effects.CODECS)


def test_classes():
    for kind, classes in features.KINDS.items():
        taken = {name for made in classes for name in inspect.signature(made).parameters} - set(features.COMMON)
        assert taken == {key for part in kind.split("+") if part in FEATURES for key in _keys(FEATURES[part])}
    for name, (options, _) in models.NETWORKS.items():
        taken = {field.name for field in dataclasses.fields(options)} - {"coefficients", "channels", "head"}
        assert taken == _keys(MODEL[name])


def _keys(field) -> set[str]:
    return set(field.annotation.model_fields)
