"""States of a pre-trained speech encoder as features, and the head that hears them.

The front-end:

| what must hold | test |
|---|---|
| its maps are what transformers gives: all states, the mean, or those of these numbers | test_states_of_the_encoder |
| in a batch, the same as alone | test_batch |
| a frame every 20 ms, whatever the length; the shortest utterance makes one, a shorter one is refused | test_frames |
| a long recording is its windows one after another | test_long |
| gradients reach the waveform, right ones, and are finite on silence; the encoder learns nothing | test_gradients |
| loudness and offset do not matter, training mode changes nothing | test_nothing_else_matters |
| its exported graph gives the same, for any size | test_onnx |
| what cannot be is refused in one line | test_refused |

With a store, a network, a detector:

| what must hold | test |
|---|---|
| the store holds half the bytes, within half of the last of 11 binary digits, and 50 frames a second | test_store |
| what 16 bits cannot hold is set aside with the reason | test_too_large_for_the_store |
| the head on a store gives the logits of the network on waveforms with the same weights | test_same_logits |
| a head goes on in a network that has the encoder within | test_head_goes_on_in_the_whole |
| changing waveforms is refused with what to do, and works on a store of waveforms | test_augment |
| extract, train, calibrate, score: the llr of a file is that by way of the store, long ones too | test_all_the_way |
| an encoder's folder that is gone: one line that names it | test_encoder_gone |
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from aasist_lib import audio, calibration, corpora, evaluation, features, models, store, training
from aasist_lib.audit.reference import differences_from_reference
from aasist_lib.base.errors import UserError
from aasist_lib.detector import Detector
from aasist_lib.features.wav2vec2 import read_encoder

LAYERS, WIDTH = 3, 128
KINDS = ["Wav2Vec2", "Hubert", "WavLM"]
TRAIN = dict(
    max_epochs=12, patience=12, batch_size=8, precision="float32", crop_seconds=0.6, loss="cross_entropy",
    bonafide_weight=1.0, lr=1.0e-2, weight_decay=1.0e-2, warmup_fraction=0.1, time_masks=1, time_mask_frames=3,
    coefficient_masks=1, coefficient_mask_width=2, channel_jitter=6.0, pair_fraction=0.5, mixup=0.0, adversarial=0.0,
    adversarial_db=[30.0, 60.0], adversarial_steps=1, ema_decay=0.5, init_from="", freeze_cnn_epochs=0,
)  # fmt: skip
WAVEFORM = dict(kind="waveform", sample_rate=16000, n_fft=256, hop_length=64, deltas=2, normalise="none")
POLICY = dict(prior_spoof=0.05, cost_miss=1.0, cost_false_alarm=10.0)


def make_encoder(folder, kind="Wav2Vec2", **options) -> str:
    """An encoder with the strides of the real ones, as transformers saves it; small, with random weights."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = getattr(transformers, f"{kind}Config")(**dict(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, initializer_range=0.2,
    ) | options)  # fmt: skip
    torch.manual_seed(5)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def waves(speech_files):
    return [torch.from_numpy(audio.read(path, 16000)) for path in speech_files[:6]]


def settings_of(encoder, layers="all", **others):
    return dict(kind="wav2vec2", sample_rate=16000, n_fft=256, hop_length=64, deltas=2, normalise="none") | dict(
        encoder=encoder, layers=layers, **others
    )


def front_end_of(encoder, layers="all"):
    return features.build(settings_of(encoder, layers)).eval()


# The front-end


@pytest.mark.parametrize("kind, large", [(kind, large) for kind in KINDS for large in (False, True)])
def test_states_of_the_encoder(waves, tmp_path, kind, large):
    """Large ones normalise before each layer, and hear the waveform through another normalisation."""
    folder = make_encoder(
        tmp_path, kind, do_stable_layer_norm=large, feat_extract_norm="layer" if large else "group"
    )  # fmt: skip
    encoder, wave = read_encoder(folder), waves[0]
    unit = (wave - wave.mean()) / wave.std(correction=0)
    with torch.inference_mode():
        states = [state[0].T for state in encoder(unit[None], output_hidden_states=True).hidden_states]
    assert len(states) == LAYERS + 1
    count = states[0].shape[1]
    for layers, wanted in {
        "all": torch.cat(states), "mean": torch.stack(states).mean(0),
        **{(n,): states[n] for n in range(LAYERS + 1)}, (2, 0): torch.cat([states[2], states[0]]),
    }.items():  # fmt: skip
        front_end = front_end_of(folder, list(layers) if isinstance(layers, tuple) else layers)
        found = front_end(wave[None])[0]
        assert front_end.coefficients == len(wanted) == front_end.channels * WIDTH
        torch.testing.assert_close(found[:, :count], wanted, atol=1e-3, rtol=1e-4)
        assert found.shape[1] - count in (0, 1) and torch.equal(found[:, -1], found[:, count - 1])


