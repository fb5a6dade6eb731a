"""Log lines: their form, one for each transition, and no prompt in them."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from imagegen_server import core, errors
from imagegen_server.telemetry import LogObserver, adopt_libraries, configure
from imagegen_server.telemetry.sparing import MOST_KINDS, Sparing
from support import generations

MakeRequest = Callable[..., core.GenerationRequest]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Puts the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    """Where lines go."""
    return io.StringIO()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _observer(stream: io.StringIO, *, level: str = "info", log_prompts: bool = False) -> LogObserver:
    configure(level, "json", stream)
    return LogObserver(structlog.get_logger("imagegen"), log_prompts=log_prompts)


def test_lines_are_json_where_no_terminal_is(stream: io.StringIO) -> None:
    """Without a terminal, a line is one JSON object with time, level, logger, event and fields."""
    configure("info", "auto", stream)
    structlog.get_logger("imagegen").info("hello", answer=42, text="雪")
    (line,) = _lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "hello", "answer": 42, "text": "雪", "level": "info", "logger": "imagegen"}
    assert "雪" in stream.getvalue()


def test_lines_are_columns_on_a_terminal() -> None:
    """On a terminal lines are coloured columns; asked for by name, columns without colours anywhere."""
    terminal, plain = Terminal(), io.StringIO()
    configure("info", "auto", terminal)
    structlog.get_logger("imagegen").info("hello", answer=42)
    assert "\x1b[" in terminal.getvalue()
    configure("info", "console", plain)
    structlog.get_logger("imagegen").info("hello", answer=42)
    assert "hello" in plain.getvalue()
    assert "answer=42" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_lines_for_people_have_what_is_known_and_the_ids_last() -> None:
    """Fields that are unknown are left out, and the others stay in their order; JSON has every one."""
    plain, json_lines = io.StringIO(), io.StringIO()
    fields = {"request_id": "of-36-characters", "trace_id": "of-32", "stage": "base", "image_index": None, "count": 0}
    configure("info", "console", plain)
    structlog.get_logger("imagegen").info("stage ended", **fields)
    assert plain.getvalue().rstrip().endswith("stage=base count=0 request_id=of-36-characters trace_id=of-32")
    assert "image_index" not in plain.getvalue()
    configure("info", "json", json_lines)
    structlog.get_logger("imagegen").info("stage ended", **fields)
    (line,) = _lines(json_lines)
    assert fields.items() <= line.items()


def test_json_can_be_asked_for_on_a_terminal() -> None:
    """The format json holds on a terminal as well."""
    terminal = Terminal()
    configure("info", "json", terminal)
    structlog.get_logger("imagegen").info("hello")
    assert _lines(terminal)[0]["event"] == "hello"


def test_libraries_lines_have_the_same_form(stream: io.StringIO) -> None:
    """A line and an exception of a standard logger come out as JSON, filtered by the same level."""
    configure("warning", "json", stream)
    logging.getLogger("some.library").info("unseen")
    structlog.get_logger("imagegen").info("unseen")
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("some.library").exception("failed with %d", 7, extra={"shard": 3})
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["logger"], line["shard"]) == (
        "failed with 7",
        "error",
        "some.library",
        3,
    )
    assert "KeyError: 'gone'" in line["exception"]


def test_tracebacks_on_a_terminal_show_no_variables() -> None:
    """A traceback on a terminal has no local variables, which may be prompts."""
    terminal = Terminal()
    configure("info", "auto", terminal)
    hidden = "".join(["a secret ", "castle"])
    try:
        raise KeyError(len(hidden))
    except KeyError:
        structlog.get_logger("imagegen").exception("failed")
    assert "KeyError" in terminal.getvalue()
    assert hidden not in terminal.getvalue()


def test_libraries_with_handlers_of_their_own_are_adopted(stream: io.StringIO) -> None:
    """A library that prints for itself comes into this log: its errors only, unless prompts may be logged."""
    configure("info", "json", stream)
    own = io.StringIO()
    library = logging.getLogger("chatty_library")
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    library.setLevel(logging.WARNING)
    adopt_libraries(["chatty_library"])
    logging.getLogger("chatty_library.part").warning("cut off: a secret castle")
    logging.getLogger("chatty_library.part").error("broken")
    adopt_libraries(["chatty_library"], log_prompts=True)
    logging.getLogger("chatty_library.part").warning("cut off: a castle")
    assert [line["event"] for line in _lines(stream)] == ["broken", "cut off: a castle"]
    assert own.getvalue() == ""


def _tell_a_life(observer: LogObserver, request: core.GenerationRequest, plan: core.Plan) -> None:
    """Plays a generation with a fallback whose error has the prompt in it."""
    observer.accepted(request, plan)
    observer.stage_started(request, core.Stage.BASE, 0)
    observer.stage_ended(request, core.Stage.BASE, 0, core.Outcome.OK, 1.25)
    taken = core.FallbackTaken(
        image_index=0,
        kind=core.FallbackKind.REFINER_TO_BASE,
        from_stage=core.Stage.REFINER,
        to_stage=core.Stage.BASE,
        reason=core.FallbackReason.ERROR,
        message=f"cannot refine {request.prompt!r}",
    )
    observer.fallback(request, taken)
    observer.cancelled(request, core.Stage.VAE_DECODE, 0.001)
    error = ValueError(f"bad text {request.prompt!r} without {request.negative_prompt}")
    observer.ended(request, core.Outcome.ERROR, 2.5, error)


def test_one_line_for_each_transition_with_the_request_id(
    stream: io.StringIO, make_request: MakeRequest, plan: core.Plan
) -> None:
    """Admission, stage end, fallback, stop and end are a line each, in order, with id and figures."""
    observer = _observer(stream)
    _tell_a_life(observer, make_request(), plan)
    observer.rejected(core.Refusal(request_id="r-2", model="fake", reason=core.RejectReason.QUEUE_FULL))
    observer.rejected(core.Refusal(request_id="r-3", model="nonsense", reason=core.RejectReason.INVALID))
    lines = _lines(stream)
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("accepted", "r-1"),
        ("stage ended", "r-1"),
        ("fallback", "r-1"),
        ("cancelled", "r-1"),
        ("ended", "r-1"),
        ("rejected", "r-2"),
        ("rejected", "r-3"),
    ]
    accepted, stage, fallback, cancelled, ended, rejected, _ = lines
    assert (accepted["steps"], accepted["seed"], accepted["model"]) == ({"base": 20}, 7, "shapes")
    assert (stage["stage"], stage["outcome"], stage["seconds"], stage["image_index"]) == ("base", "ok", 1.25, 0)
    assert (fallback["level"], fallback["from_stage"], fallback["to_stage"], fallback["reason"]) == (
        "warning",
        "refiner",
        "base",
        "error",
    )
    assert (cancelled["stage"], cancelled["latency_seconds"]) == ("vae_decode", 0.001)
    assert (ended["outcome"], ended["seconds"], ended["error"], ended["level"]) == ("error", 2.5, "ValueError", "error")
    assert rejected["reason"] == "queue_full"


def test_lines_say_who_called_and_what_exactly_was_refused(
    stream: io.StringIO, make_request: MakeRequest, plan: core.Plan
) -> None:
    """The tenant and the id of its key from admission to end, and the fields or the quota that a refusal is about."""
    observer = _observer(stream)
    request = make_request(tenant="alice", key_id="6c0c2d3a9a31")
    observer.accepted(request, plan)
    observer.ended(request, core.Outcome.OK, 1.0, None)
    who = {"request_id": "r-2", "model": "fake", "tenant": "alice", "key_id": "6c0c2d3a9a31"}
    observer.rejected(core.Refusal(**who, reason=core.RejectReason.INVALID, details=("width", "refiner.strength")))
    observer.rejected(core.Refusal(request_id="r-3", model="fake", reason=core.RejectReason.QUEUE_FULL))
    *known, unknown = _lines(stream)
    assert [(line["event"], line["tenant"], line["key_id"]) for line in known] == [
        (event, "alice", "6c0c2d3a9a31") for event in ("accepted", "ended", "rejected")
    ]
    assert known[-1]["details"] == ["width", "refiner.strength"]
    assert not {"tenant", "key_id", "details"} & unknown.keys()


def test_who_guesses_credentials_does_not_fill_the_log(stream: io.StringIO) -> None:
    """Ten lines of a reason at once and ten a minute, which count the others; every one is there for debugging."""
    now = 0.0
    configure("info", "json", stream)
    observer = LogObserver(structlog.get_logger("imagegen"), clock=lambda: now)

    def refuse(reason: str) -> None:
        failure = core.AuthFailure(method="/m", request_id="r", reason=reason, detail="why")
        observer.auth_failed(failure)
        observer.rejected(core.Refusal(request_id="r", model="", reason=core.RejectReason.AUTH, details=(reason,)))

    for _ in range(500):
        refuse("invalid")
    refuse("expired")  # is not hidden by the others
    refused = [line for line in _lines(stream) if line["event"] == "credentials refused"]
    assert [line["reason"] for line in refused] == ["invalid"] * 10 + ["expired"]
    assert refused[0].items() >= {"method": "/m", "detail": "why", "left_out": 0, "request_id": "r"}.items()
    assert len(_lines(stream)) == 21
    now = 6.0
    refuse("invalid")
    refuse("invalid")
    told = _lines(stream)[21:]
    assert [(line["event"], line["left_out"]) for line in told] == [("credentials refused", 490), ("rejected", 491)]
    configure("debug", "json", stream)
    refuse("invalid")
    assert [line["level"] for line in _lines(stream)[23:]] == ["debug"] * 2


def test_a_tenant_that_is_refused_again_and_again_does_not_fill_the_log(stream: io.StringIO) -> None:
    """Ten lines of a reason at once and one a second, which counts the others; nobody else's are hidden by them."""
    now = 0.0
    configure("info", "json", stream)
    observer = LogObserver(structlog.get_logger("imagegen"), clock=lambda: now)

    def refuse(tenant: str, reason: core.RejectReason = core.RejectReason.QUOTA) -> None:
        observer.rejected(core.Refusal(request_id="r", model="fake", reason=reason, tenant=tenant))

    for _ in range(1000):
        refuse("alice")
    refuse("bob")
    refuse("alice", core.RejectReason.INVALID)
    told = [(line["tenant"], line["reason"], line["left_out"]) for line in _lines(stream)]
    assert told == [("alice", "quota", 0)] * 10 + [("bob", "quota", 0), ("alice", "invalid", 0)]
    now = 1.0
    refuse("alice")
    refuse("alice")
    assert [(line["tenant"], line["left_out"]) for line in _lines(stream)[12:]] == [("alice", 990)]


