"""`make tune`: search for the settings of experiments/tune.yaml on the corpus in data/.

The best settings become experiments/tuned.yaml and a `dvc exp run -S ...` command. Trials are short, and the best of
many on dev is optimistic: only that run shows what a setting is worth.
"""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ruamel.yaml import YAML, YAMLError

from aasist_lib import params
from aasist_lib.augment import Augment
from aasist_lib.base import files
from aasist_lib.base.errors import UserError
from aasist_lib.studies import tuning
from aasist_lib.studies.plans import COPIES, waveforms

SPACE = Path("experiments/tune.yaml")
BEST = Path("experiments/tuned.yaml")
WORK = Path("build/tune")
LEAST = {"trials": 1, "seed": 0, "epochs": 1, "draws": 2}  # integers of the file, and their minima
PRUNE_LEAST = {"trials": 1, "epochs": 1}
SECTIONS = ("features", "model", "augment", "train")  # settings that a trial's result depends on
EXTRACT = ("extract.holds", "extract.copies")  # and these of extract


def run(root: Path, workers: int = 2, space_file: Path | None = None, trials: int | None = None) -> str:
    """Continue or start the search; write `experiments/tuned.yaml` and `build/tune/trials.csv`; return a summary.

    Parameters
    ----------
    root : project folder.
    space_file : instead of `experiments/tune.yaml`.
    trials : instead of the number in the file.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, no trial completed, or as `tuning.run`.
    """
    for name, number in (("--workers", workers), ("--trials", trials)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: must be 1 or more")
    path, work = space_file or root / SPACE, root / WORK
    work.mkdir(parents=True, exist_ok=True)
    plan = Plan(path, root / "params.yaml")
    held = waveforms(root, workers)
    # a copy, so that edits of params.yaml do not affect later trials
    now = (root / "params.yaml").read_bytes()
    kept = work / f"params-{hashlib.sha256(now).hexdigest()[:12]}.yaml"
    kept.write_bytes(now)
    search = plan.search(held, work, kept)
    study = tuning.run(search, trials or plan.trials, workers)
    # significant digits: rates are small
    trials_csv = tuning.table(study, search).to_csv(index=False, float_format="%.6g")
    (work / "trials.csv").write_text(trials_csv, encoding="utf-8")
    best = tuning.best(study)
    if best is None:
        raise UserError(f"{path.name}: no trial went to its end: lower train.lr in it, or ask for more trials")
    return _told(root, plan, search, study, best)


class Plan:
    """Validated content of a file such as `experiments/tune.yaml`; `UserError` where it is invalid.

    The file has `trials`, `seed`, `epochs`, `draws`, `prune` (`trials`, `epochs`), `change` (laid over params.yaml) and
    `space`: by setting, `low`, `high` and `log`, or `choices`. `fixed` maps the settings of `change` to values, and
    `space` those of `space` to `tuning.Range` or `tuning.Choices`.
    """

    def __init__(self, path: Path, base: Path):
        self.path, self.base, content = path, base, _yaml(path)
        _check_keys(content, {*LEAST, "prune", "change", "space"}, {"change"}, path.name)
        self.prune, change, space = content["prune"], content.get("change") or {}, content["space"]
        _check_keys(self.prune, set(PRUNE_LEAST), set(), f"{path.name}: prune")
        for inside, least, where in ((content, LEAST, ""), (self.prune, PRUNE_LEAST, "prune.")):
            for key, lowest in least.items():
                if not _whole(inside[key]) or inside[key] < lowest:
                    raise UserError(f"{path.name}: {where}{key}: {inside[key]!r} is no whole number from {lowest} up")
        self.trials, self.seed, self.epochs, self.draws = (content[key] for key in LEAST)
        if not isinstance(change, dict) or not isinstance(space, dict) or not space:
            raise UserError(f"{path.name}: change and space must hold `setting: ...` lines, and space at least one")
        space = {str(key): entry for key, entry in space.items()}
        self.fixed = _flat(change)
        self.settings(base, {})
        raw = _yaml(base)
        self.space = {key: self._part(key, entry, _at(raw, key)) for key, entry in space.items()}
        self._check_values()
        for key in [*self.fixed, *self.space]:
            self._check_place(key)
        found = {key: _at(raw, key) for key in self.space}
        inside = all(part.drawn(found[key]) is not None for key, part in self.space.items())
        self.first = found if inside else {}
        # everything else that a trial's result depends on
        rest = _flat({name: raw[name] for name in SECTIONS}) | self.fixed
        rest = {key: value for key, value in rest.items() if key not in self.space}
        self.about = json.dumps([rest, raw["seed"], self.epochs], sort_keys=True)

    def search(self, store: Path, work: Path, base: Path) -> tuning.Search:
        """Search in a store of waveforms, with its studies in the folder `work`."""
        return tuning.Search(
            self.space, partial(_laid, base, self.path.name, self.fixed, self.epochs), self.first, self.seed,
            self.draws, self.prune["trials"], self.prune["epochs"], store, work, self.about,
        )  # fmt: skip

    def settings(self, base: Path, tried: Mapping[str, Any]) -> dict:
        """All settings of a trial, validated."""
        return _laid(base, self.path.name, self.fixed, self.epochs, tried)

    def _part(self, key: str, entry: Any, now: Any) -> tuning.Range | tuning.Choices:
        where = f"{self.path.name}: space: {key}"
        if isinstance(now, dict):
            raise UserError(f"{where} is a section: name a setting in it, such as {key}.{next(iter(now))}")
        if not isinstance(entry, dict):
            raise UserError(f"{where} must say {{low: ..., high: ...}} or {{choices: [...]}}, not {entry!r}")
        if "choices" in entry:
            _check_keys(entry, {"choices"}, set(), where)
            values = entry["choices"]
            if not isinstance(values, list) or not values or any(values.count(value) > 1 for value in values):
                raise UserError(f"{where}: choices must be a list of different values, not {values!r}")
            return tuning.Choices(tuple(values))
        _check_keys(entry, {"low", "high", "log"}, {"log"}, where)
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        if not all(_whole(end) or isinstance(end, float) for end in (low, high)) or not isinstance(log, bool):
            raise UserError(f"{where}: low and high must be numbers such as 3.0e-4, log true or false")
        if not low < high or (log and low <= 0):
            raise UserError(f"{where}: {low} to {high} is no range{' of logarithms' if log else ''}")
        if any(isinstance(number, float) for number in (low, high, now)):
            low, high = float(low), float(high)
        return tuning.Range(low, high, log)

    def _check_place(self, key: str) -> None:
        section = key.split(".")[0]
        if key in self.fixed and key in self.space:
            raise UserError(f"{self.path.name}: {key} is in change and in space: take one of them away")
        if key == "features.sample_rate" or (section not in SECTIONS and key not in EXTRACT):
            raise UserError(f"{self.path.name}: {key}: trials have it from params.yaml: set it there")
        if key == "train.max_epochs":
            raise UserError(f"{self.path.name}: {key}: a trial has as many as `epochs` says: take this away")

    def _check_values(self) -> None:
        """Check every value of a setting, and all pairs within a section, since some are valid only together."""
        cases = [{key: value} for key, part in self.space.items() for value in part.examples()]
        for one, other in itertools.combinations(self.space, 2):
            if one.rpartition(".")[0] == other.rpartition(".")[0]:
                pairs = itertools.product(self.space[one].examples(), self.space[other].examples())
                cases += [{one: a, other: b} for a, b in pairs]
        for case in cases:
            settings = self.settings(self.base, case)
            changes = Augment(settings["augment"], settings["features"]["sample_rate"])
            if settings["extract"]["copies"] > COPIES:
                raise UserError(
                    f"{self.path.name}: extract.copies: trials share a store that has {COPIES}: ask for fewer"
                )
            if (changes or settings["train"]["adversarial"]) and settings["extract"]["holds"] != "waveforms":
                raise UserError(
                    f"{self.path.name}: sound is to be changed ({', '.join(case)}), which needs waveforms: add "
                    "`extract: {holds: waveforms}` to change"
                )


def runs(settings: Mapping[str, Any]) -> str:
    """Shell command that runs the pipeline with these settings.

    >>> print(runs({"train.lr": 3.0e-4, "features.kind": "mfcc+wavelet", "augment.codecs": ["mp3"]}))
    dvc exp run -S train.lr=0.0003 -S 'features.kind='"'"'mfcc+wavelet'"'"'' -S 'augment.codecs=[mp3]'
    """
    return "dvc exp run " + " ".join(f"-S {shlex.quote(f'{key}={_hydra(value)}')}" for key, value in settings.items())


def _hydra(value: Any) -> str:
    """Value in the syntax of Hydra, which parses -S."""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)  # true, null and numbers are as in JSON
    if re.fullmatch(r"[A-Za-z]\w*", value) and value.lower() not in ("true", "false", "null", "nan", "inf"):
        return value
    return "'" + value.replace("'", r"\'") + "'"


