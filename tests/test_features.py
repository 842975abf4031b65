"""Front-ends.

| what | test |
|---|---|
| MFCC equal librosa's within 1e-3 dB on real recordings, each alone and all in one padded batch | test_mfcc_is_librosas |
| at other settings: long, short, odd and gapped frames, many and few bands | test_other_settings |
| silence, a click, very short and very loud signals | test_unusual_signals |
| deltas equal librosa's, alone and in a padded batch | test_deltas_are_librosas |
| mel filters equal librosa's | test_mel_filters |
| frames past an utterance's own are 0, and what stands in the padding does not matter | test_padding |
| pieces that fit the cache leave no seams | test_pieces |
| the gradient reaches the waveform and is right | test_gradient |
| fewer than nine frames have no deltas | test_too_short |
| shapes and attributes that others rely on | test_front_end |
| unknown or senseless settings are named | test_wrong_settings |
"""

import librosa
import numpy as np
import pytest
import torch

from aasist_lib import audio, features
from aasist_lib.errors import UserError

SETTINGS = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)


@pytest.fixture(scope="module")
def waveforms(speech_files):
    return [audio.read(path, 16000) for path in speech_files]


def reference(waveform, sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64):
    return librosa.feature.mfcc(
        y=waveform, sr=sample_rate, n_mfcc=n_mfcc, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels
    )


def padded(waveforms):
    tensors = [torch.from_numpy(waveform) for waveform in waveforms]
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths


def assert_close(found, expected, tolerance=1e-3):
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < tolerance


def test_mfcc_is_librosas(waveforms):
    assert len(waveforms) >= 20
    mfcc = features.MFCC()
    batch = mfcc(*padded(waveforms))
    for row, waveform in zip(batch, waveforms, strict=True):
        expected = reference(waveform)
        assert_close(row[:, : expected.shape[1]], expected)
        assert_close(mfcc(torch.from_numpy(waveform)[None])[0], expected)


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize(
    "settings",
    [
        dict(sample_rate=22050, n_fft=2048, hop_length=512, n_mels=128),
        dict(sample_rate=8000, n_mfcc=13, n_fft=200, hop_length=80, n_mels=40),
        dict(sample_rate=16000, n_mfcc=40, n_fft=401, hop_length=100, n_mels=40),
        dict(sample_rate=16000, n_fft=256, hop_length=400, n_mels=30),
        dict(sample_rate=44100, n_fft=512, hop_length=512, n_mels=128),
        dict(sample_rate=1800, n_mfcc=5, n_fft=64, hop_length=16, n_mels=10),
    ],
)
def test_other_settings(speech_files, settings):
    waveforms = [audio.read(path, settings["sample_rate"]) for path in speech_files[::4]]
    batch = features.MFCC(**settings)(*padded(waveforms))
    for row, waveform in zip(batch, waveforms, strict=True):
        expected = reference(waveform, **settings)
        assert_close(row[:, : expected.shape[1]], expected)


