"""The service: what is tested.

| what | must hold |
|---|---|
| scores | those of `Detector.score_one`, to the last digit, window by window; decisions by the policy asked for |
| several files | each has its entry, in order; one that cannot be read has an error, and the rest their scores |
| refusals | problem details for every 4xx and 5xx, with a reason and without traces, paths or names |
| limits | body (promised, streamed), files, duration (promised, found), unpacked size, channels, rate, time, requests |
| uploads | lie nowhere under a name, are gone afterwards, and are in no log |
| a client that leaves | ends the scoring at the next window |
| token | /v1/* asks for it, the rest does not |
| the process | starts or says why not in a line; SIGTERM finishes what runs, and /readyz tells |
| load, fuzz | short versions of benchmarks/load.py and fuzz.py on a really started service: no error, no leak |
| page | a file and a recording from the microphone get their timeline, in a real browser, by keyboard, on a phone |
"""

import asyncio
import contextlib
import hashlib
import io
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from starlette.testclient import TestClient

from aasist_lib import Detector, cli, models
from aasist_lib.base.errors import UserError
from aasist_lib.detector import Score
from aasist_lib.serving import limits, run
from aasist_lib.serving.app import create_app
from aasist_lib.serving.limits import Limits

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import fuzz, load  # noqa: E402
from benchmarks.service import Service, encoded, form  # noqa: E402

