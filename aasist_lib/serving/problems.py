"""Refusals as in RFC 9457 (application/problem+json), without traces or content of the request."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Details(BaseModel):
    """What was refused and why, as in RFC 9457."""

    type: str = Field("about:blank", description="always about:blank: `reason` says more")
    title: str = Field(description="what the status means")
    status: int
    reason: str = Field(description="a word for programs")
    detail: str = Field(description="a sentence for people")


class Problem(Exception):
    """A refused request: HTTP status, `reason` for programs and metrics, `detail` for people."""

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.detail, self.headers = status, reason, detail, headers or {}

    def details(self) -> dict:
        title = HTTPStatus(self.status).phrase
        return Details(title=title, status=self.status, reason=self.reason, detail=self.detail).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.details(), self.status, self.headers, MEDIA_TYPE)


def crashed() -> Problem:
    """Problem for an unexpected error: the client gets no more than this, the log has the rest."""
    return Problem(500, "internal", "The service failed at this request. Its log says where.")


def handle(app: FastAPI, refused) -> None:
    """Answer all refusals of an app with problems; `refused` is called with the reason of each."""

    def of_problem(request: Request, problem: Problem) -> JSONResponse:
        refused(problem.reason)
        return problem.response()

    def of_framework(request: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        said = {404: "There is nothing at this address.", 405: "This address does not take this method."}
        detail = said.get(error.status_code, str(error.detail))
        return of_problem(request, Problem(error.status_code, reason, detail, dict(error.headers or {})))

    def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        # where, and what was expected; not what was sent
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return of_problem(request, Problem(422, "invalid", wrong))

    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, of_validation)
