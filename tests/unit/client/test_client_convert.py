"""Messages to values: nothing of the contract is lost."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import grpc
import pytest

from imagegen import _convert, _convert_answers, _convert_events, _convert_server, types
from imagegen._stream import GenerationFold
from imagegen.errors import IntegrityError
from imagegen.v1 import imagegen_pb2 as pb

EVENT_BASE = {"request_id", "sequence", "event_time"}

PAIRS: list[tuple[Any, Any]] = [
    (types.StagePlan, pb.StagePlan),
    (types.GenerationPlan, pb.GenerationPlan),
    (types.Accepted, pb.Accepted),
    (types.QueueUpdate, pb.QueueUpdate),
    (types.StageStarted, pb.StageStarted),
    (types.StepProgress, pb.StepProgress),
    (types.StageCompleted, pb.StageCompleted),
    (types.Preview, pb.Preview),
    (types.ImageHeader, pb.ImageHeader),
    (types.Fallback, pb.FallbackTaken),
    (types.PromptTruncation, pb.PromptTruncation),
    (types.GenerationWarning, pb.Warning),
    (types.StageTiming, pb.StageTiming),
    (types.Completed, pb.Completed),
    (types.Limits, pb.Limits),
    (types.Defaults, pb.Defaults),
    (types.ModelInfo, pb.Model),
    (types.DeviceInfo, pb.Device),
    (types.ComponentSize, pb.ComponentSize),
    (types.MemoryPlan, pb.MemoryPlan),
    (types.ServerInfo, pb.GetServerInfoResponse),
]

ENUMS: list[tuple[Any, dict[int, Any], Any]] = [
    (pb.Stage, _convert.STAGES, types.Stage),
    (pb.RefinerMode, _convert.REFINER_MODES, types.RefinerMode),
    (pb.Priority, _convert.PRIORITIES, types.Priority),
    (pb.FallbackKind, _convert.FALLBACK_KINDS, types.FallbackKind),
    (pb.FallbackReason, _convert.FALLBACK_REASONS, types.FallbackReason),
    (pb.WarningCode, _convert.WARNING_CODES, types.WarningCode),
    (pb.GenerationState, _convert.GENERATION_STATES, types.GenerationState),
    (pb.ServerState, _convert.SERVER_STATES, types.ServerState),
    (pb.Residency, _convert.RESIDENCIES, types.Residency),
]


@pytest.mark.parametrize(("value", "message"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_value_has_the_fields_of_its_message(value: Any, message: Any) -> None:
    """Names are the contract's, so that its comments apply."""
    fields = {field.name for field in dataclasses.fields(value)}
    if issubclass(value, types.EventBase):
        fields -= EVENT_BASE
    assert fields == set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("value", [pair[0] for pair in PAIRS], ids=lambda kind: kind.__name__)
def test_values_are_frozen_and_named(value: Any) -> None:
    """Values are frozen, keyword-only and without a dictionary."""
    parameters = value.__dataclass_params__
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(value))
    assert "__slots__" in vars(value)


@pytest.mark.parametrize(("message", "numbers", "kind"), ENUMS, ids=lambda part: getattr(part, "__name__", ""))
def test_every_enum_value_has_its_counterpart(message: Any, numbers: dict[int, Any], kind: Any) -> None:
    """Each number of the proto but the unspecified one maps to a value of its own, and none is left over."""
    assert set(numbers) == set(message.values()) - {0}
    assert set(numbers.values()) == {value for value in kind if value != "unknown"}


def test_values_newer_than_the_client_are_unknown() -> None:
    """An enum number that this version does not know is no error."""
    assert _convert.stage(99) is types.Stage.UNKNOWN
    assert _convert.stage(0) is types.Stage.UNKNOWN
    assert _convert.generation_state(99) is types.GenerationState.UNKNOWN
    assert _convert.refiner_mode(99) is types.RefinerMode.UNKNOWN
    assert _convert.refiner_mode(0) is None


def test_times_keep_their_fractions() -> None:
    """Durations and instants are seconds with their nanoseconds."""
    started = pb.GetServerInfoResponse()
    started.start_time.FromMilliseconds(1_700_000_000_250)
    update = pb.QueueUpdate()
    update.estimated_wait.FromMilliseconds(1250)
    assert _convert_server.server_info(started).start_time == 1_700_000_000.25
    assert _convert.seconds(update.estimated_wait) == 1.25


def test_a_server_that_is_loading_has_no_memory_plan() -> None:
    """Unset messages with a meaning become None."""
    assert _convert_server.server_info(pb.GetServerInfoResponse()).memory_plan is None


def filled(message: Any) -> Any:
    """Fills every field of a message with values that differ, so that two mixed-up fields show."""
    for number, field in enumerate(message.DESCRIPTOR.fields, start=1):
        if field.type == field.TYPE_MESSAGE:
            part = getattr(message, field.name)
            filled(part.add() if field.is_repeated else part)
        else:
            value: Any = f"text {number}"
            if field.type == field.TYPE_BOOL:
                value = True
            elif field.type == field.TYPE_BYTES:
                value = b"bytes"
            elif field.type == field.TYPE_ENUM:
                value = 1
            elif field.type != field.TYPE_STRING:
                value = number
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def compare(value: Any, message: Any) -> int:
    """Asserts that a value says what its message says; returns the number of scalars compared."""
    compared = 0
    for field in message.DESCRIPTOR.fields:
        mine, theirs = getattr(value, field.name), getattr(message, field.name)
        if field.type == field.TYPE_MESSAGE and field.is_repeated and isinstance(mine, tuple):
            compared += sum(compare(*pair) for pair in zip(mine, theirs, strict=True))
        elif field.type == field.TYPE_MESSAGE and dataclasses.is_dataclass(mine):
            compared += compare(mine, theirs)
        elif field.type not in {field.TYPE_MESSAGE, field.TYPE_ENUM}:
            assert mine == (tuple(theirs) if field.is_repeated else theirs), field.full_name
            compared += 1
    return compared


