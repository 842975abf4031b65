"""aasist_lib.features

| what | test |
|---|---|
| MFCC equals librosa within 1e-3 dB on real recordings of every rate | test_equals_librosa |
| also with other settings, on silence and on a few samples | test_other_settings, test_odd_input |
| deltas equal librosa's, edges included | test_deltas |
| zero-padded in a batch, the same as alone, and nothing past an utterance's own frames | test_batch |
| gradients reach the waveform | test_gradients |
| a mistyped kind is refused with the nearest | test_refused |
"""

import librosa
import numpy as np
import pytest
import torch

from aasist_lib import audio, features
from aasist_lib.errors import UserError

SETTINGS = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)


def reference(wave, sample_rate, **settings):
    return librosa.feature.mfcc(y=wave, sr=sample_rate, **settings)


def test_equals_librosa(speech_files):
    rates = set()
    for path in speech_files:
        for rate in 16000, librosa.get_samplerate(path):
            wave = audio.read(path, int(rate))
            found = features.MFCC(int(rate))(torch.from_numpy(wave)[None])[0].numpy()
            wanted = reference(wave, int(rate), n_mfcc=20, n_fft=512, hop_length=160, n_mels=64)
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < 1e-3, path.name
            rates.add(int(rate))
    assert len(rates) >= 6


@pytest.mark.parametrize("settings", [
    dict(n_mfcc=13, n_fft=2048, hop_length=512, n_mels=128), dict(n_mfcc=40, n_fft=400, hop_length=200, n_mels=40),
])  # fmt: skip
def test_other_settings(speech_files, settings):
    wave = audio.read(speech_files[0], 22050)
    found = features.MFCC(22050, **settings)(torch.from_numpy(wave)[None])[0].numpy()
    assert np.abs(found - reference(wave, 22050, **settings)).max() < 1e-3


def test_odd_input():
    mfcc = features.MFCC()
    for wave in np.zeros(8000, np.float32), np.ones(300, np.float32) * 0.1:
        wanted = reference(wave, 16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64)
        assert np.abs(mfcc(torch.from_numpy(wave)[None])[0].numpy() - wanted).max() < 1e-3


@pytest.mark.parametrize("order", [1, 2])
def test_deltas(speech_files, order):
    wave = audio.read(speech_files[1], 16000)
    front_end = features.build(SETTINGS | {"deltas": order})
    found = front_end(torch.from_numpy(wave)[None])[0].numpy()
    mfcc = reference(wave, 16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64)
    wanted = np.concatenate([mfcc, *(librosa.feature.delta(mfcc, order=k) for k in range(1, order + 1))])
    assert found.shape == wanted.shape and (front_end.coefficients, front_end.channels) == (len(wanted), order + 1)
    assert np.abs(found - wanted).max() < 1e-3


def test_batch(speech_files):
    front_end = features.build(SETTINGS)
    waves = [torch.from_numpy(audio.read(path, 16000)) for path in speech_files[:8]]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together = front_end(padded, lengths)
    assert len(set(lengths.tolist())) == len(waves)
    for wave, found in zip(waves, together, strict=True):
        alone = front_end(wave[None])[0]
        frames = 1 + len(wave) // 160
        assert alone.shape == (60, frames)
        assert (found[:, :frames] - alone).abs().max() < 1e-3
        assert (found[:, frames:] == 0).all()


def test_gradients(speech_files):
    wave = torch.from_numpy(audio.read(speech_files[0], 16000)).requires_grad_()
    features.build(SETTINGS)(wave[None]).square().mean().backward()
    assert torch.isfinite(wave.grad).all() and (wave.grad != 0).float().mean() > 0.9


def test_refused():
    with pytest.raises(UserError, match="mfc.*mfcc"):
        features.build(SETTINGS | {"kind": "mfc"})
