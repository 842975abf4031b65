"""Detector: what is tested.

| test | what must hold |
|---|---|
| real speech | every recording of tests/speech, whatever its format and rate, gets a finite llr |
| one pipeline | the same llr as by way of the store and `store.scores`, within 1e-4 |
| decision | spoof if and only if llr is below the threshold of the policy; llr is the calibrated mean logit |
| long files | mean of windows weighted by length, cut alike for files and for the store |
| one recording | `score_one` gives what `score` does and each window; file objects too; too long ones are refused |
| an hour | needs hardly more memory than a minute |
| unusable files | a row with the reason; the rest go on |
| folders | searched in order, hidden files left out |
| loading | one line that names the file that is missing or broken; no training; importing it, no torch |
"""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from aasist_lib import audio, calibration, models, store
from aasist_lib.base.errors import UserError
from aasist_lib.detector import Detector, find, verbal_llr, windows

MFCC = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)
# without their means, so that an untrained network hears more than the loudness of its input
FEATURES = MFCC | {"normalise": "cmn"}


def make_detector(folder: Path) -> Path:
    """A detector whose network was never trained: it scores all the same."""
    torch.manual_seed(3)
    options = dict(name="cnn_attention", width=16, heads=2, dropout=0.3)
    network = models.build(**options, coefficients=60, channels=3)
    network.train()
    for _ in range(20):  # batch normalisation learns what cepstra look like
        network(torch.randn(8, 60, 64) * torch.logspace(2, 0, 60)[:, None])
    with torch.no_grad():
        network.output.weight *= 20  # or all recordings would score nearly alike
    models.save(network, folder, dict(model=options, features=FEATURES, coefficients=60, channels=3))
    policies = {"equal_error": 0.3, "min_cost": -0.4, "max_fpr": -1.0}
    calibration.save_detector(folder, folder, calibration.Affine(2.0, 0.25), policies, policy="equal_error")
    return folder


def test_real_speech(detector, speech_files):
    found = detector.score(speech_files)
    assert list(found.columns) == ["path", "seconds", "llr", "decision", "error"]
    assert found["path"].tolist() == [str(path) for path in speech_files]
    assert (found["error"] == "").all() and np.isfinite(found["llr"]).all()
    assert found["llr"].nunique() == len(found) and found["llr"].std() > 0.01  # it listens
    seconds = [soundfile.info(path).duration for path in speech_files]
    np.testing.assert_allclose(found["seconds"], seconds, atol=0.01)
    assert (found["decision"] == np.where(found["llr"] < 0.3, "spoof", "bonafide")).all()


def test_same_as_by_way_of_the_store(detector, folder, speech, speech_files, tmp_path):
    table = pd.DataFrame(
        {
            "utt_id": [path.stem for path in speech_files], "path": [path.name for path in speech_files],
            "label": "bonafide", "speaker": "s", "attack": "", "split": "eval", "condition": "", "language": "en",
            "source": "", "codec": "", "pair_id": "",
        }
    )  # fmt: skip
    store.extract(table, speech, tmp_path / "features", FEATURES)
    by_store = store.scores(folder, tmp_path / "features", "eval", threads=1).set_index("utt_id")
    alone = detector.score(speech_files)
    by_store = 2.0 * by_store.loc[[Path(path).stem for path in alone["path"]], "score"] + 0.25
    np.testing.assert_allclose(alone["llr"], by_store, atol=1e-4)


def test_decision_is_by_the_threshold_of_the_policy(folder, tmp_path, speech_files):
    llr = Detector.load(folder).score(speech_files[:6])["llr"]
    middle = float(llr.sort_values().iloc[3])
    affine = calibration.Affine(2.0, 0.25)
    calibration.save_detector(tmp_path, folder, affine, {"equal_error": 99.0, "min_cost": middle}, policy="min_cost")
    found = Detector.load(tmp_path).score(speech_files[:6])
    assert found["decision"].tolist() == np.where(llr < middle, "spoof", "bonafide").tolist()
    assert set(found["decision"]) == {"bonafide", "spoof"}  # the threshold itself is bona fide


