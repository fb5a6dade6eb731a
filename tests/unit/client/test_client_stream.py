"""The fold from messages to events and images. No channel, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen import types
from imagegen._stream import GenerationFold
from imagegen.errors import IntegrityError, ProtocolError
from imagegen.v1 import imagegen_pb2 as pb
from support import messages

REQUEST = pb.GenerateImageRequest(request_id="id-1", prompt="a circle", seed=7)
TWO = pb.GenerateImageRequest(request_id="id-1", prompt="a circle", seed=7, num_images=2)
DATA = messages.picture()


def fold(responses: Iterable[pb.GenerateImageResponse]) -> tuple[list[types.Event], GenerationFold]:
    """Feeds all messages; returns the events and the fold."""
    state = GenerationFold("id-1")
    events = [state.feed(response) for response in responses]
    return [event for event in events if event is not None], state


def test_a_good_stream_becomes_its_events_in_order() -> None:
    """Every message but the chunks and the last is told once, an image when it is whole."""
    events, state = fold(messages.generation(REQUEST))
    names = [type(event).__name__ for event in events]
    assert names[0] == "Accepted"
    assert names[-2:] == ["ImageHeader", "ImageReceived"]
    assert names.count("StageStarted") == names.count("StageCompleted") == 4
    assert names.count("StepProgress") == 2
    assert {event.request_id for event in events} == {"id-1"}
    assert state.finish().images[0].data == DATA


def test_the_image_carries_what_made_it() -> None:
    """The finished image has the plan, the timings and the header's facts."""
    _, state = fold(messages.generation(REQUEST))
    completed = state.finish()
    (image,) = completed.images
    assert (image.width, image.height, image.mime_type, image.seed, image.refined) == (16, 8, "image/png", 7, True)
    assert image.plan.stages[1] == types.StagePlan(stage=types.Stage.BASE, steps=20, evaluations=20, guidance_scale=0.0)
    assert [timing.stage for timing in image.timings] == ["text_encode", "base", "refiner", "vae_decode"]
    assert image.total_duration == completed.total_duration == 1.234
    assert completed.peak_memory_bytes is None


def test_an_image_is_received_before_its_timings_are_known() -> None:
    """The event's image has no timings yet; the outcome's has."""
    events, state = fold(messages.generation(REQUEST))
    received = events[-1]
    assert isinstance(received, types.ImageReceived)
    assert (received.image.timings, received.image.total_duration) == ((), None)
    assert received.image.data == state.finish().images[0].data


def test_unknown_events_are_ignored_wherever_they_come() -> None:
    """An event that this version does not know changes nothing, not even before accepted or after completed."""
    plain, _ = fold(messages.generation(REQUEST))
    mixed = [messages.unknown_event(REQUEST)]
    for response in messages.generation(REQUEST):
        mixed += [response, messages.unknown_event(REQUEST)]
    events, state = fold(mixed)
    assert events == plain
    assert state.finish().images[0].data == DATA


def test_fallbacks_and_warnings_end_up_on_the_images_they_concern() -> None:
    """A fallback belongs to its image, a warning to all."""
    first, second = messages.picture(index=0), messages.picture(index=1)
    taken = messages.fallback(TWO, 1)
    events, state = fold(
        [
            messages.accepted(TWO),
            messages.truncated(TWO),
            taken,
            messages.header(TWO, first),
            *messages.chunks(TWO, first),
            messages.header(TWO, second, 1),
            *messages.chunks(TWO, second, 1),
            messages.completed(TWO, [first, second], [taken]),
        ]
    )
    received = [event.image for event in events if isinstance(event, types.ImageReceived)]
    finished = state.finish().images
    for images in (received, finished):
        assert [len(image.fallbacks) for image in images] == [0, 1]
        assert [image.warnings[0].truncation.removed_tokens for image in images if image.warnings[0].truncation] == [
            12,
            12,
        ]
    assert finished[1].fallbacks[0].reason is types.FallbackReason.OOM
    assert state.finish().fallbacks == finished[1].fallbacks