HASHES = {"network_sha256": "a", "calibration_sha256": "b"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=limit"}


@pytest.fixture(scope="module")
def service(folder):
    with Service(folder, "--max-seconds", "600", "--max-body-mb", "8") as started:
        yield started


@pytest.fixture
def client(detector):
    """Of an app within this process; `client(max_files=2)` sets limits."""
    with contextlib.ExitStack() as stack:

        def make(made=detector, token=None, **limits):
            app = create_app(made, HASHES, Limits(**limits), token)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


class Slow:
    """A detector that is never done, or fails."""

    policy, thresholds = "equal_error", {"equal_error": 0.0}

    def __init__(self, error: Exception | None = None):
        self.error, self.running, self.stopped = error, threading.Event(), threading.Event()

    def score_one(self, source, *, max_seconds=None, on_window=None):
        self.running.set()
        if self.error:
            raise self.error
        try:
            for second in range(6000):
                time.sleep(0.01)
                on_window((second, second + 1, 0.0))
        finally:
            self.stopped.set()
        return Score(60.0, 0.0, "bonafide", ())

    def decide(self, llr, policy):
        return "bonafide"


def tone(seconds: float, rate: int = 16000, channels: int = 1, **options) -> bytes:
    samples = 0.1 * np.sin(np.arange(round(seconds * rate)) / 10)
    return encoded(np.tile(samples[:, None], channels), rate, **options)


def refused(response, status: int, reason: str) -> dict:
    """Check that a response is a problem, and give it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "reason", "detail"}
    assert problem["status"] == status and problem["reason"] == reason and problem["detail"].strip()
    for word in ("Traceback", "File ", str(ROOT), "/tmp"):
        assert word not in response.text
    for header in ("content-security-policy", "x-content-type-options", "referrer-policy"):
        assert header in response.headers
    return problem


def send(client, *contents: bytes, **query):
    return client.post("/v1/score", files=[("file", (f"{i}", c)) for i, c in enumerate(contents)], params=query)


# scores


def test_scores_are_the_detectors(client, detector, speech_files):
    asked = client()
    for path in speech_files[:8]:
        expected = detector.score_one(path)
        answer = asked.post("/v1/score", files={"file": (path.name, path.read_bytes())}).json()
        (found,) = answer["files"]
        assert (found["name"], found["seconds"], found["llr"]) == (path.name, expected.seconds, expected.llr)
        assert [tuple(window.values()) for window in found["windows"]] == list(expected.windows)
        assert found["decision"] == expected.decision and answer["threshold"] == detector.threshold


def test_windows_of_a_long_recording(client, detector, speech_files):
    samples = np.concatenate([soundfile.read(path)[0] for path in speech_files if path.suffix == ".flac"])
    content = encoded(np.resize(samples, 30 * 16000), format="FLAC")
    (found,) = send(client(), content).json()["files"]
    assert [(w["start"], w["end"]) for w in found["windows"]] == [(0, 8), (8, 16), (16, 24), (24, 30)]
    assert [w["llr"] for w in found["windows"]] == [llr for *_, llr in detector.score_one(io.BytesIO(content)).windows]


def test_decisions_are_by_the_policy_asked_for(client, detector, speech_files):
    contents = [path.read_bytes() for path in speech_files[:5]]
    llrs = sorted(found["llr"] for found in send(client(), *contents).json()["files"])
    thresholds = {"equal_error": llrs[2], "min_cost": llrs[0], "min_tpr": llrs[4] + 1}
    asked, seen = client(Detector(detector.backend, detector.calibrated, thresholds, "equal_error")), []
    for policy, threshold in thresholds.items():
        answer = send(asked, *contents, policy=policy).json()
        assert (answer["policy"], answer["threshold"]) == (policy, threshold)
        for found in answer["files"]:
            assert found["decision"] == ("spoof" if found["llr"] < threshold else "bonafide")
            seen.append(found["decision"])
    assert [seen[start : start + 5].count("spoof") for start in (0, 5, 10)] == [2, 0, 5]
    problem = refused(send(asked, tone(1), policy="../../etc/passwd"), 422, "invalid")
    assert "passwd" not in problem["detail"] and "equal_error" in problem["detail"]


def test_several_files(client, speech_files):
    good = speech_files[0].read_bytes()
    name = '../../<b>"ü'
    asked = client()
    answer = asked.post("/v1/score", files=[("file", (n, c)) for n, c in ((name, good), ("2", b"no"), ("3", good))])
    assert answer.status_code == 200
    first, second, third = answer.json()["files"]
    assert first["name"].replace("%22", '"') == name and first["llr"] == third["llr"]
    assert second == {"name": "2", "error": {"reason": "not-audio", "detail": "not audio: Format not recognised"}}
    assert 'aasist_rejected_total{reason="not-audio"} 1.0' in asked.get("/metrics").text


def test_model_is_described(folder, service):
    import httpx

    about = httpx.get(f"{service.url}/v1/model").json()
    for name, file in (("network_sha256", "network.safetensors"), ("calibration_sha256", "calibration.json")):
        assert about["model"][name] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
    assert about["thresholds"] == {"equal_error": 0.3, "min_cost": -0.4, "max_fpr": -1.0}
    assert about["policy"] == "equal_error" and about["bounds"]["max_seconds"] == 600


# refusals


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"not audio at all", "not-audio"),
        (tone(1, format="OGG") * 2, "partly-readable"),
        (encoded(np.zeros(16000)), "silent"),
        (tone(2)[:20000], "truncated"),
        (tone(2, format="FLAC")[:9000], "truncated"),
        (tone(0.1), "unscorable"),
        (encoded(np.full(16000, np.nan, np.float32), subtype="FLOAT"), "not-finite"),
    ],
)
def test_a_file_that_cannot_be_scored(client, content, reason):
    refused(send(client(), content), 422, reason)


def test_wrong_requests(client):
    asked = client()
    refused(asked.get("/nothing/../here"), 404, "not-found")
    response = asked.delete("/v1/score")
    refused(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    text = b'--limit\r\nContent-Disposition: form-data; name="file"\r\n\r\n/etc/passwd\r\n--limit--\r\n'
    for sent, status, reason in (
        (dict(), 415, "not-a-form"),
        (dict(json={"file": "/etc/passwd"}), 415, "not-a-form"),
        (dict(data={"file": "/etc/passwd"}), 415, "not-a-form"),
        (dict(content=b"--limit--\r\n", headers=MULTIPART), 422, "no-file"),
        (dict(content=text, headers=MULTIPART), 422, "not-a-file"),
        (dict(content=b"rubbish", headers=MULTIPART), 400, "malformed-form"),
        (dict(files={"path": ("x", tone(1))}), 422, "unknown-field"),
    ):
        refused(asked.post("/v1/score", **sent), status, reason)
    names = {"undefined": b"a", "punycode": b"a-A.wav", "idna": b"xn--zz99", "unicode_escape": b"\\ud800"}
    for charset, name in names.items():
        part = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
        headers = {"Content-Type": f"{MULTIPART['Content-Type']}; charset={charset}"}
        content = part + tone(1) + b"\r\n--limit--\r\n"
        refused(asked.post("/v1/score", content=content, headers=headers), 400, "malformed-form")
    for address in ("/docs", "/redoc", "/v1/score/", "/page/", "/static/../app.py"):
        assert asked.get(address).status_code == 404


def test_a_failure_tells_nothing(client, caplog):
    caplog.set_level(logging.INFO)
    asked = client(Slow(RuntimeError("secret of voice-7.wav")))
    refused(asked.post("/v1/score", files={"file": ("voice-7.wav", tone(1))}), 500, "internal")
    assert "RuntimeError at" in caplog.text and "test_serve.py" in caplog.text
    assert "secret" not in caplog.text and "voice-7" not in caplog.text
    assert asked.get("/healthz").json() == {"status": "ok"}


def test_token(client):
    asked = client(token="sésame")
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sésame".encode()}):
        response = asked.get("/v1/model", headers=given)
        refused(response, 401, "token")
        assert response.headers["www-authenticate"] == "Bearer"
    refused(asked.post("/v1/score", files={"file": tone(1)}), 401, "token")
    good = {"Authorization": "Bearer sésame".encode()}
    assert asked.get("/v1/model", headers=good).status_code == 200
    assert asked.post("/v1/score", files={"file": tone(1)}, headers=good).status_code == 200
    for open_to_all in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert asked.get(open_to_all).status_code == 200
    assert "token" in asked.get("/openapi.json").json()["components"]["securitySchemes"]


def test_token_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("AASIST_TOKEN", "from outside")
    (tmp_path / "token").write_text("inside\n")
    assert run.token(tmp_path / "token") == "inside" and run.token() == "from outside"
    (tmp_path / "token").write_text("\n")
    for path in (tmp_path / "token", tmp_path / "absent"):
        with pytest.raises(UserError, match="--token-file"):
            run.token(path)


# limits


def test_where_limits_come_from(capsys):
    environment = {"AASIST_MAX_FILES": "3", "AASIST_TIMEOUT": "1.5"}
    found = limits.read({"max_files": 2, "grace": None}, environment)
    assert (found.max_files, found.timeout, found.grace) == (2, 1.5, Limits().grace)
    for wrong in ({"AASIST_MAX_FILES": "2.5"}, {"AASIST_MAX_SECONDS": "long"}, {"AASIST_WORKERS": "0"}):
        with pytest.raises(UserError, match="not a"):
            limits.read({}, wrong)
    assert cli.main(["serve", "--max-files", "0"]) == 2
    assert "max_files: 0" in capsys.readouterr().err


def test_body_size(client, service):
    asked, content = client(max_body_mb=0.1), b"x" * 200_000
    refused(send(asked, content), 413, "body-too-large")  # the header says so
    body, kind = form(("a", content))

    def pieces():
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    refused(asked.post("/v1/score", content=pieces(), headers={"Content-Type": kind}), 413, "body-too-large")
    assert asked.get("/healthz").status_code == 200
    # over a real connection the answer arrives although not all was read
    import httpx

    def endless():
        while True:
            yield b"x" * 2**16

    with contextlib.suppress(httpx.WriteError):  # the service may hang up on a client that never stops
        httpx.post(f"{service.url}/v1/score", content=endless(), headers=MULTIPART, timeout=30)
    response = httpx.post(f"{service.url}/v1/score", content=b"x" * 9 * 2**20, headers=MULTIPART)
    refused(response, 413, "body-too-large")


def unsaid(content: bytes) -> bytes:
    """The same FLAC file, but its header does not say how long it is: reading it has to find out."""
    found = bytearray(content)
    found[21] &= 0xF0  # STREAMINFO has 36 bits for the number of samples, of which 0 says nothing
    found[22:26] = bytes(4)
    assert soundfile.SoundFile(io.BytesIO(found)).frames > 2**62
    return bytes(found)


UNFOLDS = encoded(np.zeros(600 * 8000, np.int16), 8000, format="FLAC", subtype="PCM_S8")  # 30 kB
STEREO = tone(20, channels=2, format="FLAC")  # 2.4 MiB as float32


@pytest.mark.parametrize(
    "limits, contents, status, reason",
    [
        (dict(max_files=2), [tone(1)] * 2, 200, ""),
        (dict(max_files=2), [tone(1)] * 3, 422, "too-many-files"),
        (dict(max_seconds=10), [tone(10)], 200, ""),
        (dict(max_seconds=10), [tone(10.1)], 413, "too-long"),
        (dict(max_seconds=10), [UNFOLDS], 413, "too-long"),
        (dict(max_seconds=10), [unsaid(UNFOLDS)], 413, "too-long"),
        (dict(max_unpacked_mb=3), [STEREO], 200, ""),
        (dict(max_unpacked_mb=2), [STEREO], 413, "too-large"),
        (dict(max_unpacked_mb=2), [unsaid(STEREO)], 413, "too-long"),
        # a block of these would take much memory
        (dict(), [tone(0.5, channels=40)], 413, "too-large"),
        (dict(), [tone(3000, rate=10)], 422, "unusual-rate"),
    ],
)
def test_limits_of_a_request(client, limits, contents, status, reason):
    response = send(client(**limits), *contents)
    if reason:
        refused(response, status, reason)
    else:
        assert response.status_code == status


def test_time(client):
    slow = Slow()
    response = send(client(slow, timeout=0.3), tone(1))
    refused(response, 503, "timeout")
    assert response.headers["retry-after"].isdecimal() and slow.stopped.is_set()


def test_slow_upload(folder):
    with Service(folder, "--timeout", "1") as service, socket.create_connection(service.address) as connection:
        head = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: "
        connection.sendall((head + MULTIPART["Content-Type"] + "\r\n\r\n--lim").encode())
        connection.settimeout(30)
        answer = b""
        while part := connection.recv(2**16):  # head and body may come apart
            answer += part
    assert b" 408 " in answer.splitlines()[0] and b"upload-too-slow" in answer


def test_requests_at_a_time(client):
    slow = Slow()
    asked = client(slow, max_requests=1, timeout=2)
    first = threading.Thread(target=send, args=(asked, tone(1)))
    first.start()
    assert slow.running.wait(10)
    assert "aasist_in_flight 1.0" in asked.get("/metrics").text
    response = send(asked, tone(1))
    refused(response, 429, "busy")
    assert response.headers["retry-after"].isdecimal()
    first.join()
    assert "aasist_in_flight 0.0" in asked.get("/metrics").text


def test_a_client_that_leaves_ends_the_scoring():
    slow = Slow()
    app = create_app(slow, HASHES, Limits())
    body, kind = form(("a", tone(1)))
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive():
        if len(messages) == 1:
            await asyncio.to_thread(slow.running.wait, 10)
        return messages.pop(0)

    async def send(message):
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/score", "raw_path": b"/v1/score", "query_string": b"",
        "headers": [(b"content-type", kind.encode())], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 30))
    assert slow.running.is_set() and slow.stopped.is_set() and app.state.concurrency.count == 0


# the process


def test_uploads_leave_nothing(folder, tmp_path, speech_files):
    import httpx

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with Service(folder, TMPDIR=str(temporary)) as service:
        files = service.open_files()
        content = encoded(np.resize(soundfile.read(speech_files[0])[0], 150 * 16000))
        assert len(content) > 4 * 2**20  # not kept in memory
        with httpx.Client(base_url=service.url, timeout=60) as client:
            sent = [("file", ("very-private.wav", content)), ("file", ("other-name.wav", b"private content"))]
            found = client.post("/v1/score", files=sent).json()["files"]
            client.post("/v1/score?policy=private-policy", files=sent)
            client.get("/private-address")
        assert round(found[0]["seconds"]) == 150 and list(temporary.iterdir()) == []
        time.sleep(0.2)
        assert service.open_files() <= files + 1  # the connection may not be closed yet
        log = service.log()
    assert "POST /v1/score 200" in log and "POST /v1/score 422" in log and "GET other 404" in log
    assert "private" not in log and "other-name" not in log and "Traceback" not in log


def test_sigterm_finishes_what_runs(folder, speech_files):
    import httpx

    minutes = encoded(np.resize(soundfile.read(speech_files[0])[0], 10 * 60 * 16000), format="FLAC")
    answers = []
    with Service(folder) as service:
        url = service.url
        body, kind = form(("long", minutes))

        def ask():
            answers.append(httpx.post(f"{url}/v1/score", content=body, headers={"Content-Type": kind}, timeout=300))

        asking = threading.Thread(target=ask)
        asking.start()
        while "aasist_in_flight 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.02)
        assert httpx.get(f"{url}/readyz").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused(httpx.get(f"{url}/readyz"), 503, "closing")
        assert httpx.get(f"{url}/healthz").status_code == 200
        refused(httpx.post(f"{url}/v1/score", content=body, headers={"Content-Type": kind}), 503, "closing")
        asking.join()
        assert service.process.wait(30) == 0
    assert answers[0].status_code == 200 and round(answers[0].json()["files"][0]["seconds"]) == 600


@pytest.mark.parametrize("spoil", ["missing", "broken", "no number", "port"])
def test_what_cannot_start_says_so_in_a_line(folder, tmp_path, capsys, spoil):
    detector, port = shutil.copytree(folder, tmp_path / "detector"), 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if spoil == "missing":
            (detector / "calibration.json").unlink()
        elif spoil == "broken":
            (detector / "network.safetensors").write_bytes(b"no")
        elif spoil == "no number":
            network, about = models.load(detector)
            torch.nn.init.constant_(network.output.weight, math.nan)
            models.save(network, detector, about)
        else:
            port = taken.getsockname()[1]
        assert cli.main(["serve", "--detector", str(detector), "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    said = {
        "missing": "calibration.json",
        "broken": "network.safetensors",
        "no number": f"{detector} does not score faint noise (the network gave no number for it)",
        "port": "cannot listen",
    }
    assert line.startswith("aasist: ") and said[spoil] in line


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
from starlette.testclient import TestClient
from aasist_lib.serving import limits, run
with TestClient(run.build(sys.argv[1], limits.Limits(), None)) as client, open(sys.argv[2], "rb") as file:
    print(client.post("/v1/score", files={"file": file}).text)
"""


def test_an_onnx_file_is_served_without_torch(folder, tmp_path, speech_files):
    from aasist_lib.serving import export

    path = tmp_path / "detector.onnx"
    export.export(Detector.load(folder), path)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(speech_files[0])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["files"][0]["llr"] == pytest.approx(Detector.load(path).score_one(speech_files[0]).llr, abs=1e-4)
    assert answer["model"]["network_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_document(service):
    import httpx

    document = httpx.get(f"{service.url}/openapi.json").json()
    assert set(document["paths"]) == {"/v1/score", "/v1/model", "/healthz", "/readyz", "/metrics"}
    operation = document["paths"]["/v1/score"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    for status, response in operation["responses"].items():
        if status != "200":
            example = response["content"]["application/problem+json"]["example"]
            assert example["status"] == int(status)
    example = document["components"]["schemas"]["Answer"]["examples"][0]
    (found,) = httpx.post(f"{service.url}/v1/score", files={"file": tone(1)}).json()["files"]
    assert set(found) == set(example["files"][0])


def test_load(service):
    errors, times, rate = asyncio.run(load.ask([service], clients=8, seconds=2))
    assert errors == 0 and len(times) >= 8 and rate > 0


def test_fuzz(service):
    fuzz.broken_files(service, 40, seed=1)
    time.sleep(0.2)
    memory, files = service.memory()[0], service.open_files()
    statuses = fuzz.broken_files(service, 120, seed=0)
    time.sleep(0.2)
    assert max(statuses) < 500 and statuses[422] > 20 and statuses[200] > 5, statuses
    assert service.memory()[0] < memory + fuzz.LEAK and service.open_files() <= files
    assert "Traceback" not in service.log() and service.process.poll() is None


def test_its_own_document_against_it(service):
    done = fuzz.against_document(service, 3, 0)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


# the page


@pytest.fixture(scope="module")
def browser(tmp_path_factory, speech_files):
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium on PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(
        spoken, np.concatenate([soundfile.read(path)[0] for path in speech_files if path.suffix == ".flac"]), 16000
    )
    arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=found, args=[*arguments, f"--use-file-for-fake-audio-capture={spoken}"]
        )
        yield browser
        browser.close()


DESKTOP = {"viewport": {"width": 1200, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page(browser, service, detector, speech_files, screen):
    context = browser.new_context(**screen, permissions=["microphone"])
    page, problems, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(service.url)
    page.wait_for_selector("#policy option >> nth=2", state="attached")
    # every control has a name, and Tab reaches it in the order of the page
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:3] == ["files", "record", "policy"]
    for name in ("Choose files", "Where to draw the line"):
        assert page.get_by_label(name).count() == 1
    path = speech_files[0]
    page.get_by_label("Choose files").set_input_files(path)
    page.wait_for_selector("article.bonafide, article.spoof")
    expected = detector.score_one(path)
    said = "machine" if expected.decision == "spoof" else "person"
    assert f"Taken for a {said}" in page.inner_text(".decision")
    page.wait_for_selector(f"#status[aria-live]:has-text('{path.name}')")
    page.wait_for_selector("svg rect.bonafide, svg rect.spoof", state="attached")
    assert page.locator("svg line.threshold").count() == 1
    # another policy asks again
    page.select_option("#policy", "max_fpr")
    page.wait_for_selector(".meaning:has-text('−1.00')")
    # the microphone
    page.get_by_role("button", name="Record").press("Enter")
    page.wait_for_selector("#clock:has-text('1.')")
    page.get_by_role("button", name="Stop and score").press("Enter")
    page.wait_for_selector("article h2:has-text('recording')")
    page.wait_for_selector("article.bonafide, article.spoof")
    # nothing is cut off at the side, nothing came from elsewhere, nothing went wrong
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert all(url.startswith((service.url, "blob:", "data:")) for url in asked)
    assert problems == []
    context.close()


def test_page_says_what_went_wrong_and_asks_for_the_token(browser, folder):
    with Service(folder, AASIST_TOKEN="sesame") as service:
        page = browser.new_page()
        page.goto(service.url)
        page.wait_for_selector("#status.error:has-text('token')")
        page.get_by_label("Token").fill("sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#policy option >> nth=2", state="attached")
        page.get_by_label("Choose files").set_input_files({"name": "<b>x.wav", "mimeType": "", "buffer": b"no"})
        page.wait_for_selector("article:has-text('not audio'):has-text('<b>x.wav')")
        page.close()
