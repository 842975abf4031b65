"""The augmentation chain: effects drawn at random per crop, so that the network cannot rely on one channel.

The chain is drawn before the signal is looked at, with a fixed number of draws. The same seed therefore gives the same
effects and values for any signal: a recording and its vocoder copy get the same noise and codec. No label enters.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aasist_lib.augment import effects, rawboost
from aasist_lib.base.errors import UserError

# The setting that each effect needs besides its probability, in the order in which recordings meet them: speaker, room,
# microphone and line, codec.
NEEDS = {
    "speed": "speed_factor",
    "room": "room_rt60",
    "noise": "noise_snr_db",
    "rawboost": "rawboost_kinds",
    "equaliser": "equaliser_db",
    "band": "band_hz",
    "gain": "gain_db",
    "codec": "codecs",
}
CHOICES = ("rawboost", "codec")  # draw from a list, the others from a range
COLOURS = ("white", "pink")
KNOTS = 8  # of the equaliser: one per octave from 60 Hz to 8 kHz


class Change(NamedTuple):
    """An effect of a chain: `name`, the value drawn for it, and the generator for its samples."""

    name: str
    value: Any
    rng: np.random.Generator


class Augment:
    """Applies each effect with its probability and values drawn from their ranges.

    Values are drawn uniformly (low-pass edges on a log scale), noise is white or pink, and one RawBoost kind and one
    codec are drawn from the lists.

    Parameters
    ----------
    settings
        The section `augment` of params.yaml; effects that it does not name are off.
    rate : Hz

    Raises
    ------
    UserError
        If an effect lacks its range or its list.

    Examples
    --------
    >>> augment = Augment({"gain": 1.0, "gain_db": [-6.0, -6.0]}, 16000)
    >>> augment.off, Augment({}, 16000).off
    (False, True)
    >>> augment(np.ones(2, np.float32), np.random.default_rng(1))
    array([0.5011872, 0.5011872], dtype=float32)
    """

    def __init__(self, settings: Mapping, rate: int):
        self.settings, self.rate = dict(settings), rate
        self.probability = np.array([float(self.settings.get(name, 0)) for name in NEEDS])
        for name, needed in NEEDS.items():
            if not self.settings.get(name):
                continue
            if needed not in self.settings or self.settings[needed] == []:
                raise UserError(f"augment.{name} is {self.settings[name]}, and augment.{needed} names nothing")

    @property
    def off(self) -> bool:
        """Whether no effect is ever applied."""
        return not self.probability.any()

    def __bool__(self) -> bool:
        return not self.off

    def draw(self, rng: np.random.Generator) -> list[Change]:
        """The chain for one crop, in order; changing one probability leaves the values of other effects alone."""
        happens = rng.random(len(NEEDS)) < self.probability
        positions, choices = rng.random((2, len(NEEDS)))
        knots = rng.standard_normal(KNOTS)
        chain = []
        for index, (name, own) in enumerate(zip(NEEDS, rng.spawn(len(NEEDS)), strict=True)):
            if not happens[index]:
                continue
            given, position, choice = self.settings[NEEDS[name]], positions[index], choices[index]
            if name in CHOICES:
                value = given[int(choice * len(given))]
            elif name == "equaliser":
                value = knots * given
            elif name == "band":
                value = given[0] * (given[1] / given[0]) ** position
            else:
                value = given[0] + (given[1] - given[0]) * position
            if name == "noise":
                value = value, COLOURS[int(choice * len(COLOURS))]
            chain.append(Change(name, value, own))
        return chain

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment a waveform, (samples,) float32, full scale 1; same length, not clipped at full scale."""
        found = x
        for change in self.draw(rng):
            found = self._applied(found, *change)
        return np.ascontiguousarray(found, dtype=np.float32)

    def _applied(self, x: np.ndarray, name: str, value, rng: np.random.Generator) -> np.ndarray:
        if name == "speed":
            return np.resize(effects.speed(x, value), len(x))  # cropped, or repeated from the start
        if name == "room":
            return effects.room(x, self.rate, value, rng)
        if name == "noise":
            snr_db, colour = value
            return effects.noise(x, snr_db, rng, colour)
        if name == "rawboost":
            return rawboost.KINDS[value](x, self.rate, rng)
        if name == "equaliser":
            return effects.equalise(x, self.rate, value)
        if name == "band":
            return effects.band_stop(x, self.rate, value, np.inf)
        if name == "gain":
            return x * np.float32(10 ** (value / 20))
        # a codec clips: louder signals are scaled down for it, and up again afterwards
        loud = np.float32(max(1.0, np.abs(x).max(initial=0)))
        return effects.codec(x / loud, self.rate, value) * loud
