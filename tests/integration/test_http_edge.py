"""HTTP/JSON, gRPC-Web and gRPC through a real Envoy in front of a real server."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from imagegen import Client
from imagegen.errors import InvalidRequestError
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.child import free_port
from imagegen_server.http_edge.__main__ import EXAMPLE
from imagegen_server.http_edge.envoy import Envoy
from support.edge import trailers
from support.http import fetch
from support.http_edge import JSON, in_front_of, needs_envoy, post, served_over_http, web_call
from support.live_server import LiveServer, open_channel
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
CURL = re.compile(r"^ *(curl -X POST http://localhost:8000/api/media/generate-image .*?}')$", re.DOTALL | re.MULTILINE)
WRONG = {"prompt": " ", "num_inference_steps": 5, "guidance_scale": 99, "seed": "-1", "width": 13}
SLOW = " ".join(f"{{base:stall=0.2@{step}}}" for step in range(50))
"""Ten seconds that can be stopped after each step."""
PATIENT = ("--fake-script", '{"evaluation": 0.002}')


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Envoy]]:
    """A server on the fake model, and Envoy."""
    with served_over_http(
        tmp_path_factory.mktemp("http"), *PATIENT, "--queue-capacity", "1", "--max-running", "1"
    ) as found:
        yield found


@pytest.fixture
def server(both: tuple[LiveServer, Envoy]) -> LiveServer:
    return both[0]


@pytest.fixture
def edge(both: tuple[LiveServer, Envoy]) -> Envoy:
    return both[1]


@pytest.fixture
def generate(edge: Envoy) -> str:
    """The URL that generates."""
    return f"{edge.url}/api/media/generate-image"


def test_make_http_answers_the_curl_of_the_readme(tmp_path: Path) -> None:
    """What the README and the command itself tell to type works as written but for the port; Ctrl-C ends all."""
    needs_envoy()
    pages = (ROOT / "README.md", ROOT / "docs" / "http.md")
    readme, guide = (CURL.findall(page.read_text(encoding="utf-8")) for page in pages)
    assert (len(readme), len(guide)) == (1, 3)
    told = EXAMPLE.format(url="http://localhost:8000")
    assert [curl.split() for curl in (readme[0], guide[0])] == [told.split()] * 2
    port = free_port()
    command = [sys.executable, "-m", "imagegen_server.http_edge", "--port", str(port), "--model", "fake"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = ""
            while "Ctrl-C" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            assert f"http://localhost:{port}/" in told
            again = subprocess.run([*command[:3], "--port", str(port)], capture_output=True, text=True, check=False)
            assert (again.returncode, again.stdout) == (3, "")
            assert f"port {port} is taken" in again.stderr
            for typed in (*readme, *guide):
                line = typed.replace("localhost:8000", f"localhost:{port}").replace("curl ", "curl -sS --fail ", 1)
                curl = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
                assert curl.returncode == 0, curl.stderr
                answer = json.loads(curl.stdout)
                image = fetch(answer["url"])
                assert hashlib.sha256(image.body).hexdigest() == answer["images"][0]["summary"]["sha256"]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    with pytest.raises(ConnectionRefusedError):
        fetch(f"http://localhost:{port}/healthz")


@pytest.mark.parametrize(
    ("asked", "base", "refiner", "guidance"),
    [
        ({"use_generation": True, "use_refinement": True, "num_inference_steps": 50, "guidance_scale": 8.0}, 50, 30, 8),
        ({"num_inference_steps": 30, "guidance_scale": 7.5}, 30, 30, 7.5),
        ({"use_generation": True, "use_refinement": False}, 50, None, 8),
    ],
)
def test_an_answer_says_what_was_done(
    generate: str, asked: dict[str, Any], base: int, refiner: int | None, guidance: float
) -> None:
    """Steps, guidance, refinement, seed, time and place, in the contract's own names; no bytes unless asked."""
    answer = post(generate, {"prompt": "a red circle on a blue background", "seed": 9007199254740993} | asked)
    assert answer.status == 200
    found = answer.json
    stages = {stage["stage"]: stage for stage in found["plan"]["stages"]}
    assert (stages["STAGE_BASE"]["steps"], stages["STAGE_BASE"]["guidance_scale"]) == (base, guidance)
    assert stages.get("STAGE_REFINER", {}).get("steps") == refiner
    assert found["refined"] is (refiner is not None)
    assert found["generation_seconds"] > 0
    assert found["seed"] == "9007199254740993"
    assert answer.headers["x-request-id"] == found["request_id"]
    assert found["images"][0]["data"] == ""