def test_no_field_of_a_description_is_mixed_up() -> None:
    """Every scalar of a model and of a server comes out under its own name."""
    model = filled(pb.Model())
    assert compare(_convert_server.model(model), model) > 25
    info = filled(pb.GetServerInfoResponse())
    value = _convert_server.server_info(info)
    assert compare(value, info) > 14
    assert value.packages == {"text 1": "text 2"}


@pytest.mark.parametrize(
    "kind",
    [
        "accepted",
        "queue_update",
        "stage_started",
        "step_progress",
        "stage_completed",
        "preview",
        "image_header",
    ],
)
def test_no_field_of_an_event_is_mixed_up(kind: str) -> None:
    """Every scalar of an event comes out under its own name."""
    response = pb.GenerateImageResponse(sequence=7)
    filled(getattr(response, kind))
    event = _convert_events.event(kind, response, "id")
    assert compare(event, getattr(response, kind)) > 0
    assert (event.request_id, event.sequence) == ("id", 7)


def test_no_field_of_a_warning_or_fallback_is_mixed_up() -> None:
    """Every scalar of the two nested values comes out under its own name."""
    response = pb.GenerateImageResponse()
    filled(response.warning)
    warned = _convert_events.event("warning", response, "id")
    assert isinstance(warned, types.WarningIssued)
    assert compare(warned.warning, response.warning) == 7
    filled(response.fallback)
    taken = _convert_events.event("fallback", response, "id")
    assert isinstance(taken, types.FallbackTaken)
    assert compare(taken.fallback, response.fallback) == 2


FIGURES = ("peak_memory_bytes", "device_seconds", "wasted_device_seconds", "energy_joules", "images_per_joule")


def outcomes(message: pb.Completed) -> list[Any]:
    """Returns the outcome as the stream tells it, and as an answer does."""
    fold = GenerationFold("id", _convert.plan(pb.GenerationPlan()))
    fold.feed(pb.GenerateImageResponse(completed=message))
    return [fold.finish(), _convert_answers.generation_info(pb.GetGenerationResponse(completed=message)).outcome]


def test_no_figure_of_an_outcome_is_mixed_up() -> None:
    """Every one comes out under its own name; what the device does not tell is None, not 0."""
    message = filled(pb.Completed())
    for outcome in outcomes(message):
        assert [getattr(outcome, name) for name in FIGURES] == [getattr(message, name) for name in FIGURES]
        assert outcome.total_duration == _convert.seconds(message.total_duration) > 0
    for outcome in outcomes(pb.Completed()):
        assert [getattr(outcome, name) for name in FIGURES] == [None, 0.0, 0.0, None, None]


def test_no_fact_of_a_generation_is_mixed_up() -> None:
    """Its images and its failure have their own; what has not happened yet is None."""
    message = filled(pb.GetGenerationResponse())
    message.failure.code = grpc.StatusCode.ABORTED.value[0]
    found = _convert_answers.generation_info(message)
    (image,), summary = found.images, message.images[0].summary
    for name in ("image_index", "seed", "sha256", "size_bytes", "refined"):
        assert getattr(image, name) == getattr(summary, name)
    assert (image.url, image.mime_type, image.data) == (message.images[0].url, message.images[0].mime_type, None)
    failure = types.GenerationFailure(
        code=grpc.StatusCode.ABORTED, reason=message.failure.reason, message=message.failure.message
    )
    assert (found.request_id, found.failure, found.overall_fraction) == ("text 1", failure, message.overall_fraction)
    assert 0 < found.create_time == _convert.epoch(message.create_time)
    assert 0 < (found.end_time or 0.0) == _convert.epoch(message.end_time)
    running = _convert_answers.generation_info(pb.GetGenerationResponse(request_id="id"))
    assert (running.end_time, running.outcome, running.failure) == (None, None, None)


def rendered(**changes: Any) -> pb.RenderImageResponse:
    """Returns an answer with one image of three bytes, of which its summary says something else if asked to."""
    facts = {"size_bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest(), **changes}
    message = pb.RenderImageResponse(request_id="id")
    message.images.add(summary=pb.ImageSummary(**facts), data=b"abc")
    message.warnings.add(message="cut")
    return message


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size_bytes": 4}], ids=["hash", "size"])
def test_rendered_bytes_that_are_not_the_announced_ones_are_refused(wrong: dict[str, Any]) -> None:
    """Where they were asked for; the summary alone has nothing to compare."""
    result = _convert_answers.render_result(rendered(), with_data=True)
    assert (result.images[0].data, [warning.message for warning in result.warnings]) == (b"abc", ["cut"])
    with pytest.raises(IntegrityError, match="image 0: the received bytes are not the announced ones") as caught:
        _convert_answers.render_result(rendered(**wrong), with_data=True)
    assert caught.value.request_id == "id"
    assert _convert_answers.render_result(rendered(**wrong), with_data=False).images[0].data is None