@pytest.mark.filterwarnings("ignore:n_fft=512 is too large")
def test_unusual_signals(waveforms):
    click = np.zeros(4000, np.float32)
    click[2000] = 1
    tone = (0.9 * np.sin(0.3 * np.arange(16000)) + 1e-4 * np.cos(np.arange(16000) ** 2)).astype(np.float32)
    speech = waveforms[0]
    signals = [
        np.zeros(4000, np.float32), np.zeros(1, np.float32), click, tone, speech[:1], speech[3000:3100],
        speech[3000:3511], speech[3000:3680], 1e-6 * speech, 1e4 * speech, speech[: 160 * 30], speech[: 160 * 30 - 1],
    ]  # fmt: skip
    batch = features.MFCC()(*padded(signals))
    assert torch.isfinite(batch).all()
    for row, signal in zip(batch, signals, strict=True):
        expected = reference(signal)
        assert_close(row[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deltas_are_librosas(waveforms, order):
    maps = [reference(waveform) for waveform in waveforms] + [reference(waveforms[0])[:, :9]]
    frames = torch.tensor([part.shape[1] for part in maps])
    batch = torch.zeros(len(maps), 20, int(frames.max()))
    for row, part in zip(batch, maps, strict=True):
        row[:, : part.shape[1]] = torch.from_numpy(part)
    slopes = features.Deltas(order)(batch, frames)
    for row, part in zip(slopes, maps, strict=True):
        expected = librosa.feature.delta(part, order=order)
        assert_close(row[:, : part.shape[1]], expected)
        assert (row[:, part.shape[1] :] == 0).all()
        assert_close(features.Deltas(order)(torch.from_numpy(part)[None])[0], expected)


@pytest.mark.parametrize("rate, n_fft, n_mels", [(16000, 512, 64), (22050, 2048, 128), (8000, 256, 20), (1800, 64, 8)])
def test_mel_filters(rate, n_fft, n_mels):
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels).T
    np.testing.assert_allclose(features.mel_filters(rate, n_fft, n_mels), expected, atol=1e-6 * expected.max())


def test_padding(waveforms):
    front_end = features.build(SETTINGS)
    batch, lengths = padded(waveforms)
    expected = front_end(batch, lengths)
    for row, length in zip(expected, lengths.tolist(), strict=True):
        assert (row[:, front_end.frames(length) :] == 0).all()
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[length:] = 7
    torch.testing.assert_close(front_end(batch, lengths), expected, rtol=0, atol=0)


def test_pieces(waveforms, monkeypatch):
    expected = features.MFCC()(*padded(waveforms))
    monkeypatch.setattr(features, "CACHE_FLOATS", 512 * 7)
    torch.testing.assert_close(features.MFCC()(*padded(waveforms)), expected, rtol=0, atol=1e-3)


def test_gradient(waveforms):
    # double precision, and values away from the floor, where the function has a kink
    front_end = features.build(SETTINGS | dict(n_fft=64, hop_length=32, n_mels=8, n_mfcc=4)).double()
    signal = torch.from_numpy(waveforms[0][4000:4320]).double()
    batch = torch.stack([signal, signal.flip(0)]) + 0.1 * torch.randn(2, 320, dtype=torch.float64)
    lengths = torch.tensor([320, 270])
    assert torch.autograd.gradcheck(lambda x: front_end(x, lengths), batch.requires_grad_(), atol=1e-4, rtol=1e-3)
    (gradient,) = torch.autograd.grad(front_end(batch, lengths).square().sum(), batch)
    assert gradient[0].ne(0).float().mean() > 0.9 and (gradient[1, 270:] == 0).all()


def test_too_short():
    front_end = features.build(SETTINGS)
    assert front_end(torch.ones(1, front_end.min_samples)).shape == (1, 60, 9)
    with pytest.raises(UserError, match="8 frames"):
        front_end(torch.ones(1, front_end.min_samples - 1))
    batch = torch.ones(2, 16000)
    with pytest.raises(UserError, match="8 frames"):
        front_end(batch, torch.tensor([16000, front_end.min_samples - 1]))
    without = features.build(SETTINGS | {"deltas": 0})
    assert without.min_samples == 1 and without(torch.ones(1, 1)).shape == (1, 20, 1)


@pytest.mark.parametrize("deltas", [0, 1, 2])
def test_front_end(waveforms, deltas):
    front_end = features.build(SETTINGS | {"deltas": deltas})
    found = front_end(torch.from_numpy(waveforms[0])[None])
    assert front_end.channels == deltas + 1 and front_end.coefficients == 20 * (deltas + 1)
    assert (front_end.sample_rate, front_end.hop_length) == (16000, 160)
    assert found.shape == (1, front_end.coefficients, front_end.frames(len(waveforms[0])))
    static = reference(waveforms[0])
    expected = [static, *(librosa.feature.delta(static, order=order) for order in range(1, deltas + 1))]
    assert_close(found[0], np.concatenate(expected))
    assert not list(front_end.parameters()) and not front_end.state_dict()  # nothing of it belongs in weights


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"kind": "mfc"}, "mfcc"),
        ({"n_mfcc": 65}, "n_mfcc"),
        ({"n_fft": 0}, "n_fft"),
        ({"hop_length": 160.0}, "hop_length"),
        ({"deltas": 3}, "deltas"),
        ({"n_mel": 64}, "n_mel"),
    ],
)
def test_wrong_settings(wrong, named):
    with pytest.raises(UserError, match=named) as caught:
        features.build(SETTINGS | wrong)
    assert "\n" not in str(caught.value)