def test_batch(encoder, waves):
    front_end = front_end_of(encoder, [1, 3])
    alike = torch.stack([wave[:9600] for wave in waves])  # these go through the encoder together
    together = front_end(alike)
    assert together.shape[:2] == (len(waves), 2 * WIDTH) and together[0].std(1).mean() > 0.1  # it changes over time
    torch.testing.assert_close(together[3], front_end(alike[3:4])[0], atol=1e-4, rtol=1e-4)


def test_frames(encoder):
    front_end = front_end_of(encoder, "mean")
    assert (front_end.hop_length, front_end.sample_rate, front_end.min_samples) == (320, 16000, 400)
    for samples in 400, 639, 640, 719, 720, 959, 16000, 16079, 16080:
        found = front_end(torch.randn(1, samples, generator=torch.Generator().manual_seed(1)))
        assert found.shape[2] == samples // 320
    with pytest.raises(UserError, match="^an utterance of 399 samples is too short for the encoder, which takes 400"):
        front_end(torch.zeros(1, 399))


def test_long(encoder, waves):
    front_end = front_end_of(encoder, [0, 3])
    wave = torch.cat(waves * 4)[: 21 * 16000]
    whole = front_end(wave[None])[0]
    assert whole.shape[1] == 21 * 50
    for start, end in models.windows(21, 1):
        alone = front_end(wave[None, start * 16000 : end * 16000])[0]
        torch.testing.assert_close(whole[:, start * 50 : end * 50], alone, atol=1e-4, rtol=1e-4)


def test_gradients(encoder, waves):
    front_end = features.build(settings_of(encoder, [0, 2])).double()
    wave = waves[0][2000:8000].double().requires_grad_()
    found = front_end(wave[None])
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    assert torch.isfinite(wave.grad).all() and (wave.grad != 0).float().mean() > 0.9
    step = 1e-7 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        rise = ((front_end((wave + step)[None]) - front_end((wave - step)[None])) * weights).sum()
    assert float(rise) == pytest.approx(2 * float(wave.grad @ step), rel=1e-2)
    assert not any(parameter.requires_grad for parameter in front_end.parameters())
    for quiet in torch.zeros(8000), torch.cat([torch.zeros(4000), waves[0][:4000]]):
        quiet.requires_grad_()
        found = front_end_of(encoder)(quiet[None])
        found.square().sum().backward()
        assert torch.isfinite(found).all() and torch.isfinite(quiet.grad).all()


def test_nothing_else_matters(encoder, waves):
    front_end, wave = front_end_of(encoder), waves[1][None]
    wanted = front_end(wave)
    torch.testing.assert_close(front_end(0.05 * wave + 0.2), wanted, atol=2e-2, rtol=1e-2)
    assert torch.equal(front_end.train()(wave), wanted)


