"""The figures of a report, against a hand-made server; and that what it does not say stays unknown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import imagegen_server.top
from imagegen_server.core import Outcome, Priority, Stage
from imagegen_server.telemetry.metrics import CATALOGUE, Kind
from imagegen_server.top.figures import Count, Report
from imagegen_server.top.history import History
from imagegen_server.top.report import OUTCOMES, PRIORITIES, STAGES, report
from imagegen_server.top.snapshot import parse
from support.exposition import Exposition, busy_server


def reported(*expositions: Exposition, interval: float = 10.0, **options: bool) -> Report:
    history = History(600)
    for index, each in enumerate(expositions):
        history.add(parse(each.text(), index * interval))
    return report(history, **options)


@pytest.fixture(scope="module")
def busy() -> Report:
    """A busy server that grew from its figures to twice of them in 10 seconds."""
    return reported(busy_server(1), busy_server(2))


def test_the_server_is_described(busy: Report) -> None:
    """State, model and what is out of order."""
    server = busy.server
    assert (server.state, server.model, server.version) == ("serving", "sdxl", "0.1.0")
    assert (server.dtype, server.residency, server.degraded) == ("fp16", "both", ("batch_rows",))
    assert server.certificate_ends is None


@pytest.mark.parametrize(
    ("serving", "draining", "state"), [(1, 0, "serving"), (0, 0, "loading"), (0, 1, "draining"), (None, None, None)]
)
def test_the_state_is_read_from_two_gauges(serving: int | None, draining: int | None, state: str | None) -> None:
    """A server that says neither is in no known state."""
    made = Exposition().gauge("imagegen_requests_queued", 0, model="shapes")
    if serving is not None and draining is not None:
        made.gauge("imagegen_serving", serving).gauge("imagegen_draining", draining)
    assert reported(made).server.state == state


def test_the_load_is_reported(busy: Report) -> None:
    """36 + 6 delivered generations and 40 images in 10 seconds; 36 s of device time would be 3.6 devices."""
    load = busy.load
    assert (load.in_flight, load.queued, load.capacity, load.peak_in_flight) == (6, 2, 64, 6)
    assert load.generations_per_minute == pytest.approx(42 * 6)
    assert load.images_per_minute == pytest.approx(240)
    assert load.busy == pytest.approx(3.6)
    wait = load.queue_wait["interactive"]
    assert wait.count == 43
    assert wait.p50 == pytest.approx(0.1 * 21.5 / 30)
    assert load.first_progress.p95 == pytest.approx(0.475)
    assert (wait.shortest, wait.longest) == (0.1, 2.5)


def test_outcomes_have_totals_and_growth(busy: Report) -> None:
    """Totals are since the start, growth is that of the window."""
    assert busy.outcomes[0] == Count(name="ok", total=72, recent=36)
    assert [count.name for count in busy.outcomes] == list(OUTCOMES)


def test_a_stage_has_steps_rows_and_durations(busy: Report) -> None:
    """1,500 steps in 10 seconds, 1,000 rows in 200 batches; durations of what ended well."""
    base = next(row for row in busy.stages if row.name == "base")
    assert (base.steps_per_second, base.rows, base.not_ok) == (150, 5, 1)
    assert base.step.p50 == pytest.approx(0.05 + 0.05 * (200 - 100) / 300)
    assert base.duration.count == 36
    assert base.duration.p50 == pytest.approx(0.5 + 1.5 * 8 / 20)
    send = next(row for row in busy.stages if row.name == "send")
    assert (send.steps_per_second, send.rows, send.step.count) == (None, None, None)


def test_trouble_is_sorted_and_leaves_out_what_did_not_happen(busy: Report) -> None:
    """The most frequent reason comes first; reasons at 0 are left out."""
    assert [(count.name, count.total, count.recent) for count in busy.fallbacks] == [
        ("oom", 6, 3),
        ("deadline", 4, 2),
        ("nan", 2, 1),
    ]
    assert [count.name for count in busy.rejections] == ["queue_full", "invalid", "deadline"]
    assert [count.name for count in busy.cancellations] == ["base", "queued"]
    assert busy.waste.ratio == pytest.approx(3 / 36)
    assert busy.auth_failures == (Count(name="", total=0, recent=0),)


def test_a_gpu_is_reported(busy: Report) -> None:
    """40 kJ for 40 images; thermal throttling for 6 of 10 seconds."""
    (gpu,) = busy.gpus
    assert (gpu.index, gpu.name, gpu.healthy, gpu.utilization) == ("0", "NVIDIA GeForce RTX 4090", True, 0.93)
    assert (gpu.memory_used, gpu.memory_process, gpu.memory_total) == (19.4e9, 18.1e9, 24.0e9)
    assert (busy.budget_bytes, busy.planned_bytes) == (22e9, 17e9)
    assert gpu.joules_per_image == 1000
    assert (gpu.throttled, gpu.throttled_of) == ({"thermal": 6}, 10)
    assert (gpu.ecc, gpu.xids) == ({"corrected": 2, "uncorrected": 0}, {})
    assert (busy.allocator.peak, busy.allocator.retries, busy.allocator.ooms) == (16.2e9, 1, 3)


def test_gpus_are_sorted_by_number() -> None:
    """GPU 10 comes after GPU 2."""
    made = Exposition()
    for index in ("10", "2", "0"):
        made.gauge("imagegen_gpu_temperature_celsius", 50, gpu=index)
    assert [gpu.index for gpu in reported(made).gpus] == ["0", "2", "10"]


def test_the_first_scrape_has_no_rates_and_durations_since_the_start() -> None:
    """One scrape cannot tell how fast something is."""
    first = reported(busy_server())
    assert first.since_start
    assert first.seconds is None
    assert first.load.generations_per_minute is None
    assert first.outcomes[0] == Count(name="ok", total=36, recent=None)
    assert first.stages[2].duration.count == 36


def test_durations_since_the_start_can_be_asked_for() -> None:
    """Rates are of the window even so."""
    both = reported(busy_server(1), busy_server(2), since_start=True)
    assert both.stages[2].duration.count == 72
    assert both.stages[2].steps_per_second == 150
    assert both.gpus[0].throttled_of is None


def test_an_idle_window_has_rates_of_0_and_no_quantiles() -> None:
    """Nothing happened is known; how long it took is not."""
    idle = reported(busy_server(), busy_server())
    assert idle.load.generations_per_minute == 0
    assert idle.stages[2].duration.count == 0
    assert idle.stages[2].duration.p95 is None
    assert idle.waste.ratio is None
    assert idle.gpus[0].joules_per_image is None


def test_what_a_server_does_not_say_is_unknown() -> None:
    """A server with one gauge leaves everything else unknown, and nothing is 0."""
    bare = Exposition().gauge("imagegen_requests_queued", 3, model="shapes")
    found = reported(bare, bare)
    numbers = {path: value for path, value in _numbers(dataclasses.asdict(found)) if value is not None}
    assert numbers == {"load.queued": 3, "seconds": 10.0, "restarts": 0}
    assert found.gpus == ()
    assert found.gpu_read is None
    assert (found.fallbacks, found.codes, found.gpu_errors) == ((), (), ())


def test_an_empty_history_is_refused() -> None:
    """There is nothing to report before the first scrape."""
    with pytest.raises(ValueError, match="no scrape"):
        report(History(60))


def test_the_closed_sets_are_the_servers() -> None:
    """The rows that are always shown are the values that the labels have."""
    assert set(OUTCOMES) == set(Outcome)
    assert set(STAGES) == set(Stage)
    assert set(PRIORITIES) == set(Priority)


def test_every_name_that_is_read_is_in_the_catalogue() -> None:
    """A metric that is renamed cannot silently become a dash."""
    suffixes = {Kind.COUNTER: ("",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("", "_count")}
    known = {metric.name + suffix for metric in CATALOGUE for suffix in suffixes[metric.kind]}
    directory = Path(imagegen_server.top.__file__).parent
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.py")))
    named = set(re.findall(r'"((?:imagegen|grpc_server)_\w*[a-z])"', sources))
    assert named - known == set()
    assert len(named) > 40


def _numbers(value: Any, path: str = "") -> list[tuple[str, float | None]]:
    """Returns every number in nested dictionaries and lists, with where it is."""
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in _numbers(each, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        return [found for each in value for found in _numbers(each, path)]
    return [(path, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []
