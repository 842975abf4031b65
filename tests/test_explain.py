"""Why a detector said what it said: what is tested, on real speech.

| what | test |
|---|---|
| taken away: nothing gives the samples back exactly, and the score; far from a tile nothing changes | test_nothing_taken, test_far_away |
| all tiles together are the whole spectrum, each bin in one; a hum is taken away, a floor stays | test_tiles_cover, test_hum |
| occlusion and gradients find a tone, of which a network was built to be afraid, in its time and band | test_finds_a_planted_tone |
| gradients: slopes are those of finite differences; their sum is the score less that of the floor | test_slopes, test_completeness |
| deletion: maps that name the tone move the score more than random tiles, a random map does not | test_deletion |
| windows: a short recording is one, the last ends with the recording, each the score of its piece alone | test_windows |
| front-ends and networks of every kind, from 0.25 s to a minute | test_any_detector |
| nearest: a clip of the corpus is at distance 0 from itself; no clips are refused in one line; kept on disk | test_nearest |
| choosing: own files, utt_ids, paths, the least sure; what is nowhere is refused with the nearest name | test_choose |
| the notebook, top to bottom, on a small corpus | test_notebook |
"""  # noqa: E501

import io
import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from nbclient import NotebookClient
from torch import nn

from aasist_lib import Detector, audio, calibration, models, plots, store
from aasist_lib.audit import explain, figures
from aasist_lib.base.errors import UserError
from aasist_lib.detector import backends
from aasist_lib.features import build
from aasist_lib.pipeline import run
from aasist_lib.pipeline.kernel import OwnKernel
from aasist_lib.store import indexes

ROOT = Path(__file__).parents[1]
RATE = 16000
LOGSPEC = dict(kind="logspec", sample_rate=RATE, n_fft=512, hop_length=160, n_bands=40, deltas=0)
MFCC = dict(kind="mfcc", sample_rate=RATE, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=1, normalise="cmn")
SMALL = {
    "cnn_attention": dict(width=16, heads=2, dropout=0.3),
    "resnet": dict(width=4, dropout=0.3),
    "transformer": dict(width=16, heads=2, layers=2, dropout=0.1),
    "aasist": dict(size="light"),
}


class Afraid(nn.Module):
    """Hears a fake where one of its bands from `first` on is louder than `level` dB: logspec to logits."""

    def __init__(self, first: int, level: float):
        super().__init__()
        self.first, self.level = first, level

    def forward(self, features):
        return 3 - (features[:, self.first :] - self.level).relu().sum((1, 2)) / 10


def make(network, features, about=None) -> Detector:
    about = {"features": features} | (about or {})
    backend = backends.Torch(network.eval(), about)
    return Detector(backend, calibration.Affine(2.0, 0.5), {"equal_error": 0.1}, "equal_error")


def untrained(name: str, features: dict) -> Detector:
    """A network of that kind that was never trained, but listens."""
    front_end = build(features)
    torch.manual_seed(5)
    options = dict(coefficients=front_end.coefficients, channels=front_end.channels, **SMALL[name])
    return make(models.build(name, **options), features)


@pytest.fixture(scope="module")
def wave(speech) -> np.ndarray:
    """Two and a half seconds of a person."""
    return audio.read(speech / "festvox-ru_0039.wav", RATE)[: round(2.5 * RATE)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return untrained("cnn_attention", MFCC)


@pytest.fixture(scope="module")
def planted(wave) -> np.ndarray:
    """The same with a tone of 5 kHz from 1.30 to 1.45 s."""
    time = np.arange(len(wave)) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 5000 * time) * ((time >= 1.30) & (time < 1.45))
    return (wave + tone).astype(np.float32)


@pytest.fixture(scope="module")
def afraid(wave, planted) -> Detector:
    """Of anything above 4.4 kHz (bands of 200 Hz) that is nearly as loud as the tone."""
    levels = build(LOGSPEC)(torch.from_numpy(planted)[None])[0, 22:]
    detector = make(Afraid(22, levels.max().item() - 10), LOGSPEC)
    assert detector.network(detector.front_end(torch.from_numpy(wave)[None])) == 3  # speech alone is not
    return detector


