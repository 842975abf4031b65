"""aasist_lib.features

| what | test |
|---|---|
| MFCC equals librosa within 1e-3 dB on real recordings of every rate | test_equals_librosa |
| also with other settings, on silence and on a few samples | test_other_settings, test_odd_input |
| every other kind equals a reference made elsewhere, within 0.01 dB on real recordings | test_equals_reference |
| CQT also equals `librosa.cqt` as nearly as that equals its own filters | test_cqt_near_librosa |
| energies of an orthogonal wavelet's packets add up to the frame's | test_packets_keep_energy |
| the hybrid is its two parts, a waveform itself | test_stack, test_waveform |
| deltas equal librosa's, edges included | test_deltas |
| in a batch, the same as alone | test_batch |
| normalised: gain is gone, deviations are 1, slopes are of that; sliding as over slices | test_means, test_sliding |
| gradients reach the waveform, right ones, and are finite on silence too | test_gradients, test_silence |
| its exported graph gives the same values, for any size | test_onnx |
| a mistyped kind or setting is refused with the nearest; what would give other values than asked, too | test_refused |
| utterances too short for deltas are refused | test_too_short_for_deltas |
| settings from before there was a choice still build what they built | test_older_settings |
"""

import librosa
import numpy as np
import pytest
import pywt
import scipy.fft
import scipy.signal
import torch

from aasist_lib import audio, features
from aasist_lib.base.errors import UserError
from aasist_lib.features.normalise import WAYS

SETTINGS = dict(kind="mfcc", sample_rate=16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64, deltas=2)
COMMON = dict(sample_rate=16000, n_fft=256, hop_length=64, deltas=0, normalise="none")
OWN = {
    "mfcc": dict(n_mfcc=20, n_mels=40),
    "lfcc": dict(n_lfcc=20, n_filters=40),
    "logmel": dict(n_mels=64),
    "logspec": dict(n_bands=80),
    "logspec2": dict(n_bands=80, times=4),
    "cqt": dict(f_min=62.5, bins_per_octave=12, n_bins=83),
    "wavelet": dict(wavelet="sym8", level=5),
    "mfcc+wavelet": dict(n_mfcc=20, n_mels=40, wavelet="sym8", level=5),
    "waveform": {},
}
ROWS = dict(zip(OWN, (20, 20, 64, 80, 80, 83, 32, 52, 1), strict=True))
every_kind = pytest.mark.parametrize("kind", OWN)


def settings_of(kind, **others):
    return dict(kind=kind) | COMMON | OWN[kind] | others


def values(settings, wave):
    return features.build(settings)(torch.as_tensor(wave)[None])[0].numpy()


def reference(wave, sample_rate, **settings):
    return librosa.feature.mfcc(y=wave, sr=sample_rate, **settings)


@pytest.fixture(scope="module")
def waves(speech_files):
    found = [audio.read(path, 16000) for path in speech_files[:6]]
    assert len({len(wave) for wave in found}) == 6
    return found


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


# What each kind is held to: in double precision, by other libraries.


def decibels(power):
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80.0)


def spectrogram(wave, n_fft, hop_length):
    _, _, spectrum = scipy.signal.stft(
        wave.astype(float), window="hann", nperseg=n_fft, noverlap=n_fft - hop_length, boundary="zeros", padded=False
    )
    return np.abs(spectrum * scipy.signal.get_window("hann", n_fft).sum()) ** 2


def by_logmel(wave, rate, n_fft, hop_length, n_mels):
    wave = wave.astype(float)
    return decibels(
        librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, dtype=float)
    )


def by_lfcc(wave, rate, n_fft, hop_length, n_lfcc, n_filters):
    edges, bins = np.linspace(0, rate / 2, n_filters + 2), np.fft.rfftfreq(n_fft, 1 / rate)
    filters = [np.interp(bins, edges[k : k + 3], (0, 1, 0), left=0, right=0) for k in range(n_filters)]
    return scipy.fft.dct(decibels(np.array(filters) @ spectrogram(wave, n_fft, hop_length)), axis=0, norm="ortho")[
        :n_lfcc
    ]


