"""Augmentation: what is tested.

| what | against |
|---|---|
| nothing on | `off`, the very bytes |
| every effect | same length, float32, finite, the original untouched: 0.25 to 8 s, an odd length, digital silence |
| speed, room | a tone's frequency; the decay after a click |
| noise, rawboost | the SNR, both colours; each kind |
| equaliser, band | a smooth gain of the spread asked for; 30 dB and more away above the cut, all there below it |
| gain, codec | level, also beyond full scale; what the codec does to a spectrum |
| ranges | draws fill them, uniformly; the cut of the low-pass in octaves |
| probability | how often an effect is in a chain |
| order | speed, room, noise, rawboost, equaliser, band, gain, codec |
| pairs | one seed: one chain, one set of numbers, the same noise and gains for any signal; no label is asked for |
| seeds | the same bytes again, others from another; changing one effect leaves the others' numbers as they are |
| params.yaml | its section is taken as it stands |
| errors | a range that lacks, a codec that does not exist |
"""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from aasist_lib import audio
from aasist_lib.augment import NEEDS, Augment, effects, rawboost
from aasist_lib.base.errors import UserError

RATE = 16000
FULL = {
    "codec": 0.0, "codecs": ["mp3", "vorbis", "opus", "gsm", "g711", "g722"],
    "noise": 0.0, "noise_snr_db": [5.0, 30.0],
    "room": 0.0, "room_rt60": [0.1, 0.6],
    "rawboost": 0.0, "rawboost_kinds": ["convolutive", "impulsive", "stationary"],
    "equaliser": 0.0, "equaliser_db": 6.0,
    "band": 0.0, "band_hz": [3400.0, 8000.0],
    "speed": 0.0, "speed_factor": [0.9, 1.1],
    "gain": 0.0, "gain_db": [-10.0, 10.0],
}  # fmt: skip
every_effect = pytest.mark.parametrize("name", NEEDS)


def rng(seed=1):
    return np.random.default_rng(seed)


def only(*names, **settings):
    """These effects always, no other ever."""
    return Augment(FULL | dict.fromkeys(names, 1.0) | settings, RATE)


def db(ratio):
    return 20 * np.log10(ratio)


def band_db(x, low, high):
    power = np.abs(np.fft.rfft(x.astype(float) * np.hanning(len(x)))) ** 2  # the ends of a crop have all frequencies
    frequency = np.arange(len(power)) * RATE / len(x)
    return 10 * np.log10(power[(frequency >= low) & (frequency < high)].mean() + 1e-30)


@pytest.fixture(scope="module")
def x(speech) -> np.ndarray:
    """Two seconds of speech, with a trace of noise in all bands."""
    found = audio.read(speech / "festvox-ru_0039.wav", RATE)[: 2 * RATE]
    return effects.noise(found, 50, rng(9))


@pytest.fixture(scope="module")
def other(speech_files) -> np.ndarray:
    found = np.resize(audio.read(speech_files[0], RATE), 2 * RATE)
    return np.float32(0.3) * found


def test_nothing_on_leaves_the_bytes(x):
    for augment in (Augment(FULL, RATE), Augment({}, RATE)):
        assert augment.off and not augment
        for seed in range(20):
            assert augment.draw(rng(seed)) == []
            assert augment(x, rng(seed)).tobytes() == x.tobytes()
    for name in NEEDS:
        assert only(name) and not only(name).off


@every_effect
def test_every_effect(name, x):
    augment = only(name)
    for seed in range(4):
        before = x.copy()
        found = augment(x, rng(seed))
        assert found.dtype == np.float32 and found.shape == x.shape and np.isfinite(found).all()
        assert found.flags.c_contiguous and not np.array_equal(found, x)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(found, augment(x, rng(seed)))
        assert not np.array_equal(found, augment(x, rng(seed + 100)))


@pytest.mark.parametrize("name", [*NEEDS, "all"])
def test_lengths_and_silence(name, x):
    augment = only(*NEEDS) if name == "all" else only(name)
    for count in (4000, 12345, 8 * RATE):
        for signal in (np.resize(x, count), np.zeros(count, np.float32)):
            for seed in range(3):
                found = augment(signal, rng(seed))
                assert found.dtype == np.float32 and found.shape == signal.shape and np.isfinite(found).all()
                assert signal.any() or np.abs(found).max() < 1e-3  # what is quiet stays so: codecs leave a trace


