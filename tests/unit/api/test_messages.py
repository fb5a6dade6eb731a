"""Events and nouns become messages of the contract, completely."""

from __future__ import annotations

from typing import Any

import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import convert, enums, messages
from imagegen_server.core import GenerationRequest, KeepFailure, PromptTruncation, Stage
from imagegen_server.engine import events
from support.scripted_engine import OTHER_PROFILE, PROFILE, finished, image_ready


@pytest.fixture
def request_() -> GenerationRequest:
    """A complete request."""
    profiles = (OTHER_PROFILE, PROFILE)
    given = pb.GenerateImageRequest(prompt="x")
    return convert.to_generation(given, request_id="id", loaded=PROFILE, profiles=profiles, plan=lambda _: None)


def warning_of(event: events.Event, request: GenerationRequest) -> pb.Warning:
    """Returns the warning that an event becomes."""
    message: Any = messages.response(event, request)  # whose Warning mypy takes for Python's
    warning: pb.Warning = message.warning
    return warning


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (enums.STAGES, pb.Stage),
        (enums.FALLBACK_REASONS, pb.FallbackReason),
        (enums.FALLBACK_KINDS, pb.FallbackKind),
        (enums.REFINER_MODES, pb.RefinerMode),
        (enums.GENERATION_STATES, pb.GenerationState),
        (enums.SERVER_STATES, pb.ServerState),
        (enums.RESIDENCIES, pb.Residency),
    ],
)
def test_every_value_of_the_contract_has_its_noun(table: dict[object, int], enum: object) -> None:
    """Nouns and enum values correspond one to one, but for the unspecified value."""
    values = set(enum.values())  # type: ignore[attr-defined] # an enum wrapper
    assert set(table.values()) == values - {0}
    assert len(table) == len(set(table.values()))


def test_stage_events(request_: GenerationRequest) -> None:
    """A stage that the images share has no image index; one of an image has, 0 included."""
    shared = messages.response(
        events.StageStarted(stage=Stage.TEXT_ENCODE, image_index=None, total_steps=0), request_
    ).stage_started
    own = messages.response(
        events.StageCompleted(stage=Stage.BASE, image_index=0, duration=1.5, steps=50), request_
    ).stage_completed
    assert (shared.stage, shared.HasField("image_index")) == (pb.STAGE_TEXT_ENCODE, False)
    assert (own.stage, own.HasField("image_index"), own.steps) == (pb.STAGE_BASE, True, 50)
    assert own.duration.ToMilliseconds() == 1500


@pytest.mark.parametrize("eta", [None, 0.0, 2.5])
def test_progress(request_: GenerationRequest, eta: float | None) -> None:
    """An unknown ETA is unset; an ETA of zero is not."""
    event = events.StepProgress(
        stage=Stage.REFINER, image_index=1, completed_steps=2, total_steps=30, overall_fraction=0.75, eta=eta
    )
    progress = messages.response(event, request_).step_progress
    assert (progress.stage, progress.image_index, progress.completed_steps) == (pb.STAGE_REFINER, 1, 2)
    assert (progress.total_steps, progress.overall_fraction) == (30, 0.75)
    assert progress.HasField("eta") == (eta is not None)
    assert progress.eta.ToMilliseconds() == (eta or 0) * 1000


def test_queue_update(request_: GenerationRequest) -> None:
    """A wait that is estimated below zero is none."""
    update = messages.response(events.QueueUpdate(position=3, estimated_wait=-0.5), request_).queue_update
    assert (update.position, update.estimated_wait.ToNanoseconds()) == (3, 0)


def test_truncated_prompt_is_a_warning(request_: GenerationRequest) -> None:
    """The warning names the field, the encoder and the text that was cut."""
    cut = PromptTruncation(
        encoder="text_encoder_2",
        stage=Stage.REFINER,
        prompt_field="refiner.prompt",
        removed_text="and a hat",
        removed_tokens=3,
        max_tokens=77,
    )
    warning = warning_of(events.PromptTruncated(truncation=cut), request_)
    assert warning.code == pb.WARNING_CODE_PROMPT_TRUNCATED
    assert (warning.truncation.field, warning.truncation.encoder) == ("refiner.prompt", "text_encoder_2")
    assert (warning.truncation.removed_text, warning.truncation.removed_tokens) == ("and a hat", 3)
    assert "hat" not in warning.message


@pytest.mark.parametrize("failure", KeepFailure)
def test_image_that_was_not_kept_is_a_warning(failure: KeepFailure, request_: GenerationRequest) -> None:
    """It names the image, the first one included, and says why."""
    warning = warning_of(events.ImageKept(image_index=0, url="", failure=failure), request_)
    assert warning.code == pb.WARNING_CODE_IMAGE_NOT_KEPT
    assert warning.HasField("image_index")
    assert warning.image_index == 0
    assert warning.message == f"image 0 was not kept and has no URL: {messages.NOT_KEPT[failure]}"


@pytest.mark.parametrize("event", [image_ready(b"x"), finished()])
def test_events_of_several_messages_are_not_converted_here(event: events.Event, request_: GenerationRequest) -> None:
    """What becomes several messages or a status is refused loudly."""
    with pytest.raises(TypeError):
        messages.response(event, request_)


def test_what_it_took_is_told_by_its_names() -> None:
    """Device time, what of it was in vain, energy, and how many images there are for a joule."""
    images = [pb.ImageSummary(image_index=index) for index in range(2)]
    told = messages.completed(finished(), timings=(), total=4.0, images=images)
    assert (told.device_seconds, told.wasted_device_seconds, told.peak_memory_bytes) == (2.5, 0.5, 123)
    assert (told.energy_joules, told.images_per_joule) == (800.0, 2 / 800)
