"""What is shown of each GPU: values, absences, losses and counters, poll by poll and without a thread."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagegen_server.telemetry import Nvml
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.gpu_poller import GpuPoller
from imagegen_server.telemetry.gpu_reader import Calls
from imagegen_server.telemetry.gpu_series import GPU_METRICS
from support.fake_nvml import Card, FakeNvml, consumer_card, mig_card

Series = tuple[str, ...]
"""A metric's name without imagegen_gpu_, and its label values."""


class Watch:
    """A poller over a fake driver, the errors that it counted, and what it shows."""

    def __init__(self, *cards: Card, uuid: str | None = "") -> None:
        self.module = FakeNvml(*cards)
        self.errors: Counter[tuple[str, str]] = Counter()
        calls = Calls(lambda call, error: self.errors.update([(call, error)]))
        self.lines: list[tuple[str, dict[str, object]]] = []
        """What was logged: events and their fields."""
        self.gpus = GpuPoller(Nvml(self.module), calls, lambda event, **fields: self.lines.append((event, fields)))
        self.gpus.uuid = uuid

    def connect(self) -> bool:
        return self.gpus.connect()

    def poll(self) -> dict[Series, float]:
        self.gpus.poll()
        return self.shown()

    def shown(self) -> dict[Series, float]:
        return {
            (sample.metric.name.removeprefix("imagegen_gpu_"), *sample.labels): sample.value
            for sample in self.gpus.samples()
        }


INSTANCE = "GPU-instance"
"""The UUID of an instance, which no GPU has."""


def _watch(*cards: Card, uuid: str | None = "") -> Watch:
    watch = Watch(*cards, uuid=uuid)
    assert watch.connect()
    watch.poll()
    return watch


def test_every_series_of_a_card_has_its_value() -> None:
    """Each metric of the catalogue is shown with the card's value; counters begin at 0 and then follow the driver."""
    card = Card(uuid="GPU-x", name="H", processes=[(os.getpid(), 42)])
    card.violation_ns = dict.fromkeys(range(6), 10**12)
    card.ecc = {0: 100, 1: 50}
    watch = _watch(card)
    card.millijoules += 2_500
    card.violation_ns[pynvml.NVML_PERF_POLICY_THERMAL] += 750_000_000
    card.ecc[0] += 4
    watch.module.report(card, 13)
    watch.module.report(card, 9999)
    throttle: dict[Series, float] = {("throttle_seconds_total", "0", reason): 0.0 for reason in m.THROTTLE_REASONS}
    xids: dict[Series, float] = {("xid_errors_total", "0", xid): 0.0 for xid in (*m.XIDS, m.OTHER_XID)}
    expected: dict[Series, float] = {
        ("info", "0", "GPU-x", "H", "570.1", "disabled"): 1,
        ("memory_used_bytes", "0"): 5000,
        ("memory_total_bytes", "0"): 9000,
        ("memory_process_bytes", "0"): 42,
        ("utilization_ratio", "0"): 0.5,
        ("memory_utilization_ratio", "0"): 0.25,
        ("temperature_celsius", "0"): 61,
        ("temperature_limit_celsius", "0"): 90,
        ("power_watts", "0"): 250,
        ("power_limit_watts", "0"): 350,
        ("clock_hertz", "0", "sm"): 1.7e9,
        ("clock_hertz", "0", "memory"): 2.6e9,
        ("energy_joules_total", "0"): 2.5,
        **throttle,
        ("throttle_seconds_total", "0", "thermal"): 0.75,
        ("ecc_errors_total", "0", "corrected"): 4,
        ("ecc_errors_total", "0", "uncorrected"): 0,
        **xids,
        ("xid_errors_total", "0", "13"): 1,
        ("xid_errors_total", "0", "other"): 1,
        ("remap_pending", "0"): 0,
        ("health", "0"): 1,
    }
    assert watch.poll() == pytest.approx(expected)
    shown = {f"imagegen_gpu_{name}" for name, *_ in expected} | {m.GPU_COLLECTOR_UP.name}
    assert shown == {metric.name for metric in GPU_METRICS}
    assert watch.errors == {}


