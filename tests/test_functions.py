"""Handlers of cloud functions: what is tested.

| what | must hold |
|---|---|
| AWS Lambda | an event of an HTTP API (format 2.0) with a form as base64 gets the detector's score |
| Google | a function of functions-framework does too |
| both | refuse as the service does, with its headers and its token |
"""

import base64
import json
from pathlib import Path

import pytest
from test_serve import form

from aasist_lib import Detector
from aasist_lib.serving import functions

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["aws_lambda", "google"])
def ask(request, folder, monkeypatch):
    """`ask(method, path, body, kind)` gives (status, headers, content), through either platform's way in."""
    monkeypatch.setenv("AASIST_DETECTOR", str(folder))
    monkeypatch.setenv("AASIST_TOKEN", "sesame")
    monkeypatch.setenv("AASIST_MAX_SECONDS", "60")
    functions.app.cache_clear()
    functions._mangum.cache_clear()
    token = {"authorization": "Bearer sesame"}

    def of_lambda(method, path, body=b"", kind="", headers=token):
        path, _, query = path.partition("?")
        event = {
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
            "headers": {"host": "example.org", "content-type": kind, "content-length": str(len(body)), **headers},
            "requestContext": {"http": {"method": method, "path": path, "sourceIp": "192.0.2.1"}, "stage": "$default"},
            "body": base64.b64encode(body).decode(), "isBase64Encoded": True,
        }  # fmt: skip
        answer = functions.aws_lambda(event, None)
        assert not answer["isBase64Encoded"]
        return answer["statusCode"], answer["headers"], json.loads(answer["body"])

    def of_google(method, path, body=b"", kind="", headers=token):
        import functions_framework

        app = functions_framework.create_app("google_cloud", str(ROOT / "aasist_lib/serving/functions.py"), "http")
        answer = app.test_client().open(path, method=method, data=body, content_type=kind, headers=headers)
        return answer.status_code, answer.headers, json.loads(answer.data)

    yield {"aws_lambda": of_lambda, "google": of_google}[request.param]
    functions.app.cache_clear()
    functions._mangum.cache_clear()


def test_scores_are_the_detectors(ask, folder, speech_files):
    detector = Detector.load(folder)
    expected = detector.score_one(speech_files[0])
    body, kind = form(("a.flac", speech_files[0].read_bytes()), ("b", b"no"))
    status, headers, answer = ask("POST", "/v1/score?policy=min_cost", body, kind)
    assert status == 200 and headers["content-security-policy"] and answer["policy"] == "min_cost"
    first, second = answer["files"]
    assert first["llr"] == expected.llr and first["decision"] == detector.decide(expected.llr, "min_cost")
    assert second["error"]["reason"] == "not-audio"


def test_refusals(ask):
    body, kind = form(("b", b"no"))
    status, headers, problem = ask("POST", "/v1/score", body, kind)
    assert (status, problem["reason"]) == (422, "not-audio")
    assert headers["content-type"] == "application/problem+json"
    status, _, problem = ask("POST", "/v1/score", body, kind, headers={})
    assert (status, problem["reason"]) == (401, "token")
    status, _, about = ask("GET", "/v1/model")
    assert status == 200 and about["bounds"]["max_seconds"] == 60
