"""The joules of the served GPU between readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_server.telemetry import GpuCollector, Nvml
from imagegen_server.telemetry.energy import EnergyMeter, EnergyReading
from support.clock import Clock
from support.fake_nvml import Card, FakeNvml
from support.waiting import eventually


def _meter() -> tuple[EnergyMeter, Clock]:
    clock = Clock()
    return EnergyMeter(max_age=3, clock=clock), clock


def test_between_readings_energy_goes_on_with_the_last_power() -> None:
    """At 200 W half a second is 100 J; the next reading replaces the estimate."""
    meter, clock = _meter()
    assert meter.read() is None
    meter.update(EnergyReading(at=0, joules=1000, watts=200))
    assert meter.read() == 1000
    clock.now = 0.5
    assert meter.read() == 1100
    clock.now = 1
    meter.update(EnergyReading(at=1, joules=1250, watts=100))
    assert meter.read() == 1250


def test_an_estimate_that_was_too_much_stands_still() -> None:
    """The meter does not go back to the counter; it waits until that has caught up."""
    meter, clock = _meter()
    meter.update(EnergyReading(at=0, joules=0, watts=400))
    clock.now = 1
    assert meter.read() == 400
    meter.update(EnergyReading(at=1, joules=100, watts=100))
    assert meter.read() == 400
    clock.now = 3
    assert meter.read() == 400
    meter.update(EnergyReading(at=3, joules=500, watts=100))
    assert meter.read() == 500


def test_without_a_power_the_mean_of_the_last_readings_is_taken() -> None:
    """Two readings 2 s and 300 J apart are 150 W; a single one stands still."""
    meter, clock = _meter()
    meter.update(EnergyReading(at=0, joules=10, watts=None))
    clock.now = 1
    assert meter.read() == 10
    clock.now = 2
    meter.update(EnergyReading(at=2, joules=310, watts=None))
    clock.now = 3
    assert meter.read() == 460


def test_an_old_reading_and_a_forgotten_one_tell_nothing() -> None:
    """Beyond the greatest age, and after the GPU was lost, there is no energy rather than a guess."""
    meter, clock = _meter()
    meter.update(EnergyReading(at=0, joules=10, watts=1))
    clock.now = 3
    assert meter.read() == 13
    clock.now = 3.1
    assert meter.read() is None
    meter.update(EnergyReading(at=3.1, joules=20, watts=1))
    assert meter.read() == 20
    meter.clear()
    assert meter.read() is None


_STEPS = st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 700), st.floats(0, 700), st.booleans()), max_size=30)


@given(steps=_STEPS)
def test_turns_add_up_to_the_counter(steps: list[tuple[float, float, float, bool]]) -> None:
    """However wrong the power was, readings never go down, and their sum ends at most one estimate off the counter."""
    meter, clock = _meter()
    true = estimate = 0.0
    meter.update(EnergyReading(at=0, joules=0, watts=0))
    shown = [0.0]
    for seconds, drawn, said, read in steps:
        clock.now += seconds
        true += drawn * seconds
        if read:
            now = meter.read()
            assert now is not None
            shown.append(now)
        meter.update(EnergyReading(at=clock.now, joules=true, watts=said))
        estimate = max(estimate, said * 2)
    last = meter.read()
    assert last is not None
    shown.append(last)
    assert shown == sorted(shown)
    assert true - 1e-6 <= last <= true + estimate + 1e-6


@pytest.fixture
def start() -> Iterator[Callable[[FakeNvml, str, float, float], GpuCollector]]:
    """Starts a collector of a GPU with an interval, and one of its energy readings, and stops it afterwards."""
    started: list[GpuCollector] = []

    def make(module: FakeNvml, uuid: str, interval: float, energy_interval: float) -> GpuCollector:
        collector = GpuCollector(
            Nvml(module),
            lambda _call, _error: None,
            interval=interval,
            energy_interval=energy_interval,
            clock=lambda: 0.0,  # no estimates: what is read is what the driver said
        )
        collector.start(uuid)
        started.append(collector)
        return collector

    yield make
    for collector in started:
        collector.stop(timeout=10)


Start = Callable[[FakeNvml, str, float, float], GpuCollector]


def test_the_served_gpu_is_found_by_its_uuid(start: Start) -> None:
    """Energy is that of the GPU that was chosen, of the first one for no UUID; one that is not there has none."""
    first, second = Card(uuid="GPU-a"), Card(uuid="GPU-b")
    by_uuid, unnamed = (start(FakeNvml(first, second), uuid, 0.01, 1.0) for uuid in ("GPU-b", ""))
    module = FakeNvml(first, second)
    elsewhere = start(module, "GPU-of-another-machine", 0.01, 1.0)
    eventually(lambda: by_uuid.energy_joules() == 0 and unnamed.energy_joules() == 0)
    first.millijoules += 5_000
    second.millijoules += 3_000
    eventually(lambda: by_uuid.energy_joules() == 3 and unnamed.energy_joules() == 5)
    eventually(lambda: module.opened >= 3)
    assert elsewhere.energy_joules() is None


def test_energy_is_read_more_often_than_the_rest(start: Start) -> None:
    """Between two polls of everything, energy and power of the served GPU, and of no other, are read."""
    module = FakeNvml(Card(uuid="GPU-a"), Card(uuid="GPU-b"))
    collector = start(module, "GPU-a", 0.1, 0.02)
    eventually(lambda: collector.energy_joules() is not None)
    begin = len(module.calls)
    eventually(lambda: module.calls[begin:].count("nvmlDeviceGetMemoryInfo") >= 12)
    calls = module.calls[begin:]
    names = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    memory, energy, power = (calls.count(name) for name in names)
    assert 4 * memory <= energy <= 6 * memory, "five times, and the other GPU's never"
    assert 4 * memory <= power <= 6 * memory


@pytest.mark.parametrize("trouble", ["unsupported", "lost"])
def test_a_gpu_that_cannot_tell_has_no_energy(start: Start, trouble: str) -> None:
    """A card without the counter never has energy; a lost one has none until it is back."""
    card = Card(uuid="GPU-x")
    if trouble == "unsupported":
        card.fail = {"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED}
    module = FakeNvml(card)
    collector = start(module, "GPU-x", 0.01, 1.0)
    if trouble == "unsupported":
        eventually(lambda: module.calls.count("nvmlDeviceGetMemoryInfo") > 4)
        assert collector.energy_joules() is None
        assert module.calls.count("nvmlDeviceGetTotalEnergyConsumption") == 1
        return
    eventually(lambda: collector.energy_joules() == 0)
    card.lost = True
    eventually(lambda: collector.energy_joules() is None)
    card.millijoules += 2_000
    card.lost = False
    eventually(lambda: collector.energy_joules() == 2)
