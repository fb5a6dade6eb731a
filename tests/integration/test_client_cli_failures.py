"""How the command line fails, against a real gRPC server whose answers are scripted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from imagegen.cli import main
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.command import Run
from support.scripted_service import WAIT, Endless, ScriptedService, error_info, refuse, retry_info, serving

FAILURES: list[tuple[grpc.StatusCode, str, int]] = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", 2),
    (grpc.StatusCode.NOT_FOUND, "SCHEDULER_NOT_FOUND", 2),
    (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", 2),
    (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", 2),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 4),
    (grpc.StatusCode.UNAVAILABLE, "DRAINING", 4),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_CANNOT_BE_MET", 5),
    (grpc.StatusCode.CANCELLED, "CANCELLED", 6),
    (grpc.StatusCode.INTERNAL, "NUMERIC", 1),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "GPU_OUT_OF_MEMORY", 1),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("code", "reason", "expected"), FAILURES, ids=[row[1] for row in FAILURES])
def test_a_failure_has_its_exit_code(
    service: ScriptedService,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    code: grpc.StatusCode,
    reason: str,
    expected: int,
    as_json: bool,
) -> None:
    """Exit code, message and JSON agree, and no file is left behind."""

    def script(_: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        bad = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field="width", description="odd"),
                error_details_pb2.BadRequest.FieldViolation(field="seed", description="negative"),
            ]
        )
        parts = [error_info(reason), retry_info(2500)]
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            parts.append(bad)
        refuse(context, code, "scripted", *parts, pushback=-1)
        yield pb.GenerateImageResponse()

    service.script = script
    words = ["generate", "a", "-o", str(tmp_path / "out.png"), "--request-id", "mine"]
    run = Run(capsys, service, *words, *(["--json"] if as_json else []))
    assert run.code == expected
    assert os.listdir(tmp_path) == []
    if as_json:
        assert run.err == ""
        assert run.json["exit_code"] == expected
        assert run.json["error"]["reason"] == reason
        assert run.json["error"]["request_id"] == "mine"
    else:
        assert run.out == ""
        assert "Try again in 2.5 s." in run.err
        assert ("  width: odd" in run.err) is (expected == 2 and reason == "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "a", "-o", "none/out.png"], "there is no folder none"),
        (["generate", "a", "-o", "."], ". is a folder"),
        (["generate", "a", "-o", f"{'x' * 300}.png"], "File name too long"),
        (
            ["generate", "a", "--request-id", "none/x"],
            "the request id none/x names no file here (there is no folder none)",
        ),
        (["watch", "none/x"], "the request id none/x names no file here (there is no folder none): say -o FILE"),
        (["generate", "a", "-o", "/dev/null", "--format=png", "--num-images=2"], "/dev/null takes one image, not 2"),
        (["generate", "a", "-o", "-", "--num-images", "2"], "/dev/stdout takes one image, not 2"),
        (["generate", "a", "-o", "out"], "out names no format"),
        (["generate", "a", "-o", "out.gif"], "out.gif names no format"),
        (["generate", "a", "-o", "out.png", "--format", "webp"], "out.png ends like image/png"),
        (["generate"], "the following arguments are required: PROMPT"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate", "a", "red", "cat"], 'unrecognized arguments: red cat; put the prompt in quotes: "a red cat"\n'),
        (["generate", "a", "--reed"], "unrecognized arguments: --reed\n"),
        (["models", "a"], "unrecognized arguments: a\n"),
        (["get", "\udcff"], r"'\udcff' is no text in UTF-8"),
        (["cancel", "\udcff"], r"'\udcff' is no text in UTF-8"),
        (["watch", "\udcff"], r"'\udcff' is no text in UTF-8"),
    ],
)
def test_wrong_usage_is_found_before_anything_is_sent(
    service: ScriptedService,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    """A destination that cannot be costs no generation; --json covers usage as well."""
    monkeypatch.chdir(tmp_path)
    run = Run(capsys, service, *words)
    assert (run.code, run.out) == (2, "")
    assert message in run.err
    as_json = Run(capsys, service, *words, "--json")
    assert as_json.json["error"]["type"] == "UsageError"
    if "-" not in words:
        assert message.strip() in as_json.json["error"]["message"]
    assert service.requests == []


def test_no_server_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the address and says how to start a server."""
    with serving(ScriptedService()) as gone:
        pass
    run = Run(capsys, gone, "info")
    assert run.code == 3
    assert f"no server answers at {gone.target}" in run.err
    assert "Start one with `make serve` in a checkout of ImageGen,\nor name another with --server" in run.err
    assert Run(capsys, gone, "info", "--json").json["error"]["type"] == "UnreachableError"


