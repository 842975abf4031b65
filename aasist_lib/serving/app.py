"""Routes of the HTTP service. `Detector.score_one` scores; every refusal is a problem (problems.py)."""

import asyncio
from contextlib import asynccontextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from aasist_lib.detector import verbal_llr
from aasist_lib.serving import problems
from aasist_lib.serving.inference import ConcurrencyLimit, Scorer, Unscorable
from aasist_lib.serving.limits import Limits
from aasist_lib.serving.metrics import Metrics
from aasist_lib.serving.middleware import Middleware
from aasist_lib.serving.problems import Problem

PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/recorder.js": "recorder.js"}
MEDIA = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
FIELD = "file"

HASH = "b7a1c5e04f3d9c2a86e1f0d4738b5a6c9e2d1f4083b7c6a5d4e3f2a1b0c9d8e7"
WINDOW_EXAMPLE = {"start": 0.0, "end": 4.2, "llr": 3.2}
ANSWER_EXAMPLE = {
    "policy": "equal_error",
    "threshold": 0.3,
    "model": {"network_sha256": HASH, "calibration_sha256": HASH[::-1]},
    "files": [
        {
            "name": "voice.wav", "seconds": 4.2, "llr": 3.2, "decision": "bonafide", "meaning": verbal_llr(3.2),
            "windows": [WINDOW_EXAMPLE],
        },
        {"name": "notes.txt", "error": {"reason": "not-audio", "detail": "not audio: Format not recognised"}},
    ],
}  # fmt: skip


class Hashes(BaseModel):
    """Identity of the detector: SHA-256 of its files."""

    network_sha256: str
    calibration_sha256: str


class Window(BaseModel):
    """A window of a recording and its score."""

    start: float = Field(description="seconds from the recording's beginning")
    end: float
    llr: float


class Scored(BaseModel):
    """A recording with a score."""

    name: str = Field(description="as it was sent")
    seconds: float
    llr: float = Field(description="natural-log likelihood ratio of bona fide speech to fakes; not a probability")
    decision: Literal["bonafide", "spoof"] = Field(description="spoof where llr is below the threshold of the policy")
    meaning: str = Field(description="what the number says, in words")
    windows: list[Window]


class Error(BaseModel):
    """Why a recording has no score."""

    reason: str
    detail: str


class NotScored(BaseModel):
    """A recording without a score."""

    name: str
    error: Error


class Answer(BaseModel):
    """Answer of POST /v1/score; recordings in the order in which they were sent."""

    policy: str
    threshold: float
    model: Hashes
    files: list[Scored | NotScored]
    model_config = {"json_schema_extra": {"examples": [ANSWER_EXAMPLE]}}


class About(BaseModel):
    """Answer of GET /v1/model."""

    model: Hashes
    version: str = Field(description="of aasist")
    policy: str = Field(description="the one that decides where a request names none")
    thresholds: dict[str, float] = Field(description="of every policy, in natural-log units")
    bounds: dict[str, int | float] = Field(description="what one request may ask for")


class Health(BaseModel):
    """Answer of GET /healthz and GET /readyz."""

    status: Literal["ok"]