@pytest.mark.parametrize(
    ("card", "absent", "errors"),
    [
        (
            mig_card("GPU-x"),
            {"memory_used_bytes", "memory_total_bytes", "memory_process_bytes", "utilization_ratio"}
            | {"memory_utilization_ratio"},
            {
                ("memory", "no_permission"): 3,
                ("processes", "no_permission"): 3,
                ("utilization", "not_supported"): 1,
            },
        ),
        (
            consumer_card("GPU-x"),
            {"memory_process_bytes", "throttle_seconds_total", "ecc_errors_total", "remap_pending"},
            {("throttle", "not_supported"): 6, ("ecc", "not_supported"): 3},
        ),
    ],
)
def test_what_a_card_lacks_is_absent_and_counted(
    card: Card, absent: set[str], errors: dict[tuple[str, str], int]
) -> None:
    """After three polls: no series, never 0; what is unsupported was asked once, what may be granted each time."""
    watch = _watch(card)
    watch.poll()
    names = {name for name, *_ in watch.poll()}
    expected = {metric.name.removeprefix("imagegen_gpu_") for metric in GPU_METRICS} - {"collector_up"}
    if card.processes == []:
        absent = absent | {"memory_process_bytes"}
    assert names == expected - absent
    assert watch.errors == errors
    assert watch.shown()["health", "0"] == 1