def test_kinds_of_lines_are_forgotten_in_the_end() -> None:
    """However many there are, memory is bounded; the one that comes up all the time is not forgotten."""
    sparing = Sparing(lambda: 0.0)
    for number in range(3 * MOST_KINDS):
        sparing.take("busy")
        assert sparing.take(f"kind {number}") == 0
    assert sparing.take("busy") is None
    assert sparing.take("kind 0") == 0


def test_stage_starts_are_for_debugging(stream: io.StringIO, make_request: MakeRequest) -> None:
    """A stage's start is a line at level debug."""
    _observer(stream, level="debug").stage_started(make_request(), core.Stage.BASE, 1)
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["stage"], line["image_index"]) == ("stage started", "debug", "base", 1)


@pytest.mark.parametrize("prompt", ["a secret castle", 'it\'s a "secret" castle\nat night, 雪の城'])
def test_no_prompt_reaches_a_line(stream: io.StringIO, make_request: MakeRequest, plan: core.Plan, prompt: str) -> None:
    """Neither prompt nor negative prompt is in any line, not even where an error quotes them."""
    _tell_a_life(_observer(stream, level="debug"), make_request(prompt=prompt, negative_prompt="fog and rain"), plan)
    text = stream.getvalue()
    for word in ("secret", "castle", "雪", "fog"):
        assert word not in text
    ended = _lines(stream)[-1]
    assert ended["message"] == f"bad text {prompt!r} without fog and rain".replace(
        repr(prompt)[1:-1], "[prompt]"
    ).replace("fog and rain", "[prompt]")
    assert "ValueError" in ended["traceback"]