def test_an_image_is_fetched_through_the_same_port(edge: Envoy, generate: str) -> None:
    """The URL gives the very bytes, for ever; another name gives 404."""
    found = post(generate, {"prompt": "a cat"}).json
    assert found["url"].startswith(f"{edge.url}/images/")
    image = fetch(found["url"])
    assert hashlib.sha256(image.body).hexdigest() == found["images"][0]["summary"]["sha256"]
    assert image.headers["content-type"] == "image/png"
    assert "immutable" in image.headers["cache-control"]
    assert fetch(f"{edge.url}/images/{'0' * 64}.png").status == 404


def test_bytes_come_when_asked_for(generate: str) -> None:
    """?include_image_data=true: a file of 16 MiB, in base64."""
    body = {
        "prompt": "a cat {noise}",
        "width": 2368,
        "height": 2368,
        "num_inference_steps": 20,
        "use_refinement": False,
    }
    (image,) = post(f"{generate}?include_image_data=true", body).json["images"]
    data = base64.b64decode(image["data"])
    assert len(data) > 16 * 2**20
    assert hashlib.sha256(data).hexdigest() == image["summary"]["sha256"]


def test_a_bad_request_names_every_violation_as_grpc_does(server: LiveServer, generate: str) -> None:
    """400 with google.rpc.Status as JSON; its details are those that a gRPC caller gets."""
    answer = post(generate, WRONG | {"request_id": "bad-1"})
    assert answer.status == 400
    violations = {each["field"]: each["description"] for each in answer.details()["BadRequest"]["field_violations"]}
    assert set(violations) == set(WRONG)
    assert answer.headers["x-error-reason"] == "INVALID_REQUEST"
    request = json_format.ParseDict({"generation": WRONG | {"request_id": "bad-1"}}, pb.RenderImageRequest())
    with open_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
        pb_grpc.ImageGenStub(channel).RenderImage(request)
    sent = status_pb2.Status.FromString(trailers(raised.value)["grpc-status-details-bin"])
    shown = json_format.Parse(answer.body, status_pb2.Status())
    assert shown == sent
    assert error_details_pb2.BadRequest.DESCRIPTOR.full_name in str(sent)


