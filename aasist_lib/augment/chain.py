"""Chance in training: each crop is worn as the world wears recordings, so that the network cannot rely on one channel.

What is done and how much is drawn before the sound is looked at, and from a number of draws that is always the same.
So one seed gives one chain of effects with the same numbers, whatever the signal: a recording and its copy by a vocoder
are given the same seed, lie under the same noise and the same codec, and only the vocoder tells them apart. No label
enters here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aasist_lib.augment import effects, rawboost
from aasist_lib.base.errors import UserError

# What an effect needs besides its probability. In the order in which things happen to speech: the speaker, the room,
# the microphone and its line, and the codec last, which codes what was recorded.
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
CHOICES = {"rawboost": rawboost.KINDS, "codec": effects.CODECS}
COLOURS = ("white", "pink")
KNOTS = 8  # of the equaliser: from 60 Hz to 8 kHz one every octave


class Change(NamedTuple):
    """One effect of a chain: `name`, the number or word drawn for it, and the generator for the samples of it."""

    name: str
    value: Any
    rng: np.random.Generator


class Augment:
    """Applies each effect with its probability, its numbers drawn from their ranges.

    Numbers are drawn uniformly (of the low-pass, uniformly in octaves), noise is white or pink, of RawBoost one kind
    is drawn, and of the codecs one.

    Parameters
    ----------
    settings : mapping
        The section `augment` of params.yaml. An effect that is not named is never applied.
    rate : int
        Hz.

    Raises
    ------
    UserError
        An effect lacks its range or choice, or a choice has a name that does not exist.

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
            for word in self.settings[needed] if name in CHOICES else ():
                if word not in CHOICES[name]:
                    raise UserError(f"augment.{needed}: {word!r} is not one of {', '.join(CHOICES[name])}")

    @property
    def off(self) -> bool:
        """Whether no effect is ever applied."""
        return not self.probability.any()

    def __bool__(self) -> bool:
        return not self.off

    def draw(self, rng: np.random.Generator) -> list[Change]:
        """Decides what to do, without a look at the signal: the chain, in its order.

        The number of draws is the same for all settings, too: another probability of one effect leaves the numbers
        of the others as they are.
        """
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
        """Changes a waveform.

        Parameters
        ----------
        x : np.ndarray
            (samples,), float32, full scale at 1.
        rng : np.random.Generator
            The same state of it gives the same chain, whatever `x`.

        Returns
        -------
        np.ndarray
            (samples,), float32, of the same length. Peaks may pass full scale: nothing is clipped.
        """
        found = x
        for change in self.draw(rng):
            found = self._applied(found, *change)
        return np.ascontiguousarray(found, dtype=np.float32)

    def _applied(self, x: np.ndarray, name: str, value, rng: np.random.Generator) -> np.ndarray:
        if name == "speed":
            return np.resize(effects.speed(x, value), len(x))  # cut, or repeated from the start
        if name == "room":
            return effects.room(x, self.rate, value, rng)
        if name == "noise":
            snr_db, colour = value
            return effects.noise(x, snr_db, rng, colour)
        if name == "rawboost":
            return rawboost.KINDS[value](x, self.rate, rng)
        if name == "equaliser":
            return effects.coloured(x, self.rate, value)
        if name == "band":
            return effects.without_band(x, self.rate, value, np.inf)
        if name == "gain":
            return x * np.float32(10 ** (value / 20))
        # a codec clips: what is too loud is turned down for it, and up again after it
        loud = np.float32(max(1.0, np.abs(x).max(initial=0)))
        return effects.codec(x / loud, self.rate, value) * loud