def test_an_isotonic_calibration_serves_too(detector, folder, tmp_path, speech_files):
    logits = (detector.score(speech_files[:6])["llr"] - 0.25) / 2
    low, high = logits.quantile([0.2, 0.8])  # some recordings lie beyond the knots
    calibration.save_detector(
        tmp_path, folder, calibration.Isotonic((low, high), (-1.0, 2.0)), {"min_cost": 0.0}, policy="min_cost"
    )
    found = Detector.load(tmp_path).score(speech_files[:6])
    expected = np.clip(-1 + 3 * (logits - low) / (high - low), -1, 2)
    np.testing.assert_allclose(found["llr"], expected, atol=1e-5)
    assert found["decision"].tolist() == np.where(expected < 0, "spoof", "bonafide").tolist()


def speech_at_16k(speech_files) -> np.ndarray:
    return np.concatenate([audio.read(path, 16000) for path in speech_files])


@pytest.mark.parametrize("seconds, cuts", [(11.9, [0]), (12.1, [0, 8]), (19.9, [0, 8]), (24.0, [0, 8, 16])])
def test_long_files(detector, folder, speech_files, tmp_path, seconds, cuts):
    samples = np.resize(speech_at_16k(speech_files), round(seconds * 16000))
    soundfile.write(tmp_path / "long.wav", samples, 16000, subtype="FLOAT")
    edges = [cut * 16000 for cut in cuts] + [len(samples)]
    parts = [samples[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    network, _ = models.load(folder)
    with torch.inference_mode():
        logits = [network(detector.front_end(torch.from_numpy(part)[None])).item() for part in parts]
    expected = 2.0 * np.average(logits, weights=np.diff(edges)) + 0.25
    (found,) = detector.score(tmp_path / "long.wav").itertuples()
    assert found.llr == pytest.approx(expected, abs=1e-4) and found.seconds == pytest.approx(seconds)
    if len(parts) > 1:
        assert max(logits) - min(logits) > 1e-3  # else any mixture would do


def test_examine(detector, speech_files, tmp_path):
    samples = np.resize(speech_at_16k(speech_files), 20 * 16000)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    told = []
    found = detector.score_one(tmp_path / "long.wav", on_window=told.append)
    row = detector.score_file(tmp_path / "long.wav")
    assert (found.seconds, found.llr, found.decision) == (row["seconds"], row["llr"], row["decision"])
    assert found.windows == tuple(told) and [(a, b) for a, b, _ in told] == [(0, 8), (8, 16), (16, 20)]
    llrs = [llr for _, _, llr in told]
    assert np.average(llrs, weights=[8, 8, 4]) == pytest.approx(found.llr) and np.ptp(llrs) > 1e-3
    with open(tmp_path / "long.wav", "rb") as opened:
        assert detector.score_one(opened) == found and not opened.closed
        assert detector.score_one(io.BytesIO(opened.seek(0) or opened.read())) == found


def test_what_on_window_raises_ends_the_scoring(detector, speech_files):
    def stop(window):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.score_one(speech_files[0], on_window=stop)


def test_the_mean_is_calibrated_and_not_the_mean_of_what_is(detector, folder, speech_files, tmp_path):
    """Where the calibration bends, these differ."""
    soundfile.write(tmp_path / "long.wav", np.resize(speech_at_16k(speech_files), 16 * 16000), 16000, subtype="FLOAT")
    first, second = ((llr - 0.25) / 2 for *_, llr in detector.score_one(tmp_path / "long.wav").windows)
    low, high = sorted((first, second))
    bent = calibration.Isotonic((low, (low + high) / 2, high + 1e-9), (-1.0, 2.0, 2.0))
    calibration.save_detector(tmp_path / "bent", folder, bent, {"min_cost": 0.0}, policy="min_cost")
    found = Detector.load(tmp_path / "bent").score_one(tmp_path / "long.wav")
    assert found.llr == pytest.approx(2.0, abs=1e-6)
    assert np.mean([llr for *_, llr in found.windows]) == pytest.approx(0.5, abs=1e-6)


def test_too_long(detector, speech_files, tmp_path):
    seconds = soundfile.info(speech_files[0]).duration
    assert detector.score_one(speech_files[0], max_seconds=seconds).seconds == pytest.approx(seconds, abs=0.01)
    soundfile.write(tmp_path / "long.wav", np.resize(speech_at_16k(speech_files), 20 * 16000), 16000)
    told = []
    with pytest.raises(audio.BadAudio, match="too long.*19.5 s") as error:
        detector.score_one(tmp_path / "long.wav", max_seconds=19.5, on_window=told.append)
    assert error.value.reason == "too long" and not told  # by its header
    # a FLAC that was written to a pipe does not say how long it is: 36 bits of its first block
    soundfile.write(tmp_path / "long.flac", np.resize(speech_at_16k(speech_files), 40 * 16000), 16000)
    data = bytearray((tmp_path / "long.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with pytest.raises(audio.BadAudio, match="too long"):
        detector.score_one(io.BytesIO(data), max_seconds=39, on_window=told.append)
    assert told and told[-1][1] < 39
    assert detector.score_one(io.BytesIO(data), max_seconds=41).seconds == pytest.approx(40)


def test_file_objects_that_cannot_be_scored(detector, speech_files, tmp_path):
    (tmp_path / "a.wav").write_bytes(speech_files[0].read_bytes())
    whole = (tmp_path / "a.wav").read_bytes()
    for content, reason in ((b"", "empty"), (b"no audio", "not audio"), (whole[: len(whole) // 2], "truncated")):
        with pytest.raises(audio.BadAudio) as error:
            detector.score_one(io.BytesIO(content))
        assert error.value.reason == reason and str(error.value).startswith(f"recording: {reason}")
    ogg = next(path for path in speech_files if path.suffix == ".ogg").read_bytes()
    assert detector.score_one(io.BytesIO(ogg)).seconds > 0.25
    with pytest.raises(audio.BadAudio) as error:
        detector.score_one(io.BytesIO(ogg[:-100]))
    assert error.value.reason == "truncated"
    read, write = os.pipe()
    with open(read, "rb") as pipe, open(write, "wb"), pytest.raises(audio.BadAudio, match="unreadable"):
        detector.score_one(pipe)


def test_decide(detector):
    assert detector.thresholds == {"equal_error": 0.3, "min_cost": -0.4, "max_fpr": -1.0}
    assert (detector.threshold, detector.policy) == (0.3, "equal_error")
    assert [detector.decide(llr) for llr in (0.29, 0.3)] == ["spoof", "bonafide"]
    assert [detector.decide(llr, "min_cost") for llr in (-0.41, -0.4)] == ["spoof", "bonafide"]
    with pytest.raises(UserError, match="no 'cheapest'; use equal_error, max_fpr"):
        detector.decide(0.0, "cheapest")


@pytest.mark.parametrize("samples", [3, 79, 80, 119, 120, 121, 160, 199, 200, 240, 399])
def test_windows_of_a_file_and_of_the_store_agree(tmp_path, samples):
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), 10)
    from_file = [len(window) for window in windows(tmp_path / "a.wav", 10, models.WINDOW_SECONDS)]
    assert from_file == [b - a for a, b in models.windows(samples, 10)]


MEMORY = """
import resource, sys
from aasist_lib import Detector
found = Detector.load(sys.argv[1]).score(sys.argv[2])
assert found["error"][0] == "", found["error"][0]
print(found["seconds"][0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_memory(folder, speech_files, tmp_path):
    # at 8 kHz, so that resampling is part of it
    samples = np.concatenate([audio.read(path, 8000) for path in speech_files])
    minute = np.resize(samples, 60 * 8000)
    peaks = {}
    for minutes in (1, 60):
        with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        command = [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / "long.wav")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert done.returncode == 0, done.stderr
        seconds, peaks[minutes] = map(float, done.stdout.split())
        assert seconds == pytest.approx(60 * minutes)
    # as samples alone, an hour at 16 kHz would be 225 MiB; ru_maxrss is in KiB
    assert peaks[60] - peaks[1] < 50 * 1024


def test_files_that_cannot_be_scored(detector, speech_files, tmp_path):
    good = tmp_path / "good.wav"
    samples = audio.read(speech_files[0], 16000)
    soundfile.write(good, samples, 16000)
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "nothing.flac").write_bytes(b"")
    soundfile.write(tmp_path / "short.wav", samples[:1600], 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "no_samples.wav", samples[:0], 16000)
    (tmp_path / "folder").mkdir()
    names = ["text.wav", "nothing.flac", "good.wav", "short.wav", "nan.wav", "no_samples.wav", "absent.wav", "folder"]
    names += ["x" * 300 + ".wav"]
    found = detector.score([tmp_path / name for name in names]).set_index(pd.Index(names))
    assert found["error"]["good.wav"] == "" and math.isfinite(found["llr"]["good.wav"])
    bad = found.drop("good.wav")
    assert (bad["error"] != "").all() and bad["llr"].isna().all() and (bad["decision"] == "").all()
    assert not bad["error"].str.contains("\n").any()
    assert "short" in bad["error"]["short.wav"] and "missing" in bad["error"]["absent.wav"]
    assert "no audio files" in bad["error"]["folder"] and "name too long" in bad["error"][names[-1]]


def test_shortest(detector, speech_files, tmp_path):
    samples = audio.read(speech_files[0], 16000)
    soundfile.write(tmp_path / "a.wav", samples[4000:8000], 16000)  # 0.25 s
    soundfile.write(tmp_path / "b.wav", samples[4000:7999], 16000)
    found = detector.score([tmp_path / "a.wav", tmp_path / "b.wav"])
    assert math.isfinite(found["llr"][0]) and "short: 3999 samples at 16000 Hz, and 4000" in found["error"][1]


def test_folders(detector, speech_files, tmp_path):
    names = ["b/2.wav", "b/10.WAV", "a.flac", ".hidden/x.wav", "b/.x.wav", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(speech_files[0].read_bytes())
    expected = [tmp_path / name for name in ("a.flac", "b/10.WAV", "b/2.wav")]
    assert find(tmp_path) == (expected, {"hidden": 2, ".txt": 1}) == find([str(tmp_path)])
    assert find([tmp_path / "b", tmp_path / "notes.txt"])[0] == [*expected[1:], tmp_path / "notes.txt"]
    assert len(detector.score(tmp_path)) == 3
    (tmp_path / "b/3.wav").symlink_to("nowhere")
    assert "missing" in detector.score(tmp_path / "b")["error"].tolist()  # not left out: somebody expects its score
    assert find([]) == ([], {}) and detector.score([]).empty


def test_hidden_above_the_folder_does_not_matter(tmp_path):
    (tmp_path / ".cache/speech").mkdir(parents=True)
    (tmp_path / ".cache/speech/a.wav").touch()
    assert find(tmp_path / ".cache/speech") == ([tmp_path / ".cache/speech/a.wav"], {})


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "there/below").mkdir(parents=True)
    (tmp_path / "given").mkdir()
    (tmp_path / "there/below/a.wav").touch()
    (tmp_path / "given/link").symlink_to(tmp_path / "there")
    (tmp_path / "there/below/back").symlink_to(tmp_path / "given")  # round and round
    assert find(tmp_path / "given") == ([tmp_path / "given/link/below/a.wav"], {})


def test_every_ending_gets_a_row(detector, tmp_path):
    """What libsndfile cannot read, too."""
    for ending in sorted(audio.ENDINGS):
        (tmp_path / f"a{ending}").write_text("no sound")
    found = detector.score(tmp_path)
    assert {Path(path).suffix for path in found["path"]} == audio.ENDINGS >= {".webm", ".mp4", ".voc", ".mp2", ".sph"}
    assert (found["error"] != "").all()


@pytest.mark.parametrize("kind", ["zeros", "constant", "opposite"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_nothing_is_decided_of_silence(detector, speech_files, tmp_path, kind, rate):
    speech = audio.read(speech_files[0], rate)
    samples = {"zeros": 0 * speech, "constant": 0 * speech + 0.25, "opposite": np.stack([speech, -speech], 1)}[kind]
    soundfile.write(tmp_path / "a.wav", samples, rate)
    row = detector.score_file(tmp_path / "a.wav")
    why = "channels that cancel each other out" if kind == "opposite" else "a constant"
    assert (row["error"], row["decision"]) == (f"silent ({why})", "") and math.isnan(row["llr"])


@pytest.mark.parametrize("name", ["network.safetensors", "network.json", "calibration.json"])
def test_loading_says_what_is_missing_or_broken(folder, tmp_path, name):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for spoil in (lambda path: path.write_bytes(b"\x80\x04K\x01."), Path.unlink):
        spoil(tmp_path / name)
        with pytest.raises(UserError) as error:
            Detector.load(tmp_path)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_loads_nothing_before_it_is_asked(folder):
    code = (
        "import sys; from aasist_lib import Detector, calibration, detector;"
        "heavy = {'torch', 'scipy', 'pandas', 'librosa', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy;"
        "Detector.load(sys.argv[1]); assert 'torch' in sys.modules and 'aasist_lib.training' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize(
    "llr, said",
    [
        (3.2, "about 25 times as likely under bona fide speech as"),
        (-3.2, "about 25 times as likely under the fakes the detector was calibrated on as under bona fide speech"),
        (0.0, "about as likely"),
        (9.0, "more than 1000 times"),
        (-800.0, "more than 1000 times"),
    ],
)
def test_in_words(llr, said):
    assert said in verbal_llr(llr)