def test_a_host_that_says_nothing_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the connection, as a firewall or a stopped process does, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        code = main(["generate", "a", "-o", "/dev/null", "--format=png", "--timeout", "0.5", "--server", server], {})
    assert code == 3
    assert capsys.readouterr().err == f"imagegen: no answer from {server} within 0.5 s\n"


def test_images_that_arrived_before_a_failure_are_kept_and_named(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The first of two images survives the failure of the second, whole, and the report says so."""

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        data = messages.picture()
        yield messages.accepted(request)
        yield messages.header(request, data)
        yield from messages.chunks(request, data)
        yield messages.header(request, data, 1)
        yield next(messages.chunks(request, data, 1, size=10))
        refuse(context, grpc.StatusCode.INTERNAL, "non-finite", error_info("NUMERIC"))

    service.script = script
    words = ["generate", "a", "-o", str(tmp_path / "out.png"), "--num-images", "2"]
    first = tmp_path / "out-0.png"
    assert Run(capsys, service, *words, "--json").json["files"] == [str(first)]
    run = Run(capsys, service, *words)
    assert run.code == 1
    assert f"wrote {first}" in run.err
    assert os.listdir(tmp_path) == ["out-0.png"]
    assert first.read_bytes() == messages.picture()


def test_a_file_that_cannot_be_written_is_exit_code_1(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file system that fails after the image was made is reported like any other failure."""
    folder = tmp_path / "gone"
    folder.mkdir()

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        folder.rmdir()
        yield from messages.generation(request)

    service.script = script
    run = Run(capsys, service, "generate", "a", "-o", str(folder / "out.png"))
    assert run.code == 1
    assert "No such file or directory" in run.err
    assert service.ended.wait(WAIT)


@pytest.mark.parametrize("word", ["--keep-running", "--fast"])
def test_a_deadline_does_not_hide_a_generation_that_goes_on(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """Whoever asked for it to go on learns how to get the image."""
    service.script = Endless()
    words = ["-o", "/dev/null", "--format=png", "--timeout", "1", "--request-id", "mine", word]
    run = Run(capsys, service, "generate", "a", *words)
    assert run.code == 5
    again = f"The generation goes on: imagegen watch mine --server {service.target}\n"
    assert run.err.endswith(again) == (word == "--keep-running")


HEARS_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from imagegen.cli import main
sys.exit(main())
"""
"""The command; where the tests run in a shell's background, they and what they start ignore the signal."""


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("", "the generation is cancelled"),
        ("--json", ""),
        ("--json --keep-running", ""),
        ("--keep-running", "the generation goes on: imagegen watch mine"),
    ],
)
def test_ctrl_c_ends_the_call(service: ScriptedService, tmp_path: Path, option: str, said: str) -> None:
    """An interrupted command ends its call, writes nothing, says what becomes of the generation and exits with 130."""
    begun, ended = threading.Event(), threading.Event()

    def script(request: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        context.add_callback(ended.set)
        yield messages.accepted(request)
        yield from messages.progress(request)
        begun.set()
        ended.wait(WAIT)

    service.script = script
    words = ["generate", "a", "-o", str(tmp_path / "out.png"), "--server", service.target, "--request-id", "mine"]
    command = [sys.executable, "-c", HEARS_CTRL_C, *words, *option.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert begun.wait(WAIT)
    if said:  # it shows progress: the first stage that has ended comes after `accepted`
        assert process.stderr is not None
        assert process.stderr.readline().startswith("text_encode")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert ended.wait(WAIT)
    assert os.listdir(tmp_path) == []
    if option.startswith("--json"):
        told = json.loads(out)
        assert (told["exit_code"], told["error"]["request_id"]) == (130, "mine")
    else:
        assert f"interrupted; {said}" in err
    lasting = service.requests[0].on_disconnect == pb.ON_DISCONNECT_CONTINUE
    assert lasting == ("--keep-running" in option)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("", "interrupted; the generation is cancelled"),
        ("--keep-running", "interrupted before the server accepted the generation; if it did all the same: imagegen "),
    ],
)
def test_ctrl_c_before_the_server_accepts_promises_nothing(service: ScriptedService, option: str, said: str) -> None:
    """Nobody knows of a generation that goes on."""
    begun, ended = threading.Event(), threading.Event()

    def script(_: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        context.add_callback(ended.set)
        begun.set()
        ended.wait(WAIT)
        yield pb.GenerateImageResponse()

    service.script = script
    words = ["generate", "a", "-o", "/dev/null", "--format=png", "--server", service.target, *option.split()]
    process = subprocess.Popen([sys.executable, "-c", HEARS_CTRL_C, *words], stderr=subprocess.PIPE, text=True)
    assert begun.wait(WAIT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert said in err
    assert "goes on" not in err
    assert ended.wait(WAIT)