def test_a_warning_that_comes_after_an_image_is_known_at_the_end() -> None:
    """That the image could not be kept, say."""
    events, state = fold(
        [
            messages.accepted(REQUEST),
            messages.header(REQUEST, DATA),
            *messages.chunks(REQUEST, DATA),
            messages.truncated(REQUEST),
            messages.completed(REQUEST, [DATA]),
        ]
    )
    (received,) = [event.image for event in events if isinstance(event, types.ImageReceived)]
    assert (len(received.warnings), len(state.finish().images[0].warnings)) == (0, 1)


def test_urls_are_known_at_the_end() -> None:
    """An image carries its URL once the generation has completed; one that was not kept has none."""
    first, second = messages.picture(index=0), messages.picture(index=1)
    completed = messages.completed(TWO, [first, second])
    completed.completed.images[1].url = "http://localhost/images/1.png"
    events, state = fold(
        [
            messages.accepted(TWO),
            messages.header(TWO, first),
            *messages.chunks(TWO, first),
            messages.header(TWO, second, 1),
            *messages.chunks(TWO, second, 1),
            completed,
        ]
    )
    assert [event.image.url for event in events if isinstance(event, types.ImageReceived)] == ["", ""]
    assert [image.url for image in state.finish().images] == ["", "http://localhost/images/1.png"]


def test_images_may_interleave() -> None:
    """Chunks carry their image's index, so two images on their way at once are told apart."""
    first, second = messages.picture(900, 0), messages.picture(900, 1)
    pairs = zip(messages.chunks(TWO, first, 0, 100), messages.chunks(TWO, second, 1, 100), strict=True)
    _, state = fold(
        [
            messages.accepted(TWO),
            messages.header(TWO, second, 1),
            messages.header(TWO, first, 0),
            *(chunk for pair in pairs for chunk in pair),
            messages.completed(TWO, [first, second]),
        ]
    )
    assert [image.data for image in state.finish().images] == [first, second]


@given(size=st.integers(1, 2000), data=st.binary(min_size=1, max_size=4000))
def test_any_chunk_size_gives_the_same_file(size: int, data: bytes) -> None:
    """How the server cuts a file does not matter."""
    _, state = fold(
        [
            messages.accepted(REQUEST),
            messages.header(REQUEST, data),
            *messages.chunks(REQUEST, data, size=size),
            messages.completed(REQUEST, [data]),
        ]
    )
    assert state.finish().images[0].data == data


def _changed(change: Callable[[list[pb.GenerateImageResponse]], object]) -> list[pb.GenerateImageResponse]:
    """Returns an image's header and three chunks after a change, between a good beginning and end."""
    image = [messages.header(REQUEST, DATA), *messages.chunks(REQUEST, DATA, size=400)]
    change(image)
    return [messages.accepted(REQUEST), *image, messages.completed(REQUEST, [DATA])]