def test_every_text_of_the_caller_is_taken_out(stream: io.StringIO, make_request: MakeRequest) -> None:
    """Those of the second encoder and of the refiner too, and none is left over from one that contains another."""
    texts = ("a castle", "a castle at night", "fog and rain", "fog and rain at noon", "a castle up close")
    refiner = dataclasses.replace(generations.REFINER, prompt=texts[4])
    words = dict(zip(("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"), texts, strict=False))
    request = make_request(**words, use_refinement=True, refiner=refiner)
    _observer(stream).ended(request, core.Outcome.ERROR, 2.5, ValueError(" | ".join(texts)))
    (line,) = _lines(stream)
    assert line["message"] == " | ".join(["[prompt]"] * len(texts))
    assert not any(text in stream.getvalue() for text in texts)


def test_prompts_are_logged_when_asked_for(stream: io.StringIO, make_request: MakeRequest, plan: core.Plan) -> None:
    """With log_prompts the prompts are in the admission's line and errors are left whole."""
    _tell_a_life(_observer(stream, log_prompts=True), make_request(), plan)
    lines = _lines(stream)
    assert (lines[0]["prompt"], lines[0]["negative_prompt"]) == ("a secret castle", "fog and rain")
    assert lines[-1]["message"] == "bad text 'a secret castle' without fog and rain"