def by_logspec(wave, rate, n_fft, hop_length, n_bands):
    """By what lies below each edge: a bin's power is spread evenly over the frequencies nearest to it."""
    power = spectrogram(wave, n_fft, hop_length)
    power[[0, -1]] /= 2  # half of the first and of the last bin lie within
    borders = np.r_[0, np.arange(n_fft // 2) + 0.5, n_fft / 2]  # in bins
    below = np.vstack([np.zeros(power.shape[1]), power.cumsum(0)])
    edges = np.linspace(0, n_fft / 2, n_bands + 1)
    at_edges = np.array([np.interp(edges, borders, column) for column in below.T]).T
    return decibels(np.diff(at_edges, axis=0) / (edges[1] - edges[0]))


def by_logspec2(wave, rate, n_fft, hop_length, n_bands, times):
    parts = [by_logspec(wave, rate, size, hop_length, n_bands) for size in (n_fft, times * n_fft)]
    return np.concatenate(parts)


def by_cqt(wave, rate, n_fft, hop_length, f_min, bins_per_octave, n_bins):
    frequencies = f_min * 2 ** (np.arange(n_bins) / bins_per_octave)
    bank, lengths = librosa.filters.wavelet(freqs=frequencies, sr=rate, window="hann", norm=1, dtype=complex)
    half = bank.shape[1] // 2
    padded = np.pad(wave.astype(float), half)
    frames = librosa.util.frame(padded, frame_length=2 * half, hop_length=hop_length)
    return decibels(lengths[:, None] * np.abs(bank.conj() @ frames) ** 2)


def by_wavelet(wave, rate, n_fft, hop_length, wavelet, level):
    frames = librosa.util.frame(np.pad(wave.astype(float), n_fft // 2), frame_length=n_fft, hop_length=hop_length)
    windowed = frames * scipy.signal.get_window("hann", n_fft)[:, None]
    found = []
    for frame in windowed.T:
        packets = pywt.WaveletPacket(frame, wavelet, "periodization", level)
        found.append([np.square(node.data).sum() for node in packets.get_level(level, "freq")])
    return decibels(np.array(found).T)


REFERENCES = dict(
    logmel=by_logmel, lfcc=by_lfcc, logspec=by_logspec, logspec2=by_logspec2, cqt=by_cqt, wavelet=by_wavelet
)
OTHERS = [  # than those of params.yaml: other rates, frames that are no power of 2, more bands than bins
    ("logmel", 8000, 400, 100, dict(n_mels=32)),
    ("lfcc", 24000, 600, 200, dict(n_lfcc=30, n_filters=30)),
    ("logspec", 8000, 256, 80, dict(n_bands=200)),
    ("logspec2", 8000, 200, 80, dict(n_bands=40, times=3)),
    ("cqt", 24000, 512, 100, dict(f_min=110.0, bins_per_octave=24, n_bins=60)),
    ("wavelet", 8000, 320, 160, dict(wavelet="db4", level=6)),
]


@pytest.mark.parametrize("kind", REFERENCES)
def test_equals_reference(waves, speech_files, kind):
    cases = [(wave, 16000, 256, 64, OWN[kind]) for wave in waves[: 2 if kind == "wavelet" else 4]]
    cases += [(audio.read(speech_files[7], rate), rate, *rest) for name, rate, *rest in OTHERS if name == kind]
    assert len(cases) >= 3
    for wave, rate, n_fft, hop_length, own in cases:
        found = values(dict(kind=kind, sample_rate=rate, n_fft=n_fft, hop_length=hop_length, **own), wave)
        wanted = REFERENCES[kind](wave, rate, n_fft, hop_length, **own)
        assert found.shape == wanted.shape and np.ptp(wanted) > 60
        assert np.abs(found - wanted).max() < 0.01


def test_cqt_near_librosa(waves):
    """Its recursion over octaves misses its own filters by 0.3 dB on average where speech is loud."""
    for wave in waves[:3]:
        found = values(settings_of("cqt"), wave)
        wanted = librosa.cqt(wave, sr=16000, hop_length=64, fmin=62.5, n_bins=83, pad_mode="constant", sparsity=0)
        wanted = decibels(np.abs(wanted) ** 2)
        assert found.shape == wanted.shape
        loud = wanted > wanted.max() - 40
        assert loud.mean() > 0.2 and np.abs(found - wanted)[loud].mean() < 0.5


@pytest.mark.parametrize("wavelet", ["sym8", "db4", "haar"])
def test_packets_keep_energy(waves, wavelet):
    packets = features.WaveletPackets(n_fft=256, hop_length=64, wavelet=wavelet)
    power = packets.power(torch.from_numpy(waves[0])[None])[0]
    frames = librosa.util.frame(waves[0], frame_length=256, hop_length=64)
    energy = np.square(frames * scipy.signal.get_window("hann", 256)[:, None]).sum(0)
    np.testing.assert_allclose(power.sum(1).numpy(), energy, rtol=1e-3, atol=1e-7)


def test_stack(waves):
    found = values(settings_of("mfcc+wavelet", deltas=1), waves[0])
    parts = [values(settings_of(kind, deltas=1), waves[0]) for kind in ("mfcc", "wavelet")]
    by_channel = np.concatenate([part.reshape(2, -1, found.shape[1]) for part in parts], 1)
    np.testing.assert_array_equal(found.reshape(by_channel.shape), by_channel)


def test_two_spectra(waves):
    """Short windows are one channel and long ones the next, slopes after both."""
    front_end = features.build(settings_of("logspec2", deltas=1))
    assert (front_end.channels, front_end.coefficients) == (4, 320)
    found = front_end(torch.from_numpy(waves[0])[None])[0].numpy().reshape(4, 80, -1)
    for size, channel in ((256, 0), (1024, 1)):
        alone = values(settings_of("logspec", n_fft=size, deltas=1), waves[0]).reshape(2, 80, -1)
        np.testing.assert_array_equal(found[[channel, channel + 2]], alone)


def test_waveform(waves):
    front_end = features.build(settings_of("waveform", deltas=2, normalise="cmn"))
    assert (front_end.coefficients, front_end.channels, front_end.hop_length, front_end.min_samples) == (1, 1, 1, 1)
    np.testing.assert_array_equal(front_end(torch.from_numpy(waves[0])[None])[0, 0].numpy(), waves[0])


# What holds for every kind.


@pytest.mark.parametrize("order", [1, 2])
def test_deltas(speech_files, order):
    wave = audio.read(speech_files[1], 16000)
    front_end = features.build(SETTINGS | {"deltas": order})
    found = front_end(torch.from_numpy(wave)[None])[0].numpy()
    mfcc = reference(wave, 16000, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64)
    wanted = np.concatenate([mfcc, *(librosa.feature.delta(mfcc, order=k) for k in range(1, order + 1))])
    assert found.shape == wanted.shape and (front_end.coefficients, front_end.channels) == (len(wanted), order + 1)
    assert np.abs(found - wanted).max() < 1e-3


NEAR = {"cqt": 2e-3}  # dB: its long sums, 80 dB below the loudest, with the kernels of pins.env


@every_kind
@pytest.mark.parametrize("normalise", ["none", "sliding_cmvn"])
def test_batch(waves, kind, normalise):
    front_end = features.build(settings_of(kind, deltas=2, normalise=normalise))
    batch = torch.from_numpy(np.stack([wave[:9001] for wave in waves]))
    together = front_end(batch)
    frames = 9001 if kind == "waveform" else 1 + 9001 // 64
    assert together.shape == (len(batch), front_end.coefficients, frames)
    assert front_end.coefficients == ROWS[kind] * front_end.channels
    for wave, found in zip(batch, together, strict=True):
        assert (found - front_end(wave[None])[0]).abs().max() < NEAR.get(kind, 1e-3)


@pytest.mark.parametrize("how", ["cmn", "cmvn"])
def test_means(waves, how):
    plain = values(settings_of("lfcc"), waves[0])
    found = values(settings_of("lfcc", normalise=how), waves[0])
    assert np.abs(found.mean(1)).max() < 1e-3
    spread = found.std(1) if how == "cmvn" else (found - plain).std(1) + 1
    np.testing.assert_allclose(spread, 1, atol=1e-3)
    for gain in 0.1, 0.5:
        assert np.abs(values(settings_of("lfcc", normalise=how), gain * waves[0]) - found).max() < 0.01
    slopes = values(settings_of("lfcc", normalise=how, deltas=1), waves[0])[20:]
    assert np.abs(slopes - librosa.feature.delta(found)).max() < 1e-3


@pytest.mark.parametrize("how", ["sliding_cmn", "sliding_cmvn"])
def test_sliding(waves, how):
    wave = np.concatenate(waves)
    plain = values(settings_of("mfcc"), wave).astype(float)
    found = values(settings_of("mfcc", normalise=how), wave)
    assert plain.shape[1] > 2000
    for frame in 0, 1, 375, 376, 1000, plain.shape[1] - 100, plain.shape[1] - 1:
        around = plain[:, max(0, frame - 375) : frame + 376]  # 1.5 s at 250 frames a second
        wanted = plain[:, frame] - around.mean(1)
        if how == "sliding_cmvn":
            wanted = wanted / around.std(1)
        np.testing.assert_allclose(found[:, frame], wanted, atol=1e-3)
    silence = values(settings_of("mfcc", normalise=how), np.zeros(70000, np.float32))
    assert np.abs(silence).max() < 1e-3


@every_kind
@pytest.mark.parametrize("normalise", ["none", "cmvn"])
def test_gradients(waves, kind, normalise):
    front_end = features.build(settings_of(kind, deltas=1, normalise=normalise)).double()
    wave = torch.from_numpy(waves[0][2000:10000]).double().requires_grad_()
    found = front_end(wave[None])
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    assert torch.isfinite(wave.grad).all() and (wave.grad != 0).float().mean() > 0.9
    step = 1e-9 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        rise = ((front_end((wave + step)[None]) - front_end((wave - step)[None])) * weights).sum()
    assert float(rise) == pytest.approx(2 * float(wave.grad @ step), rel=1e-2)


@every_kind
@pytest.mark.parametrize("normalise", WAYS)
def test_silence(waves, kind, normalise):
    front_end = features.build(settings_of(kind, deltas=2, normalise=normalise))
    partly = torch.from_numpy(waves[0].copy())
    partly[: len(partly) // 2] = 0
    for wave in torch.zeros(8000), partly:
        wave.requires_grad_()
        found = front_end(wave[None])
        found.square().sum().backward()
        assert torch.isfinite(found).all() and torch.isfinite(wave.grad).all()
    assert (partly.grad != 0).float().mean() > 0.4


def test_onnx(waves, tmp_path):
    """All kinds in one graph, since most of the time of an export goes by whatever is exported."""
    onnxruntime = pytest.importorskip("onnxruntime")
    ways = [*WAYS[:4], "cmn", WAYS[4], "none", "sliding_cmvn", "none"]
    front_ends = [
        features.build(settings_of(kind, normalise=how, deltas=2 if kind == "lfcc" else 0))
        for kind, how in zip(OWN, ways, strict=True)
    ]

    class All(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.front_ends = torch.nn.ModuleList(front_ends)

        def forward(self, waveforms):
            return [front_end(waveforms) for front_end in self.front_ends]

    torch.onnx.export(
        All().eval(), (torch.zeros(2, 8000),), tmp_path / "all.onnx", input_names=["waveforms"], dynamo=True,
        dynamic_shapes=({0: "batch", 1: "samples"},), verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"])
    samples = min(map(len, waves))
    for batch in np.stack([wave[:samples] for wave in waves[:3]]), waves[3][None]:
        found = session.run(None, {"waveforms": batch})
        for front_end, exported in zip(front_ends, found, strict=True):
            wanted = front_end(torch.from_numpy(batch))
            assert exported.shape == wanted.shape
            difference = np.abs(exported - wanted.numpy())
            # A band of one bin may lie 80 dB below the loudest, where single precision itself is 0.003 dB wide.
            assert difference.max() < 0.01 and np.quantile(difference, 0.99) < 1e-3


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(kind="mfc"), r"^features.kind: there is no 'mfc'; did you mean 'mfcc'\?"),
        (dict(kind="mfcc+wavelets"), r"did you mean 'mfcc\+wavelet'\?"),
        (settings_of("lfcc", n_filter=40), r"^features.n_filter: lfcc has no such setting; did you mean 'n_filters'\?"),
        (settings_of("mfcc", normalise="cmm"), r"^features.normalise: there is no 'cmm'; did you mean 'cmn'\?"),
        (settings_of("mfcc", n_mfcc=41), "^features: 41 cepstral coefficients cannot come from 40 bands$"),
        (settings_of("lfcc", n_lfcc=41), "^features: 41 cepstral coefficients cannot come from 40 bands$"),
        (
            settings_of("cqt", n_bins=96),
            "^features.n_bins: the highest of 96 bins reaches up to 15.* sample_rate: 16000",
        ),
        (settings_of("wavelet", wavelet="sym88"), r"^features.wavelet: there is no 'sym88'; did you mean 'sym8'\?"),
        (settings_of("wavelet", n_fft=400), r"^features.n_fft: 400 is not divisible by 2\^level = 32"),
    ],
)
def test_refused(settings, match):
    with pytest.raises(UserError, match=match) as error:
        features.build(settings)
    assert "\n" not in str(error.value)


def test_too_short_for_deltas():
    front_end = features.build(settings_of("cqt", deltas=1))
    assert front_end(torch.zeros(1, front_end.min_samples)).shape[2] == 9
    with pytest.raises(UserError, match="8 frames has no deltas"):
        front_end(torch.zeros(1, front_end.min_samples - 1))


def test_older_settings(waves):
    older = {name: value for name, value in SETTINGS.items() if name not in ("kind", "deltas")}
    wanted = features.MFCC(**older)(torch.from_numpy(waves[0])[None])[0].numpy()
    np.testing.assert_array_equal(values(older, waves[0]), wanted)
    np.testing.assert_array_equal(values(SETTINGS, waves[0])[:20], wanted)
