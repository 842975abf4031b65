"""Schema of `params.yaml`, checked strictly.

Every key is required and known, and every value has a type and a range, so that a typing error stops a run at its
start. Elsewhere only what depends on a corpus, an encoder or a wavelet is checked. Comments in params.yaml say what
settings mean.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from ruamel.yaml import YAML, YAMLError

from aasist_lib.base import files, paths
from aasist_lib.base.errors import UserError

Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Replicates = Annotated[int, Field(ge=20)]  # fewer have no 2.5 % quantile
BothClasses = Annotated[int, Field(ge=2)]  # at least one of each


def _rising(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError(f"{ends[0]:g} to {ends[1]:g} is no range: the smaller end comes first")
    return ends


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_rising)]

RENAMED = {  # keys and values of before
    "averaging": "ema_decay", "holds": "content", "max_bonafide_rejected": "max_fpr", "min_spoof_found": "min_tpr",
    "few_false_alarms": "max_fpr", "few_misses": "min_tpr", "mean": "cmn", "mean_variance": "cmvn",
    "sliding_mean": "sliding_cmn", "sliding_mean_variance": "sliding_cmvn",
}  # fmt: skip


class Section(BaseModel):
    """A section of params.yaml, or of another YAML file of settings: its keys with type and range."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _at_most(small: str, large: str) -> Any:
    """A validator of a section: its setting `small` is not above its setting `large`."""

    def check(self):
        if getattr(self, small) > getattr(self, large):
            raise ValueError(f"{small} ({getattr(self, small)}) must not exceed {large} ({getattr(self, large)})")
        return self

    return model_validator(mode="after")(check)


Format = Literal[
    "protocol", "folder", "asvspoof2019_la", "asvspoof2021_la", "asvspoof2021_df", "asvspoof5", "in_the_wild",
    "for_original", "for_norm", "for_2sec", "for_rerec", "wavefake", "mlaad",
]  # fmt: skip


class Corpus(Section):
    profile: Literal["default", "small", "tiny"]
    workers: Count
    format: Format
    eval_format: Literal["", Format]
    bonafide: str
    subset: Literal["eval", "progress", "hidden", "all"]


class Mfcc(Section):
    n_mfcc: Count
    n_mels: Count
    _fits = _at_most("n_mfcc", "n_mels")


class Lfcc(Section):
    n_lfcc: Count
    n_filters: Count
    _fits = _at_most("n_lfcc", "n_filters")


class Logmel(Section):
    n_mels: Count


class Logspec(Section):
    n_bands: Count


class Logspec2(Section):
    n_bands: Count
    times: Count


class Cqt(Section):
    f_min: Positive
    bins_per_octave: Count
    n_bins: Count


class Wavelet(Section):
    wavelet: str
    level: Annotated[int, Field(ge=1, le=8)]


def _layers(layers: Any) -> Any:
    numbers = isinstance(layers, list) and layers and all(type(layer) is int and layer >= 0 for layer in layers)
    if layers not in ("all", "mean") and not (numbers and len(set(layers)) == len(layers)):
        raise ValueError(f"{layers!r} is neither all, nor mean, nor a list of different numbers from 0 on")
    return layers


class States(Section):
    """Hidden states of a pre-trained encoder, for the front-end `wav2vec2`."""

    encoder: str
    layers: Annotated[Any, AfterValidator(_layers)]


class Features(Section):
    kind: Literal[
        "mfcc", "lfcc", "logmel", "logspec", "logspec2", "cqt", "wavelet", "mfcc+wavelet", "waveform", "wav2vec2"
    ]
    sample_rate: Annotated[int, Field(ge=4000, le=192000)]
    n_fft: Annotated[int, Field(ge=16)]
    hop_length: Count
    deltas: Annotated[int, Field(ge=0, le=2)]
    normalise: Literal["none", "cmn", "cmvn", "sliding_cmn", "sliding_cmvn"]
    mfcc: Mfcc
    lfcc: Lfcc
    logmel: Logmel
    logspec: Logspec
    logspec2: Logspec2
    cqt: Cqt
    wavelet: Wavelet
    wav2vec2: States
    _fits = _at_most("hop_length", "n_fft")


class Extract(Section):
    workers: Count
    content: Literal["features", "waveforms"]
    copies: WholeNumber
    min_seconds: NotNegative
    max_bad_fraction: Share