def test_a_stock_photo_is_refused(generate: str) -> None:
    """use_generation false is a clear 400."""
    answer = post(generate, {"prompt": "a cat", "use_generation": False})
    assert answer.status == 400
    assert answer.json["message"].startswith("use_generation: must be true or unset")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "says"),
    [
        ("/api/media/generate-image", b'{"prompt": "x"', JSON, 400, "Unexpected end of string"),
        ("/api/media/generate-image", b'{"num_inference_steps": "many"}', JSON, 400, "num_inference_steps"),
        ("/api/media/generate-image?size=9", b'{"prompt": "x"}', JSON, 400, '"size"'),
        ("/api/media/generate-image", b'{"prompt": "x"}', {"Content-Type": "text/plain"}, 415, "application/json"),
        ("/api/media/generate-image", b'{"prompt": "x"}', {}, 415, "application/json"),
        ("/api/media/generate-image/events", b'{"prompt": "x"}', {}, 415, "application/json"),
        ("/api/media/generate-image", b'{"prompt": "%s"}' % (b"x" * 2**21), JSON, 413, ""),
        ("/api/media/generate-photo", b"{}", JSON, 404, "generate-photo"),
        ("/elsewhere", b"{}", JSON, 404, "docs/http.md"),
    ],
)
def test_what_envoy_refuses_looks_the_same(
    edge: Envoy, path: str, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    """google.rpc.Status as JSON with a message that says what is wrong."""
    answer = fetch(edge.url + path, "POST", body, headers)
    assert answer.status == status
    assert says in answer.json["message"]
    assert answer.json["code"] in (3, 5)


@pytest.mark.parametrize("path", ["", "/events", "?include_image_data=true"])
def test_unknown_fields_are_named(generate: str, path: str) -> None:
    """What the request does not have is refused, every one of it, instead of being left out without a word."""
    asked = {
        "prompt": 'a "cat": {}',
        "num_inference_step": 50,
        "refiner": {"strength": 0.5, "steps": [{"a": 1}], "x": {"prompt": 1}},
        "allowed_fallbacks": {"kinds": ["FALLBACK_KIND_REFINER_TO_BASE"], "kind\n": 1},
    }
    answer = post(generate + path, asked)
    assert answer.status == 400
    assert answer.headers["x-error-reason"] == "INVALID_REQUEST"
    found = [each["field"] for each in answer.details()["BadRequest"]["field_violations"]]
    assert found == ["num_inference_step", "refiner.steps", "refiner.x", "allowed_fallbacks.kind?n"]
    assert answer.json["message"].startswith("4 violations: num_inference_step: is not a field")
    assert json_format.Parse(answer.body, status_pb2.Status()).code == 3


def test_known_fields_pass(generate: str) -> None:
    """In both of their names, at every depth, whatever the values look like."""
    asked = {
        "prompt": '\\" {"bogus": 1}, [\\\\" {',
        "negativePrompt": '"bogus": {',
        "guidanceScale": 7.5,
        "refiner": {"numInferenceSteps": 5, "aesthetic_score": 6},
        "output": {"mime_type": "image/png"},
        "progress": {"minInterval": "0.5s", "preview_count": 0},
        "allowedFallbacks": {"kinds": []},
        "micro_conditioning": {"original_size": {"width": 64, "height": 64}, "cropsCoordsTopLeft": {"x": 1}},
        "priority": "PRIORITY_BATCH",
        "validate_only": True,
    }
    answer = post(generate, asked)
    assert answer.status == 200, answer


def test_a_full_queue_says_when_to_come_back(server: LiveServer, edge: Envoy, generate: str) -> None:
    """429 with Retry-After, whole seconds; the details have the same time exactly."""
    with Client(server.address) as client:
        held = [client.generate(SLOW, request_id=f"full-{number}") for number in range(2)]
        for stream in held:
            next(stream)
        answer = post(generate, {"prompt": "a cat"})
        for number, _ in enumerate(held):
            fetch(f"{edge.url}/api/media/generations/full-{number}/cancel", "POST", b"")
        for stream in held:
            stream.close()
    assert answer.status == 429
    assert answer.headers["x-error-reason"] == "QUEUE_FULL"
    delay = float(answer.details()["RetryInfo"]["retry_delay"].removesuffix("s"))
    assert 0 <= int(answer.headers["retry-after"]) - delay < 1
    eventually(server.idle, "the generations were cancelled")


def test_a_deadline_goes_to_the_server(generate: str) -> None:
    """grpc-timeout: one that cannot be met is refused at once, one that passes ends the call, and both say why."""
    long = {"num_inference_steps": 100, "scheduler": "HeunDiscreteScheduler", "refiner": {"num_inference_steps": 100}}
    refused = post(generate, {"prompt": "a cat"} | long, grpc_timeout="300m")
    assert refused.status == 504
    assert refused.details()["ErrorInfo"]["reason"] == "DEADLINE_CANNOT_BE_MET"
    passed = post(generate, {"prompt": SLOW}, grpc_timeout="1S")
    assert passed.status == 504
    assert passed.json["code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    info = passed.details()["ErrorInfo"]
    assert (info["reason"], info["metadata"]["stage"]) == ("DEADLINE_PASSED", "base")


def test_events_come_a_line_each(edge: Envoy) -> None:
    """The stream of GenerateImage as JSON, the last line being the end."""
    answer = post(f"{edge.url}/api/media/generate-image/events", {"prompt": "a cat"})
    events = [json.loads(line) for line in answer.body.splitlines()]
    assert {"accepted", "step_progress", "image_chunk"} <= {name for event in events for name in event}
    assert "completed" in events[-1]


def test_calls_without_a_body(edge: Envoy) -> None:
    """Models, server, a generation by its id, and its events again."""
    assert fetch(f"{edge.url}/api/media/models").json["models"][0]["loaded"] is True
    assert fetch(f"{edge.url}/api/media/server").json["state"] == "SERVER_STATE_SERVING"
    kept = {"prompt": "a cat", "request_id": "known:1", "on_disconnect": "ON_DISCONNECT_CONTINUE"}
    assert post(f"{edge.url}/api/media/generate-image", kept).status == 200
    assert fetch(f"{edge.url}/api/media/generations/known:1").json["state"] == "GENERATION_STATE_COMPLETED"
    events = fetch(f"{edge.url}/api/media/generations/known:1/events?after_sequence=3").body.splitlines()
    responses = [json.loads(line)["response"] for line in events]
    assert (responses[0]["sequence"], "completed" in responses[-1]) == ("4", True)
    unknown = fetch(f"{edge.url}/api/media/generations/unknown")
    assert (unknown.status, unknown.details()["ErrorInfo"]["reason"]) == (404, "GENERATION_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "?request_id=other", b""),
        ("GET", "?requestId=other", b""),
        ("GET", "/events?request_id=other", b""),
        ("GET", "", b'{"request_id": "other"}'),
        ("POST", "/cancel", b'{"request_id": "other"}'),
        ("POST", "/cancel?request_id=other", b""),
    ],
)
def test_the_path_alone_names_a_generation(edge: Envoy, generate: str, method: str, path: str, body: bytes) -> None:
    """What names another beside it is refused: the transcoder would take that one, to tell of it or to stop it."""
    assert post(generate, {"prompt": "a cat", "request_id": "by-path"}).status == 200
    url = f"{edge.url}/api/media/generations/by-path"
    answer = fetch(f"{url}{path}", method, body, JSON if body else {})
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert "the path names the generation" in answer.json["message"]
    assert fetch(f"{url}/cancel", "POST", b"{}", JSON).json == {"state": "GENERATION_STATE_COMPLETED"}


def test_who_hangs_up_stops_the_device(server: LiveServer, edge: Envoy) -> None:
    """A closed connection is a cancelled generation: the device does not go on to the end."""
    body = json.dumps({"prompt": SLOW, "request_id": "gone-1"}).encode()
    before = server.metrics()
    with socket.create_connection(("127.0.0.1", edge.port)) as connection:
        lines = ("POST /api/media/generate-image HTTP/1.1", "Host: localhost", "Content-Type: application/json")
        head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body)}", ""))
        connection.sendall(head.encode() + body)
        eventually(lambda: server.metrics().total("imagegen_requests_in_flight") > 0, "the generation has not begun")
    eventually(server.idle, "the generation goes on")
    after = server.metrics()
    ended = [m.total("imagegen_request_duration_seconds_count", outcome="cancelled") for m in (before, after)]
    assert ended[1] - ended[0] == 1
    steps = [m.total("imagegen_stage_steps_total", stage="base") for m in (before, after)]
    assert steps[1] - steps[0] < 50