def test_each_reading_fails_alone() -> None:
    """One clock, one throttle reason and the limit of the temperature are missing without their siblings."""
    unsupported = pynvml.NVML_ERROR_NOT_SUPPORTED
    card = Card(uuid="GPU-x")
    card.fail = {
        ("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM): unsupported,
        ("nvmlDeviceGetViolationStatus", pynvml.NVML_PERF_POLICY_SYNC_BOOST): unsupported,
        "nvmlDeviceGetTemperatureThreshold": unsupported,
    }
    shown = _watch(card).shown()
    assert ("clock_hertz", "0", "sm") in shown
    assert ("clock_hertz", "0", "memory") not in shown
    assert {reason for name, *rest in shown if name == "throttle_seconds_total" for reason in rest[1:]} == set(
        m.THROTTLE_REASONS
    ) - {"sync_boost"}
    assert shown["temperature_celsius", "0"] == 61
    assert ("temperature_limit_celsius", "0") not in shown


def test_a_passing_failure_is_asked_again() -> None:
    """A reading that failed with an unknown error is absent until it works again, each failure counted."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    card.fail = {"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_UNKNOWN}
    assert ("energy_joules_total", "0") not in watch.poll()
    assert ("energy_joules_total", "0") not in watch.poll()
    card.fail.clear()
    card.millijoules += 9_000
    assert watch.poll()["energy_joules_total", "0"] == 9
    assert watch.errors == {("energy", "unknown"): 2}


def test_what_is_unsupported_is_asked_again_in_a_new_connection() -> None:
    """A driver that was replaced may know more."""
    card = Card(uuid="GPU-x", fail={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED})
    watch = _watch(card)
    watch.poll()
    card.fail.clear()
    assert ("utilization_ratio", "0") not in watch.poll()
    assert watch.connect()
    assert watch.poll()["utilization_ratio", "0"] == 0.5


def test_xid_errors_that_cannot_be_heard_have_no_series() -> None:
    """Where events are not supported, no XID series stands at 0 as if there were none."""
    card = Card(uuid="GPU-x", fail={"nvmlDeviceRegisterEvents": pynvml.NVML_ERROR_NOT_SUPPORTED})
    watch = _watch(card)
    assert not [name for name, *_ in watch.poll() if name == "xid_errors_total"]
    assert watch.errors == {("xid", "not_supported"): 1}


def test_only_the_gpu_that_is_served_is_shown() -> None:
    """It is found by its UUID and keeps its index as its label. Where no UUID is known all are shown."""
    cards = Card(uuid="GPU-a"), Card(uuid="GPU-b", temperature=50), Card(uuid="GPU-c", mig=1)
    watch = _watch(*cards, uuid="GPU-b")
    assert {gpu for _, gpu, *_ in watch.shown()} == {"1"}
    assert watch.shown()["temperature_celsius", "1"] == 50
    for uuid in ("", None):
        assert {gpu for _, gpu, *_ in _watch(*cards, uuid=uuid).shown()} == {"0", "1", "2"}


def test_the_gpu_that_is_served_is_not_replaced_by_another() -> None:
    """While it is missing there is nothing to show, and connecting goes on; it is shown once it is there."""
    ours = Card(uuid="GPU-b", hidden=True)
    watch = _watch(Card(uuid="GPU-a"), ours, uuid="GPU-b")
    assert watch.shown() == {}
    assert not watch.gpus.answering
    assert not watch.gpus.complete
    ours.hidden = False
    assert watch.connect()
    assert watch.poll()["health", "1"] == 1
    assert watch.gpus.complete


def test_an_instance_is_on_one_of_the_divided_gpus() -> None:
    """NVML does not list its UUID: every divided GPU is shown, and none that is whole; no energy is its own."""
    watch = _watch(Card(uuid="GPU-a"), Card(uuid="GPU-b", mig=1), Card(uuid="GPU-c", mig=1), uuid=INSTANCE)
    assert {gpu for _, gpu, *_ in watch.shown()} == {"1", "2"}
    assert watch.gpus.served is None


def test_a_lost_gpu_stays_visible_beside_the_others() -> None:
    """It shows what it is, that it is not well and what it had counted, XID 79 included; the other GPU goes on."""
    lost, other = Card(uuid="GPU-a", mig=1), Card(uuid="GPU-b", mig=1)
    watch = _watch(lost, other, uuid=INSTANCE)
    lost.millijoules += 4_000
    watch.poll()
    lost.lost = True
    watch.module.report(lost, 79)
    other.temperature = 70
    shown = watch.poll()
    assert {name for name, gpu, *_ in shown if gpu == "0"} == {
        "info",
        "health",
        "energy_joules_total",
        "throttle_seconds_total",
        "ecc_errors_total",
        "xid_errors_total",
    }
    assert (shown["health", "0"], shown["health", "1"]) == (0, 1)
    assert shown["energy_joules_total", "0"] == 4
    assert shown["xid_errors_total", "0", "79"] == 1
    assert shown["temperature_celsius", "1"] == 70
    assert not watch.gpus.complete
    assert watch.gpus.answering
    assert watch.errors == {("power", "lost"): 1}, "a lost GPU is asked one thing, once"
    watch.poll()
    assert watch.errors == {("power", "lost"): 1}


def test_losing_a_gpu_moves_no_label() -> None:
    """A connection without the first GPU gives the second one its index, but not its label; then the first is back."""
    first, second = Card(uuid="GPU-a", mig=1), Card(uuid="GPU-b", mig=1, temperature=50)
    watch = _watch(first, second, uuid=INSTANCE)
    first.lost = first.hidden = True
    watch.poll()
    assert watch.connect()
    second.millijoules += 1_000
    watch.module.report(second, 31)
    shown = watch.poll()
    assert (shown["health", "0"], shown["health", "1"]) == (0, 1)
    assert shown["temperature_celsius", "1"] == 50
    assert shown["energy_joules_total", "1"] == 1
    assert (shown["xid_errors_total", "1", "31"], shown["xid_errors_total", "0", "31"]) == (1, 0)
    first.lost = first.hidden = False
    first.temperature = 40
    assert watch.connect()
    shown = watch.poll()
    assert (shown["temperature_celsius", "0"], shown["temperature_celsius", "1"]) == (40, 50)
    assert (shown["health", "0"], shown["health", "1"]) == (1, 1)
    assert watch.gpus.complete


def test_a_gpu_that_appears_later_gets_a_label_of_its_own() -> None:
    """A GPU whose index belongs to the label of another one takes the next number."""
    late = Card(uuid="GPU-late", mig=1, temperature=30, hidden=True)
    early = Card(uuid="GPU-early", mig=1, temperature=50)
    watch = _watch(late, early, uuid=INSTANCE)
    late.hidden = False
    assert watch.connect()
    shown = watch.poll()
    assert (shown["temperature_celsius", "0"], shown["temperature_celsius", "1"]) == (50, 30)


def test_a_gpu_that_is_gone_gets_none_of_the_errors_of_the_one_that_has_its_index() -> None:
    """It appeared later than the other, and took the index before it; without it the other moves up."""
    late = Card(uuid="GPU-late", mig=1, hidden=True)
    early = Card(uuid="GPU-early", mig=1)
    watch = _watch(late, early, uuid=INSTANCE)
    late.hidden = False
    assert watch.connect()
    late.lost = late.hidden = True
    assert watch.connect()
    watch.module.report(early, 31)
    shown = watch.poll()
    assert (shown["xid_errors_total", "0", "31"], shown["xid_errors_total", "1", "31"]) == (1, 0)


def test_errors_that_are_queued_when_the_connection_ends_are_counted() -> None:
    """They may tell why a new one is made."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    watch.module.report(card, 79)
    assert watch.connect()
    assert watch.poll()["xid_errors_total", "0", "79"] == 1


def test_a_gpu_that_is_lost_from_the_start_is_tried_again() -> None:
    """Without a UUID there is nothing to show, but there is a GPU: connecting goes on until it answers."""
    card = Card(uuid="GPU-x", lost=True)
    watch = Watch(card)
    assert watch.connect()
    assert watch.poll() == {}
    assert not watch.gpus.answering
    assert not watch.gpus.complete
    assert watch.errors == {("devices", "lost"): 1}
    card.lost = False
    assert watch.connect()
    assert watch.poll()["health", "0"] == 1


def test_a_driver_that_vanishes_loses_all_gpus() -> None:
    """Unloading the driver is not "no GPU" once there was one: it is not well, and connecting goes on."""
    watch = _watch(Card(uuid="GPU-x"))
    watch.module.fail["nvmlInit"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert watch.connect()
    assert watch.poll()["health", "0"] == 0
    watch.module.fail.clear()
    assert watch.connect()
    assert watch.poll()["health", "0"] == 1


@pytest.mark.parametrize("status", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_is_no_gpu_and_no_error(status: int) -> None:
    """A machine without a driver, or without GPUs, has nothing to show and nothing to try again."""
    watch = Watch()
    watch.module.fail["nvmlInit"] = status
    assert not watch.connect()
    watch.module.fail.clear()
    assert not watch.connect()
    assert watch.poll() == {}
    assert watch.errors == {}


NEEDS_A_RESET = (46, 48, 54, 61, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158)
NEEDS_NONE = (13, 31, 32, 43, 45, 63, 69, 92, 94, 155, 9999)


@pytest.mark.parametrize("xid", [*NEEDS_A_RESET, *NEEDS_NONE])
def test_health_follows_the_xid_catalog(xid: int) -> None:
    """An error that NVIDIA answers with a reset, a repair or a restart ends the GPU's health until the server's end."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    watch.module.report(card, xid)
    assert watch.poll()["health", "0"] == int(xid in NEEDS_NONE)
    assert watch.connect()
    assert watch.poll()["health", "0"] == int(xid in NEEDS_NONE)


def test_health_follows_the_rows_of_the_memory() -> None:
    """A row without a spare one does harm. Uncorrected errors, which may be contained, and a row that waits do not."""
    card = Card(uuid="GPU-x", ecc={0: 7, 1: 3})
    watch = _watch(card)
    card.ecc[0] += 1
    card.ecc[1] += 1
    card.remap_pending = 1
    shown = watch.poll()
    assert (shown["health", "0"], shown["remap_pending", "0"]) == (1, 1)
    assert shown["ecc_errors_total", "0", "uncorrected"] == 1
    card.remap_failed = 1
    assert watch.poll()["health", "0"] == 0
    card.remap_failed = 0
    assert watch.poll()["health", "0"] == 1


def test_what_the_driver_knows_from_before_the_start_counts() -> None:
    """A server that starts on a broken GPU says so at once: it may be the one that a fault ended a moment ago."""
    watch = _watch(Card(uuid="GPU-x", ecc={0: 7, 1: 3}, remap_pending=1, remap_failed=1))
    shown = watch.shown()
    assert (shown["health", "0"], shown["remap_pending", "0"]) == (0, 1)
    gpu = {"gpu": "0", "uuid": "GPU-x"}
    watch.poll()
    assert watch.lines == [
        ("gpu memory errors", {**gpu, "uncorrected": 3}),
        ("gpu memory rows wait for a reset", gpu),
        ("gpu health", {**gpu, "healthy": False, "reasons": ["remapping failed"]}),
    ]


def test_every_fault_and_change_of_health_is_told_once() -> None:
    """With the number of each error; corrected errors are none of anybody's business."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    card.ecc = {0: 100, 1: 2}
    for xid in (94, 79, 79):
        watch.module.report(card, xid)
    watch.poll()
    gpu = {"gpu": "0", "uuid": "GPU-x"}
    told: list[tuple[str, dict[str, object]]] = [
        ("gpu memory errors", {**gpu, "uncorrected": 2}),
        ("gpu xid", {**gpu, "xid": 94, "count": 1}),
        ("gpu xid", {**gpu, "xid": 79, "count": 2}),
        ("gpu health", {**gpu, "healthy": False, "reasons": ["xid 79"]}),
    ]
    assert watch.lines == told
    watch.poll()
    assert watch.lines == told
    card.lost = True
    watch.poll()
    watch.poll()
    told.append(("gpu health", {**gpu, "healthy": False, "reasons": ["lost", "xid 79"]}))
    assert watch.lines == told


def test_a_gpu_that_comes_back_is_told_of() -> None:
    """Without a fatal error, a GPU that answers again is well."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    card.lost = True
    watch.poll()
    card.lost = False
    watch.connect()
    watch.poll()
    assert [(event, fields["healthy"]) for event, fields in watch.lines] == [
        ("gpu health", False),
        ("gpu health", True),
    ]


def test_a_reset_of_the_drivers_counters_loses_nothing() -> None:
    """Counters go on from where they were when the driver's begin anew at 0."""
    card = Card(uuid="GPU-x", ecc={0: 10, 1: 0}, violation_ns=dict.fromkeys(range(6), 5 * 10**9))
    watch = _watch(card)
    card.millijoules += 3_000
    card.ecc[0] = 14
    watch.poll()
    card.millijoules, card.ecc[0], card.violation_ns = 0, 0, dict.fromkeys(range(6), 0)
    watch.poll()
    card.millijoules, card.ecc[0], card.violation_ns = 2_000, 1, dict.fromkeys(range(6), 10**9)
    shown = watch.poll()
    assert shown["energy_joules_total", "0"] == 5
    assert shown["ecc_errors_total", "0", "corrected"] == 5
    assert shown["throttle_seconds_total", "0", "power"] == 1


@dataclass(kw_only=True, frozen=True, slots=True)
class Moment:
    """What the driver says in one poll."""

    energy: int
    violation: int
    ecc: int
    fail: dict[Any, int]
    hidden: bool
    reconnect: bool
    xids: list[int]


_COUNTS = st.integers(0, 2**63)
_STATUSES = (pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST)
_COUNTERS = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetViolationStatus", "nvmlDeviceGetTotalEccErrors")
_MOMENTS = st.builds(
    Moment,
    energy=_COUNTS,
    violation=_COUNTS,
    ecc=_COUNTS,
    fail=st.dictionaries(st.sampled_from(_COUNTERS), st.sampled_from(_STATUSES), max_size=2),
    hidden=st.booleans(),
    reconnect=st.booleans(),
    xids=st.lists(st.integers(1, 200), max_size=3),
)


@settings(max_examples=60)
@given(moments=st.lists(_MOMENTS, min_size=2, max_size=12))
def test_no_counter_ever_goes_down(moments: list[Moment]) -> None:
    """Whatever the driver says, and however often it is lost, a counter's series never falls below what it showed."""
    card = Card(uuid="GPU-x")
    watch = _watch(card)
    counters = {metric.name.removeprefix("imagegen_gpu_") for metric in GPU_METRICS if metric.kind is m.Kind.COUNTER}
    highest: dict[Series, float] = {}
    for moment in moments:
        card.millijoules, card.fail, card.hidden = moment.energy, moment.fail, moment.hidden
        card.violation_ns, card.ecc = dict.fromkeys(range(6), moment.violation), dict.fromkeys(range(2), moment.ecc)
        for xid in moment.xids:
            watch.module.report(card, xid)
        if moment.reconnect:
            watch.connect()
        for series, value in watch.poll().items():
            if series[0] in counters:
                assert value >= highest.get(series, 0.0), series
                highest[series] = value
    assert "xid_errors_total" in {series[0] for series in highest}