def test_nothing_taken(detector, wave):
    tiles = explain.Tiles(wave, RATE)
    none, every = np.zeros(tiles.shape, bool), np.ones(tiles.shape, bool)
    np.testing.assert_array_equal(tiles.without(none), wave)
    assert not np.array_equal(tiles.without(every), wave)
    with torch.inference_mode():
        alone = detector.network(detector.front_end(torch.from_numpy(wave)[None])).item()
    found = explain.score(detector, tiles, np.stack([none, every, none]))
    assert found[0] == found[2] and found[1] != found[0]
    assert explain.score(detector, tiles, none[None])[0] == 2.0 * alone  # to the last bit


def test_far_away(wave):
    tiles = explain.Tiles(wave, RATE)
    taken = np.zeros(tiles.shape, bool)
    taken[3, 4] = True
    changed = np.flatnonzero(tiles.without(taken) != wave) / RATE
    near = 2 * explain.FRAME_SECONDS
    assert len(changed) and tiles.times[4] - near < changed.min() and changed.max() < tiles.times[5] + near


@pytest.mark.parametrize("seconds", [0.25, 0.3, 1.0, 3.0])
def test_tiles_cover(speech, seconds):
    wave = np.resize(audio.read(speech / "festvox-ru_0806.wav", RATE), round(seconds * RATE))
    tiles = explain.Tiles(wave, RATE)
    assert tiles.shape == (8, max(4, round(seconds / 0.25)))
    assert tiles.times[0] == 0 and tiles.times[-1] == pytest.approx(seconds)
    assert tiles.hertz[0] == 0 and tiles.hertz[-1] == pytest.approx(RATE / 2)
    each = torch.eye(tiles.shape[0] * tiles.shape[1]).reshape(-1, *tiles.shape)
    parts = wave - tiles.waveforms(1 - each).numpy()  # what each one takes away
    together = wave - tiles.without(np.ones(tiles.shape, bool))
    np.testing.assert_allclose(parts.sum(0), together, atol=1e-5)
    bins = 10 ** (tiles.decibels / 10)
    share = tiles.energy.ravel() / tiles.energy.sum()
    assert share.min() >= 0 and len(share) == len(each) and bins.max() == pytest.approx(1)
    assert np.square(together).sum() > 0.9 * np.square(wave).sum()  # speech is far above its floor


def test_hum(wave):
    time = np.arange(len(wave)) / RATE
    hum = wave + np.float32(0.05) * np.sin(2 * np.pi * 5000 * time).astype(np.float32)
    tiles = explain.Tiles(hum, RATE)
    left = tiles.without(np.ones(tiles.shape, bool))
    power = [np.abs(np.fft.rfft(x * np.hanning(len(x))))[round(5000 * len(x) / RATE)] for x in (hum, left)]
    assert power[1] < 0.01 * power[0]
    assert np.sqrt(np.square(left).mean()) > 1e-6  # not digital silence


def test_finds_a_planted_tone(afraid, planted):
    tiles = explain.Tiles(planted, RATE)
    place = np.searchsorted(tiles.hertz, 5000) - 1, np.searchsorted(tiles.times, 1.375) - 1
    occlusion, gradients = explain.occlusion(afraid, tiles), explain.gradients(afraid, tiles)
    for found in (occlusion, gradients):
        assert np.unravel_index(np.abs(found).argmax(), found.shape) == place
        assert found[place] < 0  # it speaks for a fake
    assert explain.agreement(occlusion, gradients)[0] > 0