def _told(root: Path, plan: Plan, search: tuning.Search, study, best) -> str:
    """Write the best trial's settings to a file, and return a summary."""
    settings = plan.fixed | search.tried(best)
    done = len(study.get_trials(deepcopy=False, states=tuning.DONE))
    made = f"found best of {done} short trials by `make tune` ({plan.path.name}): EER on dev {best.value:.2%}"
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    first = next((trial for trial in complete if search.tried(trial) == plan.first), None)
    if first:
        made += f", of params.yaml itself {first.value:.2%}"
    yaml = YAML()
    yaml.width = 1000
    with files.replacing(root / BEST) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f"# {made[0].upper()}{made[1:]}\n")
        yaml.dump(nested(settings), file)
    lines = [f"trial {best.number}, {made}", *(f"  {key}: {value}" for key, value in search.tried(best).items())]
    shares = tuning.importance(study)
    if shares:
        lines.append("what has most to do with it: " + ", ".join(f"{k} {v:.0%}" for k, v in list(shares.items())[:5]))
    lines.append(f"written: {BEST}, {WORK / 'trials.csv'}; to run the pipeline with it:")
    lines.append(runs(settings))
    return "\n".join(lines)


def _laid(base: Path, name: str, fixed: Mapping, epochs: int, tried: Mapping[str, Any]) -> dict:
    return params.overlaid(nested({**fixed, **tried, "train.max_epochs": epochs}), base, name)


def nested(settings: Mapping[str, Any]) -> dict:
    """Settings by section, as in params.yaml.

    >>> nested({"train.lr": 1.0, "train.mixup": 0.0})
    {'train': {'lr': 1.0, 'mixup': 0.0}}
    """
    found = {}
    for key, value in settings.items():
        *above, last = key.split(".")
        inner = found
        for name in above:
            inner[name] = inner[name] if isinstance(inner.get(name), dict) else {}
            inner = inner[name]
        inner[last] = value
    return found


def _flat(settings: Mapping[str, Any], above: str = "") -> dict:
    """Inverse of `nested`."""
    found = {}
    for key, value in settings.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_keys(content: Any, known: set, optional: set, where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold `key: value` lines, not {content!r}")
    for key in content:
        if key not in known:
            raise UserError(f"{where}: {key} is not a key: {files.nearest(key, sorted(known))}")
    missing = sorted(known - optional - set(content))
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")


def _yaml(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path)
    except (OSError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