@pytest.mark.parametrize(
    ("outcome", "error", "level"),
    [
        (core.Outcome.OK, None, "info"),
        (core.Outcome.CANCELLED, errors.Cancelled("stopped"), "info"),
        (core.Outcome.DEADLINE, errors.DeadlineExceeded("too late"), "info"),
        (core.Outcome.ERROR, errors.OutOfDeviceMemory("no memory"), "error"),
    ],
)
def test_expected_ends_have_no_traceback(
    stream: io.StringIO, make_request: MakeRequest, outcome: core.Outcome, error: Exception | None, level: str
) -> None:
    """An end that the server foresees is told by name and message; only failures are errors."""
    _observer(stream).ended(make_request(), outcome, 1.0, error)
    (line,) = _lines(stream)
    assert (line["level"], line["outcome"], line.get("message")) == (level, outcome, str(error) if error else None)
    assert "traceback" not in line


def test_what_the_device_gave_is_told(stream: io.StringIO, make_request: MakeRequest) -> None:
    """What is lost of it has a field of its own; what the device does not measure is null."""
    usage = core.Usage(device_seconds=2.25, wasted_device_seconds=0.5, energy_joules=900.0004, peak_memory_bytes=None)
    _observer(stream).used(make_request(), core.Outcome.OK, usage)
    (line,) = _lines(stream)
    assert (line["event"], line["device_seconds"], line["wasted_device_seconds"]) == ("used", 2.25, 0.5)
    assert (line["energy_joules"], line["peak_memory_bytes"]) == (900.0, None)


def test_listeners_that_fail_are_told(stream: io.StringIO) -> None:
    """What a listener raises at an event is an error line."""
    _observer(stream).listener_failed("accepted", KeyError("x"))
    (line,) = _lines(stream)
    assert (line["event"], line["event_name"], line["error"], line["level"]) == (
        "listener failed",
        "accepted",
        "KeyError",
        "error",
    )


def test_a_bugs_text_is_shown_with_prompts_only(stream: io.StringIO) -> None:
    """The text of an unforeseen error, for which no request is known, is logged only if prompts may be."""
    _observer(stream).bug("GenerateImage", "r-3", ValueError("a secret castle"))
    _observer(stream, log_prompts=True).bug("GenerateImage", "r-3", ValueError("a castle"))
    first, second = _lines(stream)
    assert "message" not in first
    assert (second["message"], second["request_id"], second["method"]) == ("a castle", "r-3", "GenerateImage")


def test_what_ended_the_device_thread_is_told_without_prompts(stream: io.StringIO) -> None:
    """The device's own words are; those of a bug, which may quote a caller, only if prompts may be logged."""
    _observer(stream).device_lost(errors.DeviceLost("the device failed in base"))
    _observer(stream).device_lost(ValueError("a secret castle"))
    _observer(stream, log_prompts=True).device_lost(ValueError("a castle"))
    lines = _lines(stream)
    assert [(line["error"], line.get("message")) for line in lines] == [
        ("DeviceLost", "the device failed in base"),
        ("ValueError", None),
        ("ValueError", "a castle"),
    ]
    assert all(line["event"] == "device lost" and "traceback" in line for line in lines)
    assert "secret" not in stream.getvalue()


def test_what_grpc_cannot_decode_is_not_repeated(stream: io.StringIO) -> None:
    """A key with a byte that is not UTF-8 is in no line; lines that anybody can cause are few, and say of the rest."""
    configure("debug", "json", stream)
    logger = logging.getLogger("grpc._cython.cygrpc")
    for _ in range(1000):
        try:
            b"imagegen_secret\xff".decode()
        except UnicodeDecodeError:
            logger.exception("Invalid encoding on %s", b"imagegen_secret\xff")
            logger.exception("Unexpected [%s] raised by servicer method [%s]", "UnicodeDecodeError", "/secret\xff")
    logger.error("something else: %s", 5)
    *lines, other = _lines(stream)
    assert "secret" not in stream.getvalue()
    assert 1 <= len(lines) < 100
    assert {(line["event"], line["level"]) for line in lines} == {
        ("a call had metadata or a path that is not UTF-8", "error")
    }
    assert lines[0]["left_out"] == 0
    assert not any("exception" in line for line in lines)
    assert other["event"] == "something else: 5"