CORRUPTIONS: dict[str, tuple[Callable[[list[pb.GenerateImageResponse]], object], str]] = {
    "gap": (lambda image: image.pop(2), "expected the byte at 400, got a chunk at 800"),
    "order": (lambda image: image.insert(1, image.pop(2)), "expected the byte at 0, got a chunk at 400"),
    "repetition": (lambda image: image.insert(2, image[1]), "expected the byte at 400, got a chunk at 0"),
    "negative offset": (lambda image: setattr(image[1].image_chunk, "offset", -1), "a chunk at -1"),
    "hash": (lambda image: setattr(image[0].image_header, "sha256", "0" * 64), "SHA-256"),
    "bytes": (lambda image: setattr(image[1].image_chunk, "data", b"x" * 400), "SHA-256"),
    "size too small": (lambda image: setattr(image[0].image_header, "size_bytes", 900), "more than the announced 900"),
    "no size": (lambda image: setattr(image[0].image_header, "size_bytes", 0), "a size of 0 bytes"),
    "negative size": (lambda image: setattr(image[0].image_header, "size_bytes", -5), "a size of -5 bytes"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_bytes_that_are_not_the_announced_ones_are_refused(name: str) -> None:
    """Gaps, disorder, wrong sizes and wrong hashes never become an image."""
    change, message = CORRUPTIONS[name]
    with pytest.raises(IntegrityError, match=message) as caught:
        fold(_changed(change))
    assert (caught.value.code, caught.value.request_id) == (grpc.StatusCode.DATA_LOSS, "id-1")


VIOLATIONS: dict[str, tuple[list[pb.GenerateImageResponse], str]] = {
    "no accepted": ([messages.header(REQUEST, DATA)], "image_header arrived before accepted"),
    "accepted twice": ([messages.accepted(REQUEST), messages.accepted(REQUEST)], "accepted arrived twice"),
    "chunk without header": (
        [messages.accepted(REQUEST), *messages.chunks(REQUEST, DATA)],
        "a chunk of image 0 arrived outside of it",
    ),
    "header twice": (
        [messages.accepted(REQUEST), messages.header(REQUEST, DATA), messages.header(REQUEST, DATA)],
        "image 0 arrived twice",
    ),
    "image twice": (
        [
            messages.accepted(REQUEST),
            messages.header(REQUEST, DATA),
            *messages.chunks(REQUEST, DATA),
            messages.header(REQUEST, DATA),
        ],
        "image 0 arrived twice",
    ),
    "no image": ([messages.accepted(REQUEST), messages.completed(REQUEST, [])], "after 0 of 1 images"),
    "half an image": (
        [
            messages.accepted(REQUEST),
            messages.header(REQUEST, DATA),
            next(messages.chunks(REQUEST, DATA, size=10)),
            messages.completed(REQUEST, [DATA]),
        ],
        "after 0 of 1 images",
    ),
    "another summary": (
        [*list(messages.generation(REQUEST))[:-1], messages.completed(REQUEST, [b"other"])],
        "not those that arrived",
    ),
    "completed twice": (
        [*messages.generation(REQUEST), messages.completed(REQUEST, [DATA])],
        "completed arrived after completed",
    ),
    "progress after completed": (
        [*messages.generation(REQUEST), *messages.progress(REQUEST)],
        "stage_started arrived after completed",
    ),
    "another generation": (
        [messages.accepted(pb.GenerateImageRequest(request_id="id-2"))],
        "another generation arrived: id-2",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_streams_that_break_the_contract_are_refused(name: str) -> None:
    """Events out of place end the fold with the reason."""
    responses, message = VIOLATIONS[name]
    with pytest.raises(ProtocolError, match=message) as caught:
        fold(responses)
    assert (caught.value.code, caught.value.request_id) == (grpc.StatusCode.INTERNAL, "id-1")


@pytest.mark.parametrize("count", range(len(list(messages.generation(REQUEST)))))
def test_a_stream_that_ends_early_is_no_success(count: int) -> None:
    """Wherever a stream stops before completed, there is no outcome."""
    _, state = fold(list(messages.generation(REQUEST))[:count])
    with pytest.raises(ProtocolError, match="ended before completed"):
        state.finish()


def test_a_plan_needs_accepted_only() -> None:
    """A stream that was asked for the plan ends after accepted; an empty one is refused."""
    _, state = fold(messages.generation(pb.GenerateImageRequest(request_id="id-1", validate_only=True)))
    accepted = state.finish_plan()
    assert (accepted.plan.seed, accepted.estimated_duration, accepted.event_time) == (4242, 2.5, 1_700_000_000.0)
    with pytest.raises(ProtocolError, match="ended before accepted"):
        GenerationFold("id-1").finish_plan()