class Compute(Section):
    """Where to compute. It changes no more than the last digits of a result, so no stage depends on it."""

    backend: Literal["local", "dask"]
    address: str
    accelerator: Literal["cpu", "gpu", "auto"]
    devices: Count

    @model_validator(mode="after")
    def _fits(self):
        if self.address and self.backend != "dask":
            raise ValueError(f"address {self.address} is of a Dask cluster: set backend: dask, or address: ''")
        return self


class Heads(Section):
    """A network whose attention heads share its width."""

    width: Count
    heads: Count

    @model_validator(mode="after")
    def _fits(self):
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self


class CnnAttention(Heads):
    dropout: BelowOne
    spectrum: bool


class Resnet(Section):
    width: Count
    dropout: BelowOne


class Transformer(Heads):
    layers: Count
    dropout: BelowOne


class Aasist(Section):
    size: Literal["full", "light"]


class Wav2vec2(Section):
    encoder: str
    trained: Literal["head", "all"]
    width: Count
    dropout: BelowOne


class Model(Section):
    name: Literal["cnn_attention", "resnet", "transformer", "aasist", "wav2vec2"]
    cnn_attention: CnnAttention
    resnet: Resnet
    transformer: Transformer
    aasist: Aasist
    wav2vec2: Wav2vec2


class Augment(Section):
    """For each augmentation a probability (0: never) and the range or the choices that it draws from."""

    codec: Share
    codecs: list[Literal["mp3", "vorbis", "opus", "gsm", "g711", "g722"]]
    noise: Share
    noise_snr_db: Range
    room: Share
    room_rt60: Range
    rawboost: Share
    rawboost_kinds: list[Literal["convolutive", "impulsive", "stationary"]]
    equaliser: Share
    equaliser_db: NotNegative
    band: Share
    band_hz: Range
    speed: Share
    speed_factor: Range
    gain: Share
    gain_db: Range


class Train(Section):
    max_epochs: Count
    patience: Count
    batch_size: Count
    precision: Literal["float32", "bfloat16"]
    crop_seconds: Positive
    loss: Literal["cross_entropy", "focal", "one_class"]
    bonafide_weight: Positive
    lr: Positive
    weight_decay: NotNegative
    warmup_fraction: Share
    time_masks: WholeNumber
    time_mask_frames: WholeNumber
    coefficient_masks: WholeNumber
    coefficient_mask_width: WholeNumber
    channel_jitter: NotNegative
    pair_fraction: Share
    mixup: NotNegative
    adversarial: Share
    adversarial_db: Range
    adversarial_steps: Count
    ema_decay: BelowOne
    init_from: str
    freeze_cnn_epochs: WholeNumber


class Calibrate(Section):
    method: Literal["affine", "isotonic"]
    prior_spoof: Probability
    cost_miss: Positive
    cost_false_alarm: Positive
    max_fpr: Probability
    min_tpr: Probability
    policy: Literal["equal_error", "min_cost", "max_fpr", "min_tpr"]


class Evaluate(Section):
    bootstrap: Replicates
    worst: WholeNumber


class Audit(Section):
    workers: Count
    bootstrap: Replicates
    utterances: BothClasses
    fakes: Count
    fold_draws: Count
    held_out_attacks: WholeNumber
    held_out_sources: WholeNumber
    held_out_trials: BothClasses


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Count
    corpus: Corpus
    features: Features
    extract: Extract
    compute: Compute
    model: Model
    augment: Augment
    train: Train
    calibrate: Calibrate
    evaluate: Evaluate
    audit: Audit


def load(path: Path | None = None) -> dict[str, Any]:
    """Read all settings and check them.

    Parameters
    ----------
    path
        YAML file; `params.yaml` of the project by default.

    Returns
    -------
    settings
        By section: a dict, or the value itself for `seed` and `threads`. `features` and `model` hold the settings of
        the chosen kind or network only, on one level.

    Raises
    ------
    UserError
        One line for each key that is unknown, missing, or of a wrong type or range.
    """
    path = path or _default()
    return overlaid({}, path, path.name)


