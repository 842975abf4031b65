"""Limits of one request, set as `aasist serve --max-files 5` or AASIST_MAX_FILES=5."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from aasist_lib.base.errors import UserError

MEBI = 2**20


def _limit(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """All limits; a request beyond one is refused with a reason, never answered in part."""

    max_body_mb: float = _limit(256.0, "size of a request's body, in MiB")
    max_files: int = _limit(16, "files in a request")
    max_seconds: float = _limit(7200.0, "duration of a recording")
    max_unpacked_mb: float = _limit(4096.0, "size of a recording once decoded (4 bytes a sample and channel), in MiB")
    max_requests: int = _limit(64, "requests to score at a time; more are told to come back (429)")
    timeout: float = _limit(300.0, "seconds that a request may take, its upload included")
    workers: int = _limit(os.cpu_count() or 1, "recordings scored at a time, a thread each")
    grace: float = _limit(30.0, "seconds that running requests get to finish after SIGTERM")

    def __post_init__(self):
        for limit in dataclasses.fields(self):
            if not 0 < getattr(self, limit.name) < math.inf:
                raise UserError(f"{limit.name}: {getattr(self, limit.name)} is not a number above 0")

    @property
    def max_body(self) -> int:  # bytes
        return round(self.max_body_mb * MEBI)

    @property
    def max_unpacked(self) -> int:  # bytes
        return round(self.max_unpacked_mb * MEBI)


def read(given: Mapping[str, object] | None = None, environment: Mapping[str, str] = os.environ) -> Limits:
    """Take each limit from `given` (None: not given), else from the environment, else the default."""
    given = {name: value for name, value in (given or {}).items() if value is not None}
    for limit in dataclasses.fields(Limits):
        name = f"AASIST_{limit.name.upper()}"
        if limit.name not in given and environment.get(name):
            try:
                given[limit.name] = limit.type(environment[name])
            except ValueError:
                kind = "a whole number" if limit.type is int else "a number"
                raise UserError(f"{name}: {environment[name]!r} is not {kind}") from None
    return Limits(**given)