def test_speed_moves_a_tone():
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32)
    for seed in range(5):
        factor = only("speed").draw(rng(seed))[0].value
        found = only("speed")(tone, rng(seed))
        peak = np.argmax(np.abs(np.fft.rfft(found * np.hanning(len(found))))) / 2
        assert peak == pytest.approx(1000 * factor, abs=2)
    slow, fast = (only("speed", speed_factor=[factor, factor])(tone[:8000], rng()) for factor in (0.8, 1.25))
    np.testing.assert_array_equal(slow, effects.speed(tone[:8000], 0.8)[:8000])  # cut
    np.testing.assert_array_equal(fast[6400:], fast[:1600])  # from the start again


def test_a_room_decays_as_drawn():
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.5
    times = []
    for rt60 in (0.2, 0.6):
        wet = only("room", room_rt60=[rt60, rt60])(click, rng()).astype(float)
        left = np.cumsum(wet[1100:][::-1] ** 2)[::-1]
        left_db = 10 * np.log10(left / left[0] + 1e-30)
        span = np.flatnonzero((left_db < -5) & (left_db > -25))
        times.append(-60 / np.polyfit(span / RATE, left_db[span], 1)[0])
    assert times == pytest.approx([0.2, 0.6], rel=0.1)


def test_noise_is_as_strong_as_drawn_and_of_both_colours(x):
    augment, colours, ratios = only("noise"), set(), []
    for seed in range(40):
        snr, colour = augment.draw(rng(seed))[0].value
        added = augment(x, rng(seed)).astype(float) - x
        ratios.append(db(effects.rms(x) / effects.rms(added)))
        assert ratios[-1] == pytest.approx(snr, abs=0.1)
        slope = band_db(added, 4000, 8000) - band_db(added, 250, 500)
        assert slope == pytest.approx({"white": 0, "pink": -12}[colour], abs=1.5)
        colours.add(colour)
    assert colours == {"white", "pink"} and 4 < min(ratios) < 8 and 27 < max(ratios) < 31


@pytest.mark.parametrize("kind", rawboost.KINDS)
def test_rawboost_is_of_the_kinds_named(kind, x):
    augment = only("rawboost", rawboost_kinds=[kind])
    change = augment.draw(rng())[0]
    assert change.value == kind
    np.testing.assert_array_equal(augment(x, rng()), rawboost.KINDS[kind](x, RATE, change.rng))
    assert {only("rawboost").draw(rng(seed))[0].value for seed in range(40)} == set(rawboost.KINDS)