def create_app(detector, hashes: dict[str, str], limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """Create the service as an ASGI app.

    Parameters
    ----------
    hashes
        network_sha256 and calibration_sha256 of the detector.
    token
        If given, /v1/* requires `Authorization: Bearer TOKEN`.

    Returns
    -------
    app
        `app.state.concurrency` counts running requests and can be closed.
    """
    limits = limits or Limits()
    concurrency = ConcurrencyLimit(limits.max_requests)
    counters = Metrics(lambda: concurrency.count)
    scorer = Scorer(detector, limits)
    version = metadata.version("aasist")
    app = FastAPI(
        title="aasist", version=version, docs_url=None, redoc_url=None, redirect_slashes=False,
        # the service has its own log: FastAPI would report refused requests to any OpenTelemetry that is set up
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        description="Tells bona fide human speech from deepfake speech: log-likelihood ratios and decisions.",
    )  # fmt: skip
    app.state.concurrency, app.state.scorer = concurrency, scorer
    app.add_middleware(Middleware, limits=limits, metrics=counters, token=token)
    problems.handle(app, counters.refused)
    Policy = Literal[tuple(detector.thresholds)]
    refusals = _refusals(401) if token else {}
    # for the document: the middleware refuses, before the body is read
    secured = [Security(HTTPBearer(scheme_name="token", auto_error=False))] if token else []

    @app.post(
        "/v1/score",
        dependencies=secured,
        summary="Score recordings",
        responses=refusals | _refusals(400, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": _body(limits)},
    )
    async def score(request: Request, policy: Policy = detector.policy) -> Answer:
        """One or several recordings, of any format that libsndfile reads, each as a part named `file`.

        A single one that cannot be scored is refused; of several, it gets an entry with an `error`.
        """
        with concurrency.enter():
            entries = await _answer(request, scorer, counters, policy)
        return Answer(policy=policy, threshold=detector.thresholds[policy], model=hashes, files=entries)

    @app.get("/v1/model", dependencies=secured, summary="Which detector this is", responses=refusals)
    async def model() -> About:
        """Hashes, thresholds and bounds."""
        return About(
            model=hashes, version=version, policy=detector.policy, thresholds=detector.thresholds, bounds=vars(limits)
        )

    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> Health:
        """Says ok as long as anything is said."""
        return Health(status="ok")

    @app.get("/readyz", summary="Whether requests are welcome", responses=_refusals(503))
    async def readyz() -> Health:
        """503 from SIGTERM on."""
        if concurrency.closing:
            raise Problem(503, "closing", "The service is being shut down.")
        return Health(status="ok")

    @app.get("/metrics", summary="Metrics in Prometheus's text format", response_class=Response,
             responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})  # fmt: skip
    async def metrics():
        """Requests, latency, audio seconds, refusals by reason, requests in flight, memory and open files."""
        return Response(counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    page = resources.files("aasist_lib.serving").joinpath("page")
    for path, name in PAGE.items():
        app.add_api_route(path, _constant(page.joinpath(name).read_bytes(), MEDIA[Path(name).suffix]),
                          include_in_schema=False)  # fmt: skip
    return app


async def _answer(request: Request, scorer: Scorer, metrics: Metrics, policy: str) -> list[Scored | NotScored]:
    """Read the form and score its files one by one; refusals raise Problem."""
    timeout, reading = scorer.limits.timeout, True
    try:
        async with asyncio.timeout(timeout), _form(request, scorer.limits) as form:
            files = _files(form)
            reading = False
            return await _unless_gone(request, _score(files, scorer, metrics, policy))
    except TimeoutError:
        if reading:
            raise Problem(408, "upload-too-slow", f"The upload took longer than {timeout:g} s.") from None
        detail = f"Scoring took longer than {timeout:g} s: send fewer or shorter recordings, or come back later."
        raise Problem(503, "timeout", detail, {"Retry-After": "10"}) from None
    except ClientDisconnect:
        raise _client_gone() from None


async def _score(files: list[UploadFile], scorer: Scorer, metrics: Metrics, policy: str) -> list[Scored | NotScored]:
    entries = []
    for file in files:
        try:
            found = await scorer.score(file.file)
        except Unscorable as error:
            if len(files) == 1:
                raise error.problem() from None
            metrics.refused(error.reason)
            entries.append(NotScored(name=file.filename, error=Error(reason=error.reason, detail=error.detail)))
            continue
        metrics.scored(found.seconds)
        entries.append(
            Scored(
                name=file.filename, seconds=found.seconds, llr=found.llr,
                decision=scorer.detector.decide(found.llr, policy), meaning=verbal_llr(found.llr),
                windows=[Window(start=start, end=end, llr=llr) for start, end, llr in found.windows],
            )
        )  # fmt: skip
    return entries


async def _unless_gone(request: Request, work):
    """Await work, but cancel it when the client disconnects; the work has ended when this returns."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _client_gone()
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait({task, gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":  # the body has been read: nothing else follows
        pass


def _client_gone() -> Problem:
    return Problem(400, "client-gone", "The client went away.")  # for the metrics: nobody reads it


@asynccontextmanager
async def _form(request: Request, limits: Limits):
    """`Request.form` with refusals as problems; closes the files, which are in memory or unnamed on disk."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Problem(415, "not-a-form", f"Send multipart/form-data, each recording as a part named {FIELD}.")
    try:
        yield await _parsed(request, limits.max_files)
    finally:
        await request.close()


async def _parsed(request: Request, max_files: int):
    try:
        form = await request.form(max_files=max_files, max_fields=0)
        for _, file in form.multi_items():
            file.filename.encode()  # in some charsets a name is not valid text, which no answer can hold
        return form
    except UnicodeError:
        raise Problem(400, "malformed-form", "The names in the form cannot be read in its charset.") from None
    except HTTPException as error:
        if "Too many files" in error.detail:
            raise Problem(422, "too-many-files", f"A request may have {max_files} files.") from None
        if "Too many fields" in error.detail:
            raise Problem(422, "not-a-file", "A part without a file name is no file.") from None
        raise Problem(400, "malformed-form", "The form cannot be read.") from None


def _files(form) -> list[UploadFile]:
    if other := [name for name, _ in form.multi_items() if name != FIELD]:
        raise Problem(422, "unknown-field", f"{len(other)} parts are not named {FIELD}.")
    if not form:
        raise Problem(422, "no-file", f"Send at least one recording, as a part named {FIELD}.")
    return form.getlist(FIELD)


def _constant(content: bytes, media_type: str):
    async def give():
        return Response(content, media_type=media_type)

    return give


def _body(limits: Limits) -> dict:
    """OpenAPI schema of the form; the app reads it itself, to check token and limits first."""
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": "a recording"}
    form = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: {"type": "array", "items": file, "minItems": 1, "maxItems": limits.max_files}},
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


REFUSALS = {
    400: ("malformed-form", "The form cannot be read."),
    401: ("token", "This service asks for a token: Authorization: Bearer TOKEN."),
    408: ("upload-too-slow", "The upload took longer than 300 s."),
    413: ("body-too-large", "A request may have 256 MiB."),
    415: ("not-a-form", f"Send multipart/form-data, each recording as a part named {FIELD}."),
    422: ("not-audio", "not audio: Format not recognised"),
    429: ("busy", "64 requests are being scored, as many as are allowed at a time."),
    503: ("closing", "The service is being shut down."),
}


def _refusals(*statuses: int) -> dict:
    """OpenAPI responses for what a route may refuse."""
    found = {}
    for status in statuses:
        problem = Problem(status, *REFUSALS[status]).details()
        content = {"schema": problems.Details.model_json_schema(), "example": problem}
        found[status] = {"description": problem["title"], "content": {problems.MEDIA_TYPE: content}}
        if status in (429, 503):
            found[status]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found
