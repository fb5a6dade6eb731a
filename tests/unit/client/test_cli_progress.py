"""Progress: how far the stages are, and how that is shown."""

from __future__ import annotations

import importlib.machinery
import io
import sys

import pytest

from imagegen import types
from imagegen._cli_display import Display, LineDisplay, RichDisplay, TextDisplay, make_display
from imagegen._cli_progress import StageStatus, StageTracker
from imagegen._stream import GenerationFold
from imagegen.v1 import imagegen_pb2 as pb
from support import messages


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Says so."""
        return True


def statuses(images: int) -> tuple[StageTracker, list[StageStatus]]:
    """Returns a tracker and all that it told about a generation of so many images."""
    request = pb.GenerateImageRequest(request_id="id", num_images=images)
    fold = GenerationFold("id")
    events = [event for event in map(fold.feed, messages.generation(request)) if event is not None]
    accepted = events[0]
    assert isinstance(accepted, types.Accepted)
    tracker = StageTracker(accepted.plan)
    return tracker, [status for status in map(tracker.update, events) if status is not None]


def show(display: Display, images: int = 1) -> None:
    """Shows a whole generation."""
    tracker, told = statuses(images)
    with display:
        display.begin(tracker.initial())
        for status in told:
            display.update(status)


def test_a_stage_is_counted_over_all_images() -> None:
    """Two images double the steps of a stage; what the images share is done once."""
    tracker, _ = statuses(2)
    totals = {status.stage: (status.total, status.unit) for status in tracker.initial()}
    assert totals == {
        "text_encode": (1, ""),
        "base": (40, "steps"),
        "refiner": (12, "steps"),
        "vae_decode": (2, "images"),
    }


def test_a_stage_finishes_with_its_last_image() -> None:
    """The base is half done when the first of two images is, and finished after the second."""
    _, told = statuses(2)
    base = [(status.done, status.finished) for status in told if status.stage is types.Stage.BASE]
    assert base == [(0, False), (10, False), (20, False), (20, False), (30, False), (40, True)]


def test_time_is_taken_from_the_servers_clock() -> None:
    """A stage's elapsed time runs from its first event to its latest, and never backwards."""
    _, told = statuses(1)
    elapsed = [round(status.elapsed, 3) for status in told if status.stage is types.Stage.BASE]
    assert elapsed == [0.0, 0.1, 0.2]


def test_unplanned_stages_are_passed_over() -> None:
    """A stage outside the plan, such as one newer than this client, moves no bar."""
    tracker, _ = statuses(1)
    event = types.StageStarted(
        request_id="id", sequence=1, event_time=0.0, stage=types.Stage.UNKNOWN, image_index=None, total_steps=3
    )
    assert tracker.update(event) is None


def test_without_a_terminal_each_stage_is_one_line() -> None:
    """Logs get a line for every finished stage, without control characters."""
    stream = io.StringIO()
    show(LineDisplay(stream), images=2)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["text_encode", "base", "refiner", "vae_decode"]
    assert "40/40 steps" in lines[1]
    assert stream.getvalue().replace("\n", "").isprintable()


def test_a_plain_terminal_redraws_one_line() -> None:
    """Bars grow in place and each finished stage leaves its line."""
    stream = Terminal()
    show(TextDisplay(stream))
    text = stream.getvalue()
    assert f"base         [{'#' * 15}{'-' * 15}] 10/20 steps" in text
    assert text.count("\n") == 4
    assert text.endswith("\r\x1b[K")


def test_rich_draws_one_bar_per_stage() -> None:
    """With rich, every planned stage has a bar from the start and ends full."""
    stream = Terminal()
    show(RichDisplay(stream))
    last = stream.getvalue().rsplit("text_encode", 1)[1]
    assert [name for name in ("base", "refiner", "vae_decode") if name in last] == ["base", "refiner", "vae_decode"]
    assert "20/20 steps" in last


@pytest.mark.parametrize("kind", [LineDisplay, TextDisplay, RichDisplay])
def test_a_note_is_shown_as_it_is(kind: type[LineDisplay] | type[RichDisplay]) -> None:
    """A note appears literally, square brackets included."""
    stream = io.StringIO()
    with kind(stream) as display:
        display.note("waiting behind 3 [bold]")
    assert "waiting behind 3 [bold]" in stream.getvalue()


class _HideRich(importlib.machinery.PathFinder):
    """Finds everything but rich, as where the extra is not installed."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Refuses rich."""
        return None if fullname == "rich" else super().find_spec(fullname, path, target)  # type: ignore[arg-type]


def test_the_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence on request, lines without a terminal, bars on one: rich's if installed, else plain."""
    assert type(make_display(Terminal(), silent=True)) is Display
    assert type(make_display(io.StringIO(), silent=False)) is LineDisplay
    assert type(make_display(Terminal(), silent=False)) is RichDisplay
    monkeypatch.setattr(sys, "meta_path", [_HideRich])
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    assert type(make_display(Terminal(), silent=False)) is TextDisplay