@pytest.mark.filterwarnings("ignore")
def test_onnx(encoder, waves, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    front_end = front_end_of(encoder, [1, 3])
    torch.onnx.export(
        front_end, (torch.zeros(2, 8000),), tmp_path / "states.onnx", input_names=["waveforms"], dynamo=True,
        dynamic_shapes=({0: "batch", 1: "samples"},), verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "states.onnx", providers=["CPUExecutionProvider"])
    for batch in torch.stack([wave[:16000] for wave in waves[:3]]), waves[3][None, :9999]:
        (found,) = session.run(None, {"waveforms": batch.numpy()})
        np.testing.assert_allclose(found, front_end(batch).numpy(), atol=1e-3)


@pytest.mark.parametrize(
    "changed, match",
    [
        (dict(sample_rate=8000), "^features.sample_rate: 8000 is not 16000"),
        (dict(encoder=""), "^features.encoder: '' cannot be read: name a folder with config.json"),
        (
            dict(encoder="/no/such/place"),
            "^features.encoder: the folder '/no/such/place' is not there: put the encoder",
        ),
        (dict(encoder="tests"), "^features.encoder: 'tests' cannot be read: name a folder with config.json"),
        (dict(layers=[0, 4]), "^features.layers: 4 is no state of this encoder, whose states are 0 to 3$"),
        (dict(layers=[-1]), "^features.layers: -1 is no state"),
        (dict(layer="all"), r"^features.layer: wav2vec2 has no such setting; did you mean 'layers'\?"),
    ],
)
def test_refused(encoder, changed, match):
    with pytest.raises(UserError, match=match) as error:
        features.build({**settings_of(encoder), **changed})
    assert "\n" not in str(error.value)


# With a store, a network, a detector


def coarse(wave):
    """A fake that anybody hears: speech in some twenty steps."""
    return np.round(wave * (10 / np.abs(wave).max())) / (10 / np.abs(wave).max())


@pytest.fixture(scope="module")
def corpus(speech_files, tmp_path_factory):
    """Folder and table of recordings and coarse copies of them; eval is one long recording of each class."""
    folder, rows = tmp_path_factory.mktemp("corpus"), []
    waves = {path.stem: audio.read(path, 16000) for path in speech_files}
    splits = {name: "train" if number % 3 else "dev" for number, name in enumerate(waves)}
    long = np.concatenate(list(waves.values()))
    waves, splits = waves | {"long": long[: 23 * 16000]}, splits | {"long": "eval"}
    for name, wave in waves.items():
        for label, made in {"bonafide": wave, "spoof": coarse(wave)}.items():
            utt_id = f"{name}-{label}"
            soundfile.write(folder / f"{utt_id}.wav", made, 16000, subtype="FLOAT")
            rows.append(dict(
                utt_id=utt_id, path=f"{utt_id}.wav", label=label, speaker=name, split=splits[name],
                attack="coarse" if label == "spoof" else "", pair_id=f"{name}-bonafide" if label == "spoof" else "",
            ))  # fmt: skip
    return folder, pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")


@pytest.fixture(scope="module")
def held(corpus, encoder, tmp_path_factory):
    """A store of all states."""
    folder = tmp_path_factory.mktemp("store") / "features"
    store.extract(corpus[1], corpus[0], folder, settings_of(encoder))
    return folder


def fit(held, work, encoder, name="network", model=None, augment=None, **train):
    about = dict(name="wav2vec2", encoder=encoder, trained="head", width=16, dropout=0.1)
    return training.fit(
        held, work / name, model=about | (model or {}), train=TRAIN | train, augment=augment, seed=7, threads=1,
        checkpoints=work / "checkpoints",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(held, encoder, tmp_path_factory):
    work = tmp_path_factory.mktemp("trained")
    return work / "network", fit(held, work, encoder)


def test_store(held, corpus, encoder):
    opened, front_end = store.Store(held), front_end_of(encoder)
    assert (opened.coefficients, opened.channels) == (4 * WIDTH, 4) and opened.frame_rate == opened.rate == 50
    frames = int(opened.table["frames"].sum())
    sizes = [path.stat().st_size for path in held.glob("shard-*.npy")]
    assert abs(sum(sizes) - 2 * frames * 4 * WIDTH) < 200 * len(sizes)
    for row in range(0, len(opened), 5):
        wave = torch.from_numpy(audio.read(corpus[0] / opened.table["path"][row], 16000))
        wanted, found = front_end(wave[None])[0].numpy(), opened.read(row)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        assert (np.abs(found - wanted) <= 2.0**-11 * np.abs(wanted) + 1e-4).all()  # and in float32
        np.testing.assert_array_equal(opened.read(row, 5, 9), found[:, 5:14])
    differences, _ = differences_from_reference(opened, corpus[0])
    assert differences.max() < 1e-3


def test_too_large_for_the_store(corpus, tmp_path):
    folder = make_encoder(tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder/model.safetensors")
    weights["encoder.layers.2.final_layer_norm.weight"] *= 1e5
    save_file(weights, tmp_path / "encoder/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not finite \(a coefficient is beyond the range of float16\)"):
        store.extract(corpus[1], corpus[0], tmp_path / "features", settings_of(folder))


def test_same_logits(held, trained, corpus, encoder):
    head, about = models.load(trained[0])
    assert head.encoder is None and not any(name.startswith("encoder") for name in head.state_dict())
    whole = models.build("wav2vec2", coefficients=1, channels=1, encoder=encoder, width=16).eval()
    whole.load_state_dict(head.state_dict())
    opened, front_end, apart, exact, logits = store.Store(held), front_end_of(encoder), [], [], []
    for row in np.flatnonzero(opened.table["split"] != "eval"):
        wave = torch.from_numpy(audio.read(corpus[0] / opened.table["path"][row], 16000))[None]
        with torch.inference_mode():
            logits.append(whole(wave[:, None]).item())
            exact.append(head(front_end(wave)).item() - logits[-1])
            apart.append(head(torch.from_numpy(opened.map(row))[None]).item() - logits[-1])
    assert np.std(logits) > 0.1
    assert np.abs(exact).max() < 1e-4
    assert np.abs(apart).max() < 1e-3  # what 16 bits took


def test_head_goes_on_in_the_whole(trained, corpus, encoder, tmp_path):
    """One step at a rate of next to nothing, and dev is where the head had it."""
    store.extract(corpus[1], corpus[0], tmp_path / "waveforms", WAVEFORM)
    start = dict(init_from=str(trained[0]), max_epochs=1, crop_seconds=0.3, lr=1e-9)
    history = fit(tmp_path / "waveforms", tmp_path, encoder, **start)
    about = json.loads((trained[0] / "network.json").read_text("utf-8"))
    assert history["dev_loss"].item() == pytest.approx(about["dev_loss"], abs=1e-3)
    assert about["dev_loss"] < 0.66  # a fresh one is at 0.69, which is ln 2


def test_augment(corpus, held, encoder, tmp_path):
    louder = {"gain": 1.0, "gain_db": [-6.0, 6.0], "noise": 1.0, "noise_snr_db": [10.0, 20.0]}
    for changes in dict(augment=louder), dict(adversarial=1.0):
        with pytest.raises(UserError, match="the store holds features: set extract.content: waveforms") as error:
            fit(held, tmp_path, encoder, **changes)
        assert "\n" not in str(error.value)
    store.extract(corpus[1], corpus[0], tmp_path / "waveforms", settings_of(encoder, [1, 2]), content="waveforms")
    history = fit(tmp_path / "waveforms", tmp_path, encoder, augment=louder, adversarial=0.5, max_epochs=1)
    assert np.isfinite(history["dev_loss"]).all()
    with pytest.raises(
        UserError, match="^model.trained: all would train the encoder.* set features.kind: waveform, or"
    ):
        fit(held, tmp_path, encoder, model={"trained": "all"})


@pytest.fixture(scope="module")
def detector(held, trained, tmp_path_factory):
    """As the stage calibrate makes one."""
    folder = tmp_path_factory.mktemp("detector")
    dev = store.scores(trained[0], held, "dev", threads=1)
    spoof = dev["label"] == "spoof"
    speakers = dev.loc[~spoof, "speaker"], dev.loc[spoof, "speaker"]
    found = calibration.fit_held_out(
        *evaluation.split_classes(dev, "score"), dev.loc[spoof, "attack"], *speakers, method="affine"
    )
    classes = evaluation.split_classes(dev.assign(llr=found.fit(dev["score"])))
    policies = calibration.thresholds(*classes, **POLICY, max_fpr=0.05, min_tpr=0.95)
    calibration.save_detector(folder, trained[0], found.fit, policies, policy="equal_error")
    return folder, found.fit


def test_all_the_way(held, trained, detector, corpus, encoder):
    folder, calibrated = detector
    history = trained[1]
    assert history["dev_eer"].min() < 0.3, history  # it hears what is coarse
    about = json.loads((folder / "network.json").read_text("utf-8"))
    assert about["features"] == settings_of(encoder) and about["parameters"] < 20_000
    loaded = Detector.load(folder)
    for split in "dev", "eval":
        by_store = store.scores(folder, held, split, threads=1).set_index("utt_id")["score"]
        files = loaded.score([corpus[0] / f"{utt_id}.wav" for utt_id in by_store.index])
        assert (files["error"] == "").all() and set(files["decision"]) <= {"bonafide", "spoof"}
        np.testing.assert_allclose(files["llr"], calibrated(by_store), atol=3e-3)
        assert files["llr"].std() > 0.1
        real = by_store.index.str.endswith("bonafide")
        assert files["llr"][real].mean() > files["llr"][~real].mean()


def test_encoder_gone(detector, tmp_path):
    folder = shutil.copytree(detector[0], tmp_path / "detector")
    about = json.loads((folder / "network.json").read_text("utf-8"))
    gone = str(tmp_path / "gone")
    (folder / "network.json").write_text(json.dumps(about | {"features": about["features"] | {"encoder": gone}}))
    with pytest.raises(UserError, match=f"^features.encoder: the folder '{gone}' is not there") as error:
        Detector.load(folder)
    assert "\n" not in str(error.value)
    assert models.load(folder)[0].encoder is None  # the head alone needs none
