"""Middleware around every request: token, size of the body, security headers, log and metrics."""

import asyncio
import hmac
import logging
import time
import traceback

from starlette.datastructures import Headers

from aasist_lib.serving.limits import MEBI, Limits
from aasist_lib.serving.metrics import Metrics
from aasist_lib.serving.problems import Problem, crashed

log = logging.getLogger("aasist.serve")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
PROTECTED = "/v1/"
DISCARD, DISCARD_SECONDS = 16 * MEBI, 2.0


class Middleware:
    """ASGI middleware; pure ASGI, because Starlette's wrapper around `Request` hides that a client went away."""

    def __init__(self, app, limits: Limits, metrics: Metrics, token: str | None = None):
        self.app, self.limits, self.metrics = app, limits, metrics
        self.token = token.encode() if token else None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, answer = time.perf_counter(), {"status": 0}
        body = Body(receive, self.limits)

        async def answering(message):
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                message["headers"] = [*message["headers"], *RAW_HEADERS]
                if not await body.discarded(Headers(scope=scope)):  # else uvicorn keeps reading it
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._checked(scope, body, answering)
        except Exception as error:
            # frames only: a message may contain a name or a part of the request
            frames = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            log.error("%s at %s", type(error).__name__, " > ".join(frames))
            if not answer["status"]:
                self.metrics.refused("internal")
                await crashed().response()(scope, receive, answering)
        finally:
            seconds, method = time.perf_counter() - started, self.metrics.method(scope["method"])
            route = getattr(scope.get("route"), "path", "other")  # never the path itself: clients choose it
            self.metrics.answered(method, route, answer["status"], seconds)
            log.info("%s %s %s %.3f s", method, route, answer["status"] or "gone", seconds)

    async def _checked(self, scope, body: "Body", answering) -> None:
        try:
            headers = Headers(scope=scope)
            if self.token and scope["path"].startswith(PROTECTED):
                self._check_token(headers)
            body.check_promise(headers)
        except Problem as problem:
            self.metrics.refused(problem.reason)
            await problem.response()(scope, body.receive, answering)
        else:
            await self.app(scope, body.receive, answering)

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.token):
            detail = "This service asks for a token: Authorization: Bearer TOKEN."
            raise Problem(401, "token", detail, {"WWW-Authenticate": "Bearer"})


class Body:
    """A request's body, counted as it arrives."""

    def __init__(self, receive, limits: Limits):
        self._receive, self.limits = receive, limits
        self.size, self.ended = 0, False

    def check_promise(self, headers: Headers) -> None:
        """Refuse a body whose Content-Length is too large."""
        promised = headers.get("content-length", "0")
        if promised.isdecimal() and int(promised[:20]) > self.limits.max_body:
            raise self._too_large()

    async def receive(self):
        """ASGI's receive; raises Problem when the body gets too large."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
            if self.size > self.limits.max_body:
                raise self._too_large()
        else:
            self.ended = True
        return message

    def _too_large(self) -> Problem:
        return Problem(413, "body-too-large", f"A request may have {self.limits.max_body_mb:g} MiB.")

    async def discarded(self, headers: Headers) -> bool:
        """Read a little more of a refused body, as many clients read no answer before; return whether it ended."""
        if self.ended or not {"content-length", "transfer-encoding"} & set(headers):
            return True
        if headers.get("expect"):  # this client waits to be asked
            return False
        size = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self.ended and size < DISCARD:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    self.ended = not message.get("more_body", False)
        except TimeoutError:
            pass
        return self.ended