def test_slopes(afraid, planted):
    detector, step = untrained("cnn_attention", MFCC), 2e-2
    for which in (afraid, detector):
        tiles = explain.Tiles(planted, RATE)
        kept = torch.full((1, *tiles.shape), 0.6, requires_grad=True)
        (slope,) = torch.autograd.grad(explain._logits(which, tiles.waveforms(kept)).sum(), kept)
        strongest = np.argsort(-np.abs(slope.numpy().ravel()))[:5]
        for place in strongest:
            both = torch.full((2, *tiles.shape), 0.6)
            both.view(2, -1)[:, place] += torch.tensor([step, -step])
            with torch.no_grad():
                up, down = explain._logits(which, tiles.waveforms(both))
            assert slope.view(-1)[place].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=0.1, abs=1e-4)


def test_completeness(detector, wave):
    tiles = explain.Tiles(wave, RATE)
    ends = explain.score(detector, tiles, np.stack([np.zeros(tiles.shape, bool), np.ones(tiles.shape, bool)]))
    rise = ends[0] - ends[1]
    coarse, fine = (explain.gradients(detector, tiles, steps).sum() for steps in (4, 64))
    assert fine == pytest.approx(rise, rel=0.1)
    assert abs(fine - rise) <= abs(coarse - rise) + 1e-6


def test_deletion(afraid, planted):
    tiles = explain.Tiles(planted, RATE)
    maps = {"occlusion": explain.occlusion(afraid, tiles), "gradients": explain.gradients(afraid, tiles)}
    maps["upside down"] = -maps["occlusion"]
    table, chance = explain.deletion(afraid, tiles, maps, draws=40)
    assert list(table.columns) == ["tiles", *maps, "loudest", "random", "random_low", "random_high"]
    assert table["tiles"].tolist() == [1, 2, 4, 8, 16, 32]
    few = table[table["tiles"] <= 2]
    assert (few["occlusion"] > few["random_high"]).all() and (few["gradients"] > few["random_high"]).all()
    assert (table["random_low"] <= table["random_high"]).all()
    assert chance["occlusion"] <= 0.05 and chance["gradients"] <= 0.05 and chance["upside down"] > 0.2
    said = explain.deletion_words(table, chance)
    assert ["names what decides" in line for line in said] == [True, True, False] and "chance" in said[2]
    again, _ = explain.deletion(afraid, tiles, maps, draws=40)
    pd.testing.assert_frame_equal(table, again)
    taken = np.zeros((2, maps["occlusion"].size), bool)  # a row is what taking those tiles away does
    taken[1, np.argsort(maps["occlusion"].ravel(), kind="stable")[:4]] = True
    scores = explain.score(afraid, tiles, taken.reshape(2, *tiles.shape))
    assert table["occlusion"][2] == pytest.approx(scores[1] - scores[0]) and table["occlusion"][2] > 0


def test_agreement():
    rising = np.arange(12.0).reshape(3, 4)
    assert explain.agreement(rising, 2 * rising)[0] == pytest.approx(1)
    assert explain.agreement(rising, -rising)[0] == pytest.approx(-1)
    found, words = explain.agreement(rising, np.zeros((3, 4)))
    assert np.isnan(found) and words.startswith("Too few")


def test_windows(detector, wave, speech):
    found = explain.windows(detector, wave)
    assert found["start"].tolist() == [0, 0.5] and found["end"].tolist() == [2, 2.5]
    for row in found.itertuples():
        piece = torch.from_numpy(wave[round(row.start * RATE) : round(row.end * RATE)])[None]
        with torch.inference_mode():
            llr = float(detector.calibrated(detector.network(detector.front_end(piece)).item()))
        assert row.llr == pytest.approx(llr, abs=1e-4)
        assert row.decision == ("spoof" if row.llr < 0.1 else "bonafide")
    assert "of 2 windows" in explain.windows_words(found)
    short = explain.windows(detector, wave[:8000])
    assert len(short) == 1 and short["end"][0] == 0.5 and "one window" in explain.windows_words(short)
    long = explain.windows(detector, np.tile(wave, 25), hop=0.05)  # a minute, of more windows than are wanted
    assert len(long) <= explain.MOST_WINDOWS and long["end"].iloc[-1] == pytest.approx(62.5)
    assert np.diff(long["start"]).min() > 0.1


