"""Settings: what params.yaml may say, and what a person reads when it says something else.

| what | test |
|---|---|
| the committed file is valid, and the same for DVC's YAML (1.2) and papermill's (1.1) | test_committed |
| a section alone; mistakes elsewhere do not matter to it | test_section_alone |
| every kind of mistake is named with its key and what to do | test_mistakes |
| several mistakes are told together | test_together |
| a file that is no YAML, or absent | test_no_settings |
"""

from pathlib import Path

import pytest
import yaml

from aasist_lib.errors import UserError
from aasist_lib.pipeline import params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
TEXT = COMMITTED.read_text("utf-8")


@pytest.fixture
def changed(tmp_path):
    def changed(old, new):
        assert TEXT.count(old) == 1
        path = tmp_path / "params.yaml"
        path.write_text(TEXT.replace(old, new), "utf-8")
        return path

    return changed


def test_committed():
    settings = params.load(COMMITTED)
    assert settings == yaml.safe_load(TEXT)
    assert list(settings) == list(params.Params.model_fields)


def test_section_alone(changed):
    path = changed("max_epochs: ", "max_epoch: ")
    assert params.read("seed", path) == params.load(COMMITTED)["seed"]
    assert params.read("model", path) == params.load(COMMITTED)["model"]
    with pytest.raises(UserError, match="max_epoch is not a setting: did you mean 'max_epochs'"):
        params.read("train", path)
    with pytest.raises(UserError, match="no section 'trian': did you mean 'train'"):
        params.read("trian", path)


def test_whole_number_where_a_share_is_meant(changed):
    value = params.read("train", changed("crop_seconds: 2.0", "crop_seconds: 2"))["crop_seconds"]
    assert value == 2.0 and isinstance(value, float)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("  lr: 1.0e-3", "  lr: '3e-4'", "train.lr: '3e-4' is text, not a number: write 3.0e-4"),
        ("  lr: 1.0e-3", "  lr: fast", "train.lr: 'fast' is text, not a number"),
        ("  lr: 1.0e-3", "  lr: 0", "train.lr: 0: input should be greater than 0"),
        ("  lr: 1.0e-3", "  lr: .nan", "train.lr: nan"),
        ("  lr: 1.0e-3", "  lr:", "train.lr: None"),
        ("  n_mels: 64", "  nmels: 64", "features.nmels is not a setting: did you mean 'n_mels'"),
        ("  n_mels: 64", "  n_mels: 8", "features: n_mfcc (20) must not exceed n_mels (8)"),
        ("  n_mels: 64", "  n_mels: 64.5", "features.n_mels: 64.5"),
        ("  hop_length: 160", "  hop_length: 513", "hop_length (513) must not exceed n_fft (512)"),
        ("  heads: 4", "  heads: 3", "model: width (64) must be a multiple of heads (3)"),
        ("threads: 2", "threads: true", "threads: True"),
        ("threads: 2", "threads: 0", "threads: 0"),
        ("threads: 2", "thread: 2", "threads is missing"),
        ("policy: equal_error", "policy: equal_errors", "did you mean 'equal_error'"),
        ("name: cnn_attention", "name: cnn_atention", "model.name: 'cnn_atention' is none of"),
        ("\ntrain:\n", "\ntrain: 3\nx:\n", "train must hold `key: value` lines, not 3"),
    ],
)
def test_mistakes(changed, old, new, said):
    with pytest.raises(UserError) as error:
        params.load(changed(old, new))
    assert said in str(error.value)
    assert str(error.value).startswith("params.yaml: ")


def test_together(changed):
    with pytest.raises(UserError) as error:
        params.load(changed("  lr: ", "  learning_rate: "))
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