def test_draining_lets_calls_end(server: LiveServer) -> None:
    """drain.sh makes /healthz say 503, and returns once the last call has ended."""
    with in_front_of(server) as own, ThreadPoolExecutor(1) as pool:
        url = f"{own.url}/api/media/"
        call = pool.submit(post, f"{url}generate-image", {"prompt": SLOW, "request_id": "drained-1"})
        eventually(lambda: fetch(f"{url}generations/drained-1").status == 200, "the generation has not begun")
        environment = os.environ | {"ADMIN_PORT": str(own.admin_port)}
        with subprocess.Popen(["bash", ROOT / "deploy" / "envoy" / "drain.sh", "60"], env=environment) as script:
            eventually(lambda: fetch(f"{own.url}/healthz").status == 503, "Envoy does not drain")
            assert script.poll() is None
            with Client(server.address) as client:
                client.cancel("drained-1")
            assert call.result().status == 499
        assert script.returncode == 0


def test_compose_asks_envoy_as_it_answers(edge: Envoy) -> None:
    """The health check of the compose file passes."""
    composed = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    check = composed["services"]["envoy"]["healthcheck"]["test"][1:]
    asked = [part.replace("/127.0.0.1/8000", f"/127.0.0.1/{edge.port}") for part in check]
    assert asked != check
    assert subprocess.run(asked, check=False).returncode == 0