@pytest.mark.parametrize(
    "name, features",
    [
        ("cnn_attention", MFCC),
        ("resnet", MFCC | dict(normalise="sliding_cmvn")),
        ("transformer", dict(kind="cqt", sample_rate=RATE, deltas=0)),
        ("cnn_attention", dict(kind="mfcc+wavelet", sample_rate=RATE, deltas=0)),
        pytest.param("aasist", dict(kind="waveform", sample_rate=RATE), marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
@pytest.mark.parametrize("seconds", [0.25, 12.0])
def test_any_detector(name, features, seconds, wave, tmp_path):
    detector = untrained(name, features)
    samples = np.resize(wave, round(seconds * RATE))
    recording = explain.Recording(tmp_path / "x.wav", "x.wav", {}, samples, RATE)
    excerpt = recording.excerpt
    tiles = explain.Tiles(excerpt, RATE, seconds=1.0, bands=2)
    maps = {"occlusion": explain.occlusion(detector, tiles), "gradients": explain.gradients(detector, tiles, steps=2)}
    for found in maps.values():
        assert found.shape == tiles.shape and np.isfinite(found).all() and np.abs(found).max() > 0
    table, _ = explain.deletion(detector, tiles, maps, draws=2)
    seen, pooling = explain.seen(detector, recording)
    assert (seen is None) == (features["kind"] == "waveform") and (pooling is None) == (name in ("resnet", "aasist"))
    windows = explain.windows(detector, samples, hop=5)
    for figure in (
        figures.inspection(excerpt, tiles.decibels, seen, pooling, RATE),
        figures.sliding(windows, detector.threshold),
        figures.evidence(maps, tiles.times, tiles.hertz, tiles.decibels),
        figures.deletion(table),
    ):
        assert plots.png(figure).startswith(b"\x89PNG")
    assert explain.embed(detector, samples).ndim == 1


def test_figures_say_what_the_numbers_say(afraid, planted):
    tiles = explain.Tiles(planted, RATE)
    found = explain.occlusion(afraid, tiles)
    figure = figures.evidence({"occlusion": found}, tiles.times, tiles.hertz, tiles.decibels, marked=1)
    (frame,) = figure.axes[1].patches
    band, time = np.unravel_index(np.abs(found).argmax(), found.shape)
    assert frame.get_xy() == (tiles.times[time], band) and figure.axes[1].get_title("left") == "Occlusion"
    windows = pd.DataFrame({"start": [0, 1], "end": [2, 3], "llr": [1.0, -1.0], "decision": ["bonafide", "spoof"]})
    legend = [text.get_text() for text in figures.sliding(windows, 0.25).axes[0].get_legend().get_texts()]
    assert legend == ["threshold: +0.25", "called real (1)", "called fake (1)"]
    plain = figures.inspection(planted, tiles.decibels, None, None, RATE)
    assert len([ax for ax in plain.axes if ax.get_ylabel() != "dB"]) == 3  # no features, and no attention:
    assert any("no attention" in text.get_text() for ax in plain.axes for text in ax.texts)
    assert plots.png(plain) == plots.png(figures.inspection(planted, tiles.decibels, None, None, RATE))


def test_bent_calibration_is_weighed_in_logits(wave):
    detector = untrained("cnn_attention", MFCC)
    tiles, none = explain.Tiles(wave, RATE), np.zeros((1, 8, 10), bool)
    assert explain.unit(detector) == (2.0, "LLR")
    affine = explain.score(detector, tiles, none)[0]
    detector.calibrated = calibration.Isotonic((-1.0, 1.0), (-3.0, 3.0))
    assert explain.unit(detector) == (1.0, "logit")
    assert explain.score(detector, tiles, none)[0] == pytest.approx(affine / 2)


def test_player_is_short(wave):
    sound, rate = soundfile.read(io.BytesIO(explain.player(np.tile(wave, 9), RATE, 1.5).data))
    assert rate == RATE and len(sound) == 1.5 * RATE
    np.testing.assert_allclose(sound, wave[: len(sound)], atol=1 / 2**15)


# With a corpus.

SPLIT = {"asterisk": "train", "festvox": "dev", "fillets": "dev", "tuxpaint": "eval"}


@pytest.fixture(scope="module")
def project(speech, speech_files, tmp_path_factory) -> Path:
    """A project with a detector that was never trained, and a store of a few recordings, half of them turned around."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(speech, folder / "data")
    rows = []
    for path in speech_files:
        source, speaker = path.stem.split("-")[:2]
        rows.append((path.stem, path.name, "bonafide", speaker, "", SPLIT[source]))
        backwards = folder / "data" / f"backwards-{path.stem}.wav"
        soundfile.write(backwards, audio.read(path, RATE)[::-1], RATE)
        rows.append((backwards.stem, backwards.name, "spoof", speaker, "backwards", SPLIT[source]))
    table = pd.DataFrame(rows, columns=["utt_id", "path", "label", "speaker", "attack", "split"])
    table = table.assign(condition="", language="xx", source="", codec="", pair_id="")
    store.extract(table, folder / "data", folder / "features", MFCC)
    torch.manual_seed(5)
    about = dict(model=dict(name="cnn_attention", **SMALL["cnn_attention"]), features=MFCC, coefficients=40, channels=2)
    models.save(models.build(**about["model"], coefficients=40, channels=2), folder / "network", about)
    policies = dict.fromkeys(calibration.POLICIES, 0.1)
    calibration.save_detector(
        folder / "models/detector", folder / "network", calibration.Affine(2.0, 0.5), policies, policy="equal_error"
    )
    return folder


@pytest.fixture(scope="module")
def loaded(project) -> Detector:
    return Detector.load(project / "models/detector")


def test_nearest(project, loaded, tmp_path):
    cache = tmp_path / "kept/embeddings.npz"
    table, vectors = explain.embeddings(loaded, project / "features", cache=cache)
    assert set(table["split"]) == {"train", "dev"} and len(table) == len(vectors)
    for row in (0, len(table) - 1):
        clip = table.iloc[row]
        wave = audio.read(project / "data" / clip["path"], RATE)
        near = explain.nearest(explain.embed(loaded, wave), table, vectors, count=2)
        assert near["label"].tolist() == ["bonafide"] * 2 + ["spoof"] * 2
        itself = near[near["utt_id"] == clip["utt_id"]].iloc[0]
        assert itself["distance"] == pytest.approx(0, abs=1e-6) and itself["distance"] == near["distance"].min()
        assert (near["distance"] <= near["typical"]).all()
    assert explain.nearest_readable(near)["what it is"].tolist() == ["real voice"] * 2 + ["fake by backwards"] * 2
    vectors[0] += 1
    with open(cache, "rb") as file:
        kept = dict(np.load(file))
    with open(cache, "wb") as file:
        np.savez(file, key=kept["key"], vectors=kept["vectors"] + 1)
    again = explain.embeddings(loaded, project / "features", cache=cache)[1]
    np.testing.assert_array_equal(again, kept["vectors"] + 1)  # read, not made again
    other = explain.embeddings(loaded, project / "features", splits=["eval"], cache=cache)[0]
    assert set(other["split"]) == {"eval"}
    cache.write_bytes(b"broken")
    np.testing.assert_array_equal(explain.embeddings(loaded, project / "features", cache=cache)[1], kept["vectors"])


def test_an_empty_corpus_is_refused(project, loaded, tmp_path):
    table, vectors = explain.embeddings(loaded, project / "features")
    for call in (
        lambda: explain.nearest(vectors[0], table.head(0), vectors[:0]),
        lambda: explain.embeddings(loaded, project / "features", splits=["narrow"]),
        lambda: explain.embeddings(loaded, tmp_path / "features"),
        lambda: explain.choose(tmp_path, "", table.head(0), loaded),
    ):
        with pytest.raises(UserError, match="dvc repro") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_store_of_other_features_is_refused(project):
    other = untrained("cnn_attention", MFCC | dict(n_mfcc=24))
    with pytest.raises(UserError, match="extract again"):
        explain.embeddings(other, project / "features")


def test_fakes_without_a_file_are_not_offered(project, loaded, tmp_path):
    shutil.copytree(project / "features", tmp_path / "features")
    index = store.Store(tmp_path / "features").table.copy()
    fake = index.index[(index["label"] == "spoof") & (index["split"] == "train")][0]
    real = index.index[(index["label"] == "bonafide") & (index["split"] == "train")][0]
    index.loc[fake, "path"] = index.loc[real, "path"]
    indexes.write(tmp_path / "features", index)
    found = explain.embeddings(loaded, tmp_path / "features")[0]["utt_id"].tolist()
    assert index.loc[fake, "utt_id"] not in found and index.loc[real, "utt_id"] in found


def test_choose(project, loaded, speech, tmp_path, monkeypatch):
    table = store.Store(project / "features").table
    first = table[table["split"] == "eval"].iloc[0]
    assert explain.choose(project, "", table, loaded).name == first["utt_id"]
    (tmp_path / "scores").mkdir()
    (tmp_path / "data").symlink_to(project / "data")
    scores = table.loc[table["split"] == "eval", ["utt_id"]].assign(llr=lambda rows: np.arange(len(rows)) - 2.95)
    scores.to_csv(tmp_path / "scores/eval.csv", index=False)
    unsure = explain.choose(tmp_path, "", table, loaded)
    assert unsure.name == scores["utt_id"].iloc[3]  # its LLR, 0.05, is nearest to 0.1
    assert unsure.name in unsure.about and "eval, " in unsure.about
    for name in (first["utt_id"], first["path"], str(project / "data" / first["path"])):
        found = explain.choose(project, name, table, loaded)
        assert found.name == first["utt_id"] and found.row["label"] == first["label"]
    said = explain.verdict(loaded, found)
    assert "LLR" in said and "not a probability" in said and f"In truth it is {first['label']}" in said
    own = tmp_path / "my voice.flac"
    shutil.copy(speech / "asterisk-fr-is-in-use.flac", own)
    monkeypatch.chdir(tmp_path)
    for name in (own.name, str(own)):
        found = explain.choose(project, name, table, loaded)
        assert found.row == {} and "your own" in found.about and "truth" not in explain.verdict(loaded, found)
    with pytest.raises(UserError, match=f"did you mean '{first['utt_id']}'"):
        explain.choose(project, first["utt_id"] + "x", table, loaded)
    soundfile.write("short.wav", np.zeros(100), RATE)
    with pytest.raises(UserError, match="too short"):
        explain.choose(project, "short.wav", table, loaded)
    Path("notes.txt").write_text("no sound")
    with pytest.raises(audio.BadAudio, match="not audio"):
        explain.choose(project, "notes.txt", table, loaded)


@pytest.mark.parametrize("own", [False, True], ids=["corpus", "own"])
def test_notebook(project, speech, own, monkeypatch):
    for name, folder in run.cache_environment(ROOT).items():
        monkeypatch.setenv(name, folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks/91_inspect_utterance.ipynb", 4)
    if own:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = f"utterance = {str(speech / 'fillets-cs-br-m-dva.ogg')!r}"
    (project / "notebooks").mkdir(exist_ok=True)
    resources = {"metadata": {"path": project / "notebooks"}}
    NotebookClient(notebook, kernel_manager_class=OwnKernel, resources=resources).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = json.dumps(outputs)
    for words in (
        "<audio",
        "image/png",
        "not a probability",
        "Rank correlation",
        "drawn at random by",
        "fake by backwards",
    ):
        assert words in shown
    assert shown.count("image/png") == 2 * 4  # each with its description, in the metadata
    assert ("your own" in shown) == own
    assert len(shown) < 4e6  # small, with all its players