def test_the_equaliser_is_smooth_and_as_wide_as_it_says(x):
    augment, drawn = only("equaliser"), []
    for seed in range(100):
        drawn.append(augment.draw(rng(seed))[0].value)
    assert np.std(drawn) == pytest.approx(6, rel=0.1) and np.mean(drawn) == pytest.approx(0, abs=0.6)
    click = np.zeros(RATE, np.float32)
    click[RATE // 2] = 1
    found = augment(click, rng(3)).astype(float)
    gain = db(np.abs(np.fft.rfft(found)))  # one bin is one hertz
    knots = 60 * (8000 / 60) ** (np.arange(8) / 7)
    assert gain[np.round(knots).astype(int)] == pytest.approx(drawn[3], abs=0.5)
    assert np.abs(np.diff(gain[500:7990])).max() < 0.1
    assert np.argmax(np.abs(found)) == RATE // 2  # no phase is shifted


def test_the_low_pass_cuts_where_drawn(x):
    for seed in range(10):
        cut = only("band", band_hz=[2000.0, 6000.0]).draw(rng(seed))[0].value
        found = only("band", band_hz=[2000.0, 6000.0])(x, rng(seed))
        assert band_db(found, cut, 8000) < band_db(x, cut, 8000) - 30
        assert band_db(found, 100, cut - 60) == pytest.approx(band_db(x, 100, cut - 60), abs=0.1)


def test_gain_is_within_its_range(x):
    gains = [db(effects.rms(only("gain")(x, rng(seed))) / effects.rms(x)) for seed in range(50)]
    assert -10 < min(gains) < -8 and 8 < max(gains) < 10
    loud = only("gain", gain_db=[40.0, 40.0])(x, rng())
    np.testing.assert_allclose(loud, x * 100, rtol=1e-5)  # not clipped


def test_codecs(x):
    for name in FULL["codecs"]:
        found = only("codec", codecs=[name])(x, rng())
        np.testing.assert_array_equal(found, effects.codec(x, RATE, name))
        loud = only("codec", codecs=[name])(x * np.float32(10 / np.abs(x).max()), rng())
        assert effects.rms(loud) == pytest.approx(effects.rms(x) * 10 / np.abs(x).max(), rel=0.1)
    for name in ("gsm", "g711"):
        found = only("codec", codecs=[name])(x, rng())
        assert band_db(found, 4200, 8000) < band_db(x, 4200, 8000) - 20
    assert {only("codec").draw(rng(seed))[0].value for seed in range(60)} == set(FULL["codecs"])


def test_draws_fill_their_ranges():
    chains = [only(*NEEDS).draw(rng(seed)) for seed in range(400)]
    drawn = {name: np.array([chain[at].value for chain in chains]) for at, name in enumerate(NEEDS) if name in
             ("speed", "room", "gain", "band")}  # fmt: skip
    drawn["noise"] = np.array([chain[2].value[0] for chain in chains])
    for name, values in drawn.items():
        low, high = FULL[NEEDS[name]]
        shares = np.log(values / low) / np.log(high / low) if name == "band" else (values - low) / (high - low)
        assert 0 <= shares.min() < 0.02 and 0.98 < shares.max() <= 1
        assert np.quantile(shares, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    matrix = np.corrcoef([drawn[name] for name in drawn])
    assert np.abs(matrix - np.eye(len(matrix))).max() < 0.2  # each for itself


def test_probabilities():
    augment = Augment(FULL | {"room": 0.3, "noise": 0.5}, RATE)
    names = [{change.name for change in augment.draw(rng(seed))} for seed in range(1000)]
    assert np.mean(["room" in found for found in names]) == pytest.approx(0.3, abs=0.05)
    assert np.mean(["noise" in found for found in names]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([{"room", "noise"} <= found for found in names]) == pytest.approx(0.15, abs=0.04)
    assert not set().union(*names) - {"room", "noise"}


def test_order(monkeypatch, x):
    order = ["speed", "room", "noise", "rawboost", "equaliser", "band", "gain", "codec"]
    augment, applied = only(*NEEDS), []
    assert [change.name for change in augment.draw(rng())] == order
    original = augment._applied
    monkeypatch.setattr(augment, "_applied", lambda x, name, *rest: applied.append(name) or original(x, name, *rest))
    augment(x, rng())
    assert applied == order


def test_two_signals_with_one_seed_get_the_same(x, other):
    augment = only(*NEEDS)
    for seed in range(3):  # a signal is not even asked for where chance decides
        one, two = ([(c.name, str(c.value), c.rng.random()) for c in augment.draw(rng(seed))] for _ in range(2))
        assert one == two
    # the same noise up to level, and the same colour and gain
    loud = only("noise")
    for seed in range(4):
        added = [loud(signal, rng(seed)).astype(float) - signal for signal in (x, other)]
        assert np.corrcoef(*added)[0, 1] > 0.9999
        gains = [np.abs(np.fft.rfft(only("gain", "equaliser")(s, rng(seed)).astype(float))) for s in (x, other)]
        gains = [gain / np.abs(np.fft.rfft(s.astype(float))) for gain, s in zip(gains, (x, other), strict=True)]
        inside = slice(400, 12000)  # away from bins in which the signal has next to nothing
        assert np.median(np.abs(db(gains[0][inside] / gains[1][inside]))) < 0.5
    # what one signal makes of a generator does not change what the next effect gets
    both = only("rawboost", "noise")
    states = []
    for signal in (x, other, np.zeros_like(x)):
        given = rng(5)
        both(signal, given)
        states.append(given.bit_generator.state)
    assert states[0] == states[1] == states[2]


def test_labels_have_no_way_in():
    assert list(inspect.signature(Augment.__call__).parameters) == ["self", "x", "rng"]
    assert list(inspect.signature(Augment.draw).parameters) == ["self", "rng"]


def test_one_effect_more_leaves_the_others_as_they_are():
    few = {change.name: change for change in only("room", "gain").draw(rng())}
    many = {change.name: change for change in only(*NEEDS).draw(rng())}
    for name, change in few.items():
        assert many[name].value == change.value and many[name].rng.random() == change.rng.random()


def test_workers_can_take_it(x):
    augment = only("noise", "gain")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(augment))(x, rng()), augment(x, rng()))


def test_params_are_taken_as_they_stand():
    section = YAML(typ="safe").load(Path(__file__).parents[1] / "params.yaml")["augment"]
    assert set(section) == {*NEEDS, *NEEDS.values()}
    for name in NEEDS:
        alone = section | dict.fromkeys(NEEDS, 0.0) | {name: 1.0}
        assert Augment(alone, RATE).draw(rng())[0].name == name


def test_what_is_refused():
    with pytest.raises(UserError, match=r"augment\.room is 0\.5, and augment\.room_rt60 names nothing"):
        Augment({"room": 0.5}, RATE)
    with pytest.raises(UserError, match=r"augment\.codecs names nothing"):
        only("codec", codecs=[])
