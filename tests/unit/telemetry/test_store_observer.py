"""The store's events as metrics, and as one line where something begins or ends to go wrong."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from imagegen_server.core import KeepFailure
from imagegen_server.output.store import ReadOutcome
from imagegen_server.telemetry import Metrics, StoreListener, closed_sets


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the metrics are."""
    return CollectorRegistry()


@pytest.fixture
def listener(registry: CollectorRegistry, lines: list[Any]) -> StoreListener:
    """A listener of its own."""
    return StoreListener(Metrics(registry, models=["fake"], methods=[]), structlog.get_logger())


def test_trouble_is_logged_when_it_begins_changes_and_ends(listener: StoreListener, lines: list[Any]) -> None:
    """Not for every image: a full store would fill the log as well. The error's text is left out."""
    full, denied = OSError(errno.ENOSPC, "secret"), PermissionError("secret")
    for _ in range(3):
        listener.written(KeepFailure.FULL, full, 0.1)
    listener.written(KeepFailure.DENIED, denied, 0.1)
    listener.written(None, None, 0.1)
    listener.written(None, None, 0.1)
    assert [(line["event"], line.get("failure"), line.get("error")) for line in lines] == [
        ("store fails", "full", "OSError ENOSPC"),
        ("store fails", "denied", "PermissionError"),
        ("store works again", None, None),
    ]
    assert "secret" not in str(lines)


def test_each_operation_has_its_own_trouble(listener: StoreListener, lines: list[Any]) -> None:
    """That reading works says nothing about writing; an image that is not there is no trouble."""
    listener.written(KeepFailure.FULL, OSError(errno.ENOSPC, "x"), 0.1)
    listener.read(ReadOutcome.OK, None)
    listener.read(ReadOutcome.NOT_FOUND, FileNotFoundError("x"))
    listener.read(ReadOutcome.DAMAGED, ValueError("x"))
    listener.sweep_failed(OSError(errno.EIO, "x"))
    listener.held(1, 10)  # an image was put: that says nothing about what must go
    listener.sweep_failed(OSError(errno.EIO, "x"))
    listener.swept()
    assert [(line["event"], line["operation"]) for line in lines] == [
        ("store fails", "write"),
        ("store fails", "read"),
        ("store fails", "sweep"),
        ("store works again", "sweep"),
    ]


def test_that_sweeps_fail_is_shown_until_one_succeeds(listener: StoreListener, registry: CollectorRegistry) -> None:
    """However long it takes until the next one, and whatever is written meanwhile."""
    shown = []
    for tell in (
        listener.swept,
        lambda: listener.sweep_failed(OSError("x")),
        lambda: listener.held(1, 9),
        listener.swept,
    ):
        tell()
        shown.append(registry.get_sample_value("imagegen_store_sweep_failing"))
    assert shown == [0, 1, 1, 0]
    assert registry.get_sample_value("imagegen_store_sweep_failures_total") == 1


def test_values_and_the_closed_sets(listener: StoreListener, registry: CollectorRegistry) -> None:
    """Every outcome has its series from the start; what is told is what is counted."""
    assert set(closed_sets.STORE_WRITES) == {"ok", *KeepFailure}
    assert set(closed_sets.STORE_READS) == set(ReadOutcome)
    for failure in KeepFailure:
        listener.written(failure, RuntimeError(), 0.1)
    for outcome in ReadOutcome:
        listener.read(outcome, None if outcome is ReadOutcome.OK else RuntimeError())
    listener.written(None, None, 0.25)
    listener.removed("bytes", 3)
    listener.limited(None)
    listener.limited(1000)
    listener.held(2, 20)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"imagegen_store_{name}", labels)

    assert [value("writes_total", outcome=outcome) for outcome in closed_sets.STORE_WRITES] == [1] * 7
    assert [value("reads_total", outcome=outcome) for outcome in closed_sets.STORE_READS] == [1] * 5
    assert (value("write_seconds_count"), value("write_seconds_sum")) == (1, 0.25)
    assert (value("removed_total", reason="bytes"), value("removed_total", reason="age")) == (3, 0)
    assert (value("limit_bytes"), value("images"), value("bytes"), value("sweep_failures_total")) == (1000, 2, 20, 0)