def test_grpc_web_streams_the_whole_generation(edge: Envoy) -> None:
    """Plan, progress, image and end over HTTP/1.1, with the status in a last frame."""
    call = web_call(edge.url, "GenerateImage", pb.GenerateImageRequest(prompt="a cat", num_inference_steps=20))
    events = [pb.GenerateImageResponse.FromString(message) for message in call.messages]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1], call.code) == ("accepted", "completed", 0)
    file = b"".join(event.image_chunk.data for event in events)
    assert hashlib.sha256(file).hexdigest() == events[-1].completed.images[0].sha256


def test_grpc_web_refusals_have_their_details(edge: Envoy) -> None:
    """Status, message and details, as headers of a refusal and in the last frame of what fails later."""
    refused = web_call(edge.url, "GenerateImage", pb.GenerateImageRequest(prompt=""))
    assert (refused.code, refused.messages) == (3, [])
    details = refused.trailers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    assert {detail.TypeName() for detail in status.details} >= {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}
    failed = web_call(edge.url, "GenerateImage", pb.GenerateImageRequest(prompt="a cat {base:nan@3}"))
    assert failed.code == grpc.StatusCode.INTERNAL.value[0]
    assert failed.messages


def test_grpc_passes_through(edge: Envoy) -> None:
    """The client, pointed at Envoy's port: progress, image, and errors with every violation."""
    with Client(f"127.0.0.1:{edge.port}") as client:
        assert client.generate_image("a cat", seed=7).seed == 7
        with pytest.raises(InvalidRequestError) as raised:
            client.generate_image("", num_inference_steps=5)
    assert {violation.field for violation in raised.value.violations} == {"prompt", "num_inference_steps"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://example.org", False),
        ("http://localhost.example.org", False),
    ],
)
def test_pages_of_this_machine_may_call(generate: str, origin: str, allowed: bool) -> None:
    """A browser asks first, and is told yes for pages of the same machine only."""
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = fetch(generate, "OPTIONS", headers=asks)
    assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_it_answers_under_the_names_of_this_machine(edge: Envoy, name: str) -> None:
    """With a port and without."""
    for host in (name, f"{name}:{edge.port}", f"{name}:1"):
        assert fetch(f"{edge.url}/api/media/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "evil.localhost", "0.0.0.0", "x"])  # noqa: S104
def test_a_page_whose_name_leads_here_gets_nothing(server: LiveServer, edge: Envoy, generate: str, name: str) -> None:
    """Its calls are of its own origin to a browser, which asks nobody: Envoy answers under no name of a stranger."""
    before = server.metrics().total("grpc_server_started_total", grpc_service="imagegen.v1.ImageGen")
    for host in (name, f"{name}:{edge.port}"):
        own = {"Host": host, "Origin": f"http://{host}"}
        for answer in (
            post(generate, {"prompt": "x"}, **own),
            fetch(f"{edge.url}/", headers=own),
            fetch(f"{edge.url}/images/x.png", headers=own),
        ):
            assert (answer.status, answer.json["code"]) == (421, 3)
            assert "access-control-allow-origin" not in answer.headers
        grpc_web = own | {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
        refused = fetch(f"{edge.url}/imagegen.v1.ImageGen/ListModels", "POST", b"\0" * 5, grpc_web)
        assert refused.headers["grpc-status"] not in ("0", None)
    assert server.metrics().total("grpc_server_started_total", grpc_service="imagegen.v1.ImageGen") == before


def test_the_log_has_no_prompt(server: LiveServer, edge: Envoy, generate: str) -> None:
    """A line a call, with what became of it; nothing of what was asked."""
    post(f"{generate}?include_image_data=false", WRONG | {"prompt": "a secret lighthouse", "request_id": "logged-1"})

    def line() -> dict[str, Any]:
        lines = [json.loads(line) for line in edge.access_log.read_text().splitlines()]
        return next((line for line in lines if line["request_id"] == "logged-1"), {})

    eventually(lambda: bool(line()), "the call is not logged")
    assert (line()["path"], line()["status"], line()["reason"]) == ("/api/media/generate-image", 400, "INVALID_REQUEST")
    assert "lighthouse" not in edge.access_log.read_text()
    assert edge.log.read_text() == ""
