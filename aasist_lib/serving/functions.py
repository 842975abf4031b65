"""Handlers for AWS Lambda and Google Cloud Functions: the same app, configured by the environment.

AASIST_DETECTOR (folder or ONNX file; models/detector by default), AASIST_TOKEN, and the limits of limits.py. The first
request of an instance loads the detector. The platforms limit requests too: Lambda takes 6 MB, in base64.
"""

import asyncio
import functools
import os


@functools.cache
def app():
    """The service, as `aasist serve` builds it; loaded once per instance."""
    from aasist_lib.serving import limits, run

    detector = os.environ.get("AASIST_DETECTOR") or "models/detector"
    return run.build(detector, limits.read(), run.token())


def aws_lambda(event: dict, context) -> dict:
    """Handle a request of AWS Lambda behind a URL or API gateway: `aasist_lib.serving.functions.aws_lambda`."""
    return _mangum()(event, context)


@functools.cache
def _mangum():
    from mangum import Mangum

    # other types are sent as base64
    text = ["text/", "application/json", "application/problem+json"]
    return Mangum(app(), lifespan="off", text_mime_types=text)


def google_cloud(request):
    """Handle a request (`flask.Request`) of Google Cloud Functions: entry point `google_cloud`."""
    import flask

    status, headers, body = asyncio.run(_ask(request))
    answer = flask.Response(body, status)
    answer.headers.clear()
    answer.headers.extend(headers)
    return answer


async def _ask(request) -> tuple[int, list[tuple[str, str]], bytes]:
    """Send one request of Flask through the app; return status, headers and body."""
    scope = {
        "type": "http", "http_version": "1.1", "method": request.method, "scheme": request.scheme, "root_path": "",
        "path": request.path, "raw_path": request.path.encode(), "query_string": request.query_string,
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
    }  # fmt: skip
    status, headers, pieces, ended = 0, [], [], False

    async def receive():
        nonlocal ended
        if ended:
            await asyncio.Event().wait()  # Flask does not tell whether the client is still there
        piece = request.stream.read(2**18)
        ended = not piece
        return {"type": "http.request", "body": piece, "more_body": not ended}

    async def send(message):
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            pieces.append(message.get("body", b""))

    await app()(scope, receive, send)
    return status, headers, b"".join(pieces)