def read(section: str, path: Path | None = None) -> Any:
    """Read one section of the settings, such as `train`, as in `load`; mistakes in other sections do not matter.

    UserError as of `load`, or if the section does not exist.
    """
    path = path or _default()
    field = Params.model_fields.get(section)
    if field is None:
        raise UserError(f"{path.name} has no section '{section}': {files.nearest(section, Params.model_fields)}")
    alone = create_model(section, __base__=Section, **{section: (field.annotation, field)})
    content = {key: value for key, value in parse(path).items() if key == section}
    return _chosen(section, checked(alone, content, path.name).model_dump()[section])


def overlaid(changes: dict, path: Path | None = None, name: str = "changes") -> dict[str, Any]:
    """Return what `load` would return if params.yaml held these changes.

    Parameters
    ----------
    changes
        By section, with a level for the kind or network below `features` and `model`.
    name
        What asks for the changes, for error messages.

    Raises
    ------
    UserError
        As `load`.

    Examples
    --------
    >>> overlaid({"features": {"kind": "logspec", "logspec": {"n_bands": 40}}})["features"]["n_bands"]
    40
    """
    settings = checked(Params, merged(parse(path or _default()), changes), name).model_dump()
    return {section: _chosen(section, value) for section, value in settings.items()}


def merged(settings: dict, changes: dict) -> dict:
    """Lay changes over settings, at any depth.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    found = dict(settings)
    for key, value in changes.items():
        inner = settings.get(key)
        found[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def parse(path: Path) -> dict:
    """Content of a YAML file of settings, by YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is text."""
    try:
        content = YAML(typ="safe", pure=True).load(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except YAMLError as error:
        raise UserError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} must be sections of `key: value` lines")
    return content


def checked(schema: type[Section], content: Any, name: str) -> Any:
    """Settings as a model; UserError with one line for each mistake, which begins with `name`, a file or a place in it.

    >>> checked(Mfcc, {"n_mfcc": 20, "n_mel": 40}, "mine.yaml")
    Traceback (most recent call last):
    aasist_lib.base.errors.UserError: mine.yaml: n_mels is missing
    mine.yaml: n_mel is not a setting: did you mean 'n_mels'?
    """
    try:
        return schema.model_validate(content)
    except ValidationError as errors:
        raise UserError("\n".join(_explain(error, schema, name) for error in errors.errors())) from None


def _explain(error: dict, schema: type[Section], name: str) -> str:
    """An error of pydantic in the words of a person who edits the file."""
    where, value, kind = error["loc"], error["input"], error["type"]
    key = ": ".join(filter(None, (name, ".".join(map(str, where)))))
    if kind == "extra_forbidden":
        known = _keys(schema, where[:-1])
        new = RENAMED.get(where[-1])
        return f"{key} is not a setting: {f'it is now {new}' if new in known else files.nearest(where[-1], known)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind in ("float_type", "int_type") and isinstance(value, str):
        return f"{key}: '{value}' is text, not a number{_as_number(value)}"
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", error["ctx"]["expected"])
        if RENAMED.get(value) in choices:
            return f"{key}: '{value}' is now '{RENAMED[value]}'"
        shown = ", ".join(choice or "''" for choice in choices)
        return f"{key}: '{value}' is none of {shown}: {files.nearest(value, choices)}"
    if kind == "model_type":
        return f"{key} must hold `key: value` lines, not {value!r}"
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}"
    return f"{key}: {value!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _as_number(text: str) -> str:
    """Advice to write a number that stands in quotes without them, and with a point, as YAML 1.1 needs it."""
    try:
        number = float(text)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    mantissa, e, exponent = text.lower().partition("e")
    return f": write {mantissa if '.' in mantissa or not e else mantissa + '.0'}{e}{exponent} without quotes"


def _keys(schema: Any, where: tuple) -> list[str]:
    """The valid keys at this place, below sections and dicts of sections."""
    for key in where:
        schema = schema.model_fields[key].annotation if hasattr(schema, "model_fields") else get_args(schema)[1]
    return list(schema.model_fields)


def _chosen(section: str, value: Any) -> Any:
    """Reduce `features` and `model` to the settings of the chosen kind or network, on one level."""
    choice = {"features": "kind", "model": "name"}.get(section)
    if choice is None:
        return value
    common = {key: setting for key, setting in value.items() if not isinstance(setting, dict)}
    for part in value[choice].split("+"):
        common |= value.get(part, {})
    return common


def _default() -> Path:
    return paths.root() / "params.yaml"
