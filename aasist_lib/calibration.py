"""From a network's scores to log-likelihood ratios, and from those to decisions.

A network's logit only ranks utterances. Calibration gives it a unit: a natural-log likelihood ratio (LLR) of
2 says that such a score is e^2 = 7.4 times as frequent among real voices as among fakes, -2 says the
opposite, 0 says nothing. Weighed against how many fakes one expects, it becomes a probability. A threshold
turns it into a decision: spoof if and only if llr < threshold.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from aasist_lib.errors import UserError
from aasist_lib.metrics import _checked, det

POLICIES = ("equal_error", "min_cost", "few_false_alarms")


@dataclass(frozen=True)
class Affine:
    """llr = scale * score + offset, in natural-log units; of scores of any shape.

    >>> Affine(scale=2.0, offset=-1.0)([0.5, 1.5])
    array([0., 2.])
    """

    scale: float
    offset: float

    def __call__(self, scores) -> np.ndarray:
        return self.scale * np.asarray(scores, dtype=np.float64) + self.offset

    @property
    def inverted(self) -> bool:
        """True where a higher score meant a fake: the detector has learnt the opposite of what it should."""
        return self.scale <= 0

    def describe(self) -> str:
        """In words, with a plain warning where the scores point the wrong way."""
        text = f"llr = {self.scale:.3f} x score {'+' if self.offset >= 0 else '-'} {abs(self.offset):.3f}"
        if self.inverted:
            text += (
                ". Warning: on these recordings a higher score means a fake. Calibration turns the scores"
                " round, but a detector that is upside down here cannot be trusted elsewhere:"
                " check the labels and the training."
            )
        return text

    def to_dict(self) -> dict:
        """For JSON: floats in full precision, so that `from_dict` gives the very same numbers."""
        return {"kind": "affine", "scale": self.scale, "offset": self.offset}

    @classmethod
    def from_dict(cls, values: dict) -> "Affine":
        """The inverse of `to_dict`; other keys are ignored.

        Raises
        ------
        UserError
            It is of another kind, or scale or offset is missing or not a finite number.
        """
        if values.get("kind") != "affine":
            raise UserError(f"calibration: kind is {values.get('kind')!r}, but only 'affine' is known")
        scale, offset = (values.get(name) for name in ("scale", "offset"))
        if not all(isinstance(x, int | float) and np.isfinite(x) for x in (scale, offset)):
            raise UserError(f"calibration: scale {scale!r} and offset {offset!r} must be finite numbers")
        return cls(float(scale), float(offset))


def fit_affine(bonafide, spoof, prior_spoof: float = 0.5) -> Affine:
    """Fit LLRs by logistic regression, both classes weighted to the prior whatever their numbers.

    Parameters
    ----------
    bonafide, spoof : (n,) and (m,) scores, higher = bona fide.
    prior_spoof : where on the scale the fit is to be best; 0.5 for an all-round one.

    Returns
    -------
    Affine

    Raises
    ------
    UserError
        A class is missing, a score is not a number, all scores are equal, or the prior is not between 0 and 1.

    Notes
    -----
    Targets are Platt's (1999): (n+1)/(n+2) for bona fide and 1/(m+2) for spoofs instead of 1 and 0. It keeps
    the scale finite where the classes do not overlap, and hardly matters where they do: n trials without an
    error cannot show odds much beyond n to 1.
    """
    bonafide, spoof = _checked(bonafide, spoof)
    if not 0 < prior_spoof < 1:
        raise UserError(f"prior_spoof: {prior_spoof} is not between 0 and 1")
    scores = np.concatenate([bonafide, spoof])
    centre, spread = scores.mean(), scores.std()
    if not spread > 0 or not np.isfinite(spread):
        raise UserError("calibration: all scores are the same, or one is infinite; train the network first")
    x = np.column_stack([(scores - centre) / spread, np.ones(len(scores))])
    sizes = [len(bonafide), len(spoof)]
    target = np.repeat([(sizes[0] + 1) / (sizes[0] + 2), 1 / (sizes[1] + 2)], sizes)
    weight = np.repeat([(1 - prior_spoof) / sizes[0], prior_spoof / sizes[1]], sizes)
    log_odds = np.log((1 - prior_spoof) / prior_spoof)

    def loss(w):
        z = x @ w + log_odds
        error = weight * (expit(z) - target)
        return weight @ (np.logaddexp(0, z) - target * z), x.T @ error

    def hessian(w):
        p = expit(x @ w + log_odds)
        return (x.T * (weight * p * (1 - p))) @ x

    slope, intercept = minimize(loss, [1.0, 0.0], jac=True, hess=hessian, method="trust-exact",
                                options={"gtol": 1e-12}).x  # fmt: skip
    return Affine(float(slope / spread), float(intercept - slope * centre / spread))


def thresholds(
    bonafide_llr,
    spoof_llr,
    *,
    prior_spoof: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
    max_bonafide_rejected: float = 0.05,
) -> dict[str, float]:
    """Thresholds of the three policies, for the decision "spoof if and only if llr < threshold".

    equal_error: real voices called fake as often as fakes let through. min_cost: lowest `metrics.min_dcf` of
    these trials. few_false_alarms: highest threshold that calls at most `max_bonafide_rejected` of these real
    voices fake. Each lies half way between two scores, so that a rounding error moves no trial across.

    Parameters
    ----------
    bonafide_llr, spoof_llr : (n,) and (m,) log-likelihood ratios.
    prior_spoof, cost_miss, cost_false_alarm : of min_cost, as in `metrics.min_dcf`.
    max_bonafide_rejected : of few_false_alarms, a fraction from 0 to below 1.

    Returns
    -------
    dict
        A log-likelihood ratio for each of `POLICIES`.

    Raises
    ------
    UserError
        A class is missing, a score is not a number, or a setting is out of range.

    >>> policy = thresholds([0.5, 1, 2, 3], [-3, -1, 0, 1.5], max_bonafide_rejected=0.25)
    >>> policy["equal_error"], policy["min_cost"], policy["few_false_alarms"]
    (0.75, 0.25, 0.75)
    """
    curve = det(bonafide_llr, spoof_llr)
    if not 0 <= max_bonafide_rejected < 1:
        raise UserError(f"max_bonafide_rejected: {max_bonafide_rejected} is not a share from 0 to below 1")
    allowed = curve.thresholds[curve.bonafide_rejected <= max_bonafide_rejected + 1e-12]
    highest_rejected = {
        "equal_error": curve.eer().threshold,
        "min_cost": curve.min_dcf(prior_spoof, cost_miss, cost_false_alarm).threshold,
        "few_false_alarms": allowed[-1],
    }
    following = np.append(curve.thresholds[1:], curve.thresholds[-1] + 0.001)
    halfway = curve.thresholds + (following - curve.thresholds) / 2
    return {policy: float(halfway[curve.thresholds == score][0]) for policy, score in highest_rejected.items()}


def save_detector(
    folder: Path, network: Path, affine: Affine, policies: dict[str, float], *, policy: str, **settings
) -> None:
    """Write a detector's folder: a copy of the network's two files, and calibration.json.

    Parameters
    ----------
    folder, network : of the detector to write, of the network to copy.
    affine, policies : what `fit_affine` and `thresholds` gave.
    policy : the one of `policies` that decides.
    settings : what they were made for (prior_spoof and so on), kept in calibration.json in full precision.

    Raises
    ------
    UserError
        There is no such policy, or no network in its folder.
    """
    if policy not in policies:
        raise UserError(f"calibrate.policy: {policy!r} is not one of {', '.join(policies)}")
    folder, network = Path(folder), Path(network)
    content = {**settings, **affine.to_dict(), "thresholds": policies, "policy": policy}
    files = {"calibration.json": (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()}
    for name in ("network.safetensors", "network.json"):
        if not (network / name).is_file():
            raise UserError(f"{network / name}: not there; run the train stage (dvc repro train)")
        files[name] = (network / name).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.partial").write_bytes(content)
        os.replace(folder / f"{name}.partial", folder / name)


def load(folder: Path) -> tuple[Affine, float, dict]:
    """Read a detector's calibration.json.

    Returns
    -------
    tuple
        The fit, the threshold (a log-likelihood ratio) that decides, and all that the file holds.

    Raises
    ------
    UserError
        The file is missing or no calibration.
    """
    path = Path(folder) / "calibration.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        threshold = float(content["thresholds"][content["policy"]])
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the calibrate stage (dvc repro calibrate)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a calibration; run the calibrate stage again") from None
    return Affine.from_dict(content), threshold, content
