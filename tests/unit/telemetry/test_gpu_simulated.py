"""Simulated GPUs: every key of a script, second by second, and scripts that are wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from imagegen_server.errors import StartupError
from imagegen_server.telemetry import CATALOGUE, SimulatedGpu, parse_gpu_script, simulated_gpu
from imagegen_server.telemetry.gpu_library import GpuError, GpuXid, NoGpuError
from imagegen_server.telemetry.gpu_poller import GpuPoller
from imagegen_server.telemetry.gpu_reader import Calls
from imagegen_server.telemetry.gpu_script import AllocatorScript, GpuScript, MachineScript
from imagegen_server.telemetry.gpu_series import GPU_METRICS

Series = tuple[str, ...]
INSTANCE = "GPU-instance"
"""The UUID of an instance, which no GPU has: those that are divided are shown."""


class Machine:
    """Simulated GPUs, polled at the seconds that the test says."""

    def __init__(self, script: str, *, uuid: str = "") -> None:
        self.second = 0.0
        self.waits: list[float | None] = []
        self.library = SimulatedGpu(parse_gpu_script(script), clock=lambda: self.second, wait=self.waits.append)
        self.errors: Counter[tuple[str, str]] = Counter()
        self.gpus = GpuPoller(self.library, Calls(lambda call, error: self.errors.update([(call, error)])))
        self.gpus.uuid = uuid

    def at(self, second: float) -> dict[Series, float]:
        """Returns what is shown after a poll at a second."""
        self.second = second
        if not self.gpus.complete:
            self.gpus.connect()
        self.gpus.poll()
        return {
            (sample.metric.name.removeprefix("imagegen_gpu_"), *sample.labels): sample.value
            for sample in self.gpus.samples()
        }


def _kind(read: Callable[[], object]) -> str:
    """Returns how a reading fails."""
    with pytest.raises(GpuError) as error:
        read()
    return error.value.kind


def test_an_empty_object_shows_every_metric() -> None:
    """One GPU that is well, with every series that the dashboards ask for, and an allocator."""
    machine = Machine("{}")
    shown = machine.at(0)
    assert {f"imagegen_gpu_{name}" for name, *_ in shown} == {
        metric.name for metric in GPU_METRICS if metric.name != "imagegen_gpu_collector_up"
    }
    assert shown["health", "0"] == 1
    assert machine.at(10)["energy_joules_total", "0"] == 3000
    figures = machine.library.allocator_stats()
    names = {metric.name for metric in CATALOGUE if metric.name.startswith("imagegen_torch_")}
    assert {f"imagegen_torch_{key}" for key in figures} == {name.removesuffix("_total") for name in names}
    assert figures["reserved_bytes"] >= figures["allocated_peak_bytes"] >= figures["allocated_bytes"] > 0
    assert machine.errors == {}


def test_each_number_is_shown_as_the_script_says() -> None:
    """Every key has its own value, and the identity is the script's."""
    machine = Machine(
        """{"uuid": "GPU-7", "name": "Card", "mig": "enabled", "driver": "570", "memory_total": 1000,
        "memory_used": 900, "memory_process": 800, "utilization": 0.7, "memory_utilization": 0.6, "temperature": 50,
        "temperature_limit": 40, "power": 30, "power_limit": 20, "clock_sm": 10, "clock_memory": 5,
        "throttle": {"thermal": 0.5}, "ecc": {"corrected": [[0, 0], [2, 3]]}, "allocator": {"ooms": 2}}"""
    )
    machine.at(0)
    shown = machine.at(4)
    assert shown["info", "0", "GPU-7", "Card", "570", "enabled"] == 1
    values = [
        shown[name, "0"]
        for name in (
            "memory_total_bytes",
            "memory_used_bytes",
            "memory_process_bytes",
            "utilization_ratio",
            "memory_utilization_ratio",
            "temperature_celsius",
            "temperature_limit_celsius",
            "power_watts",
            "power_limit_watts",
            "energy_joules_total",
        )
    ]
    assert values == [1000, 900, 800, 0.7, 0.6, 50, 40, 30, 20, 120]
    assert (shown["clock_hertz", "0", "sm"], shown["clock_hertz", "0", "memory"]) == (10, 5)
    assert shown["throttle_seconds_total", "0", "thermal"] == 2
    assert shown["throttle_seconds_total", "0", "power"] == 0
    assert shown["ecc_errors_total", "0", "corrected"] == 3
    assert machine.library.allocator_stats()["ooms"] == 2


def test_numbers_change_at_their_seconds_and_energy_is_the_integral_of_power() -> None:
    """100 W for 10 s, 300 W for 5 s, then nothing: 2500 J."""
    machine = Machine('{"power": [[0, 100], [10, 300], [15, 0]], "allocator": {"alloc_retries": [[0, 0], [9, 4]]}}')
    shown = [machine.at(second) for second in (0, 9, 10, 12, 100)]
    assert [poll["power_watts", "0"] for poll in shown] == [100, 100, 300, 300, 0]
    assert [poll["energy_joules_total", "0"] for poll in shown] == [0, 900, 1000, 1600, 2500]
    machine.second = 8
    assert machine.library.allocator_stats()["alloc_retries"] == 0
    machine.second = 9
    assert machine.library.allocator_stats()["alloc_retries"] == 4


def test_counters_that_begin_anew() -> None:
    """The driver's counts fall to 0 at the second of a reset and grow from there; what is shown goes on."""
    machine = Machine(
        '{"power": 100, "throttle": {"power": 1}, "ecc": {"corrected": [[0, 5], [15, 8]]}, "counters_reset": [10]}'
    )
    library = machine.library
    raws, shown = [], []
    for second in (0, 9, 10, 20):
        shown.append(machine.at(second))
        raws.append((library.energy(0), library.throttled(0, "power"), library.ecc_errors(0, "corrected")))
    assert raws == [(0, 0, 5), (900, 9, 5), (0, 0, 0), (1000, 10, 3)]
    assert [poll["energy_joules_total", "0"] for poll in shown] == [0, 900, 900, 1900]
    assert [poll["ecc_errors_total", "0", "corrected"] for poll in shown] == [0, 0, 0, 3]


def test_several_gpus_with_what_holds_for_all() -> None:
    """Each GPU has the common keys and its own, its own index and UUID."""
    gpus = '[{}, {"power": 20}, {"uuid": "GPU-c"}]'
    machine = Machine(f'{{"mig": "enabled", "temperature": 50, "power": 10, "gpus": {gpus}}}', uuid=INSTANCE)
    shown = machine.at(0)
    assert [shown["temperature_celsius", gpu] for gpu in "012"] == [50, 50, 50]
    assert [shown["power_watts", gpu] for gpu in "012"] == [10, 20, 10]
    uuids = [uuid for name, _, uuid, *_ in (series for series in shown if series[0] == "info")]
    assert len(set(uuids)) == 3
    assert uuids[2] == "GPU-c"


def test_errors_per_call() -> None:
    """MIG in a container: utilization is not supported, memory not permitted; another GPU is not concerned."""
    gpus = '[{"errors": {"utilization": "not_supported", "memory": "no_permission"}}, {}]'
    machine = Machine(f'{{"mig": "enabled", "gpus": {gpus}}}', uuid=INSTANCE)
    machine.at(0)
    shown = machine.at(5)
    assert not {"memory_used_bytes", "utilization_ratio"} & {name for name, gpu, *_ in shown if gpu == "0"}
    assert shown["utilization_ratio", "1"] == 0.9
    assert machine.errors == {("utilization", "not_supported"): 1, ("memory", "no_permission"): 2}


@pytest.mark.parametrize(
    "call",
    ["memory", "processes", "utilization", "temperature", "power", "power_limit", "clock", "energy", "throttle", "ecc"],
)
def test_every_call_can_fail(call: str) -> None:
    """Each call that the script names fails, and is counted, under its own label."""
    machine = Machine(f'{{"errors": {{"{call}": "timeout"}}}}')
    machine.at(0)
    assert {name for name, _ in machine.errors} == {call}
    assert {error for _, error in machine.errors} == {"timeout"}


def test_failures_of_the_connection() -> None:
    """Connecting, listing and listening fail as the script says; without a driver there is no GPU."""
    assert _kind(Machine('{"errors": {"init": "unknown"}}').library.open) == "unknown"
    assert _kind(lambda: Machine('{"errors": {"devices": "lost"}}').library.identity(0)) == "lost"
    assert _kind(lambda: Machine('{"errors": {"xid": "not_supported"}}').library.watch_xids(0)) == "not_supported"
    with pytest.raises(NoGpuError):
        Machine('{"driver": null}').library.open()


def test_a_gpu_is_lost_and_comes_back() -> None:
    """From its second on it answers nothing, until the other second; its XID error is heard."""
    gpus = '[{"lost": {"from": 10, "until": 20}, "xids": [[10, 79]]}, {}]'
    machine = Machine(f'{{"mig": "enabled", "gpus": {gpus}}}', uuid=INSTANCE)
    health = {second: machine.at(second)["health", "0"] for second in (0, 9, 10, 19)}
    assert health == {0: 1, 9: 1, 10: 0, 19: 0}
    assert machine.at(15)["xid_errors_total", "0", "79"] == 1
    assert ("temperature_celsius", "0") not in machine.at(16)
    assert ("temperature_celsius", "0") in machine.at(20)
    assert machine.at(21)["health", "0"] == 0, "XID 79 was seen"
    assert machine.at(22)["health", "1"] == 1


def test_a_gpu_that_is_lost_for_good() -> None:
    """Without `until` it never comes back."""
    machine = Machine('{"lost": {"from": 10}}')
    assert [machine.at(second)["health", "0"] for second in (0, 10, 1e9)] == [1, 0, 0]


def test_xid_errors_come_once_and_at_their_seconds() -> None:
    """An error is told by the first call after its second, by its GPU."""
    machine = Machine('{"gpus": [{"xids": [[0, 13], [5, 48]]}, {"xids": [[5, 31]]}]}')
    library = machine.library
    library.watch_xids(0)
    library.watch_xids(1)
    told: dict[float, Any] = {}
    for second in (0, 4, 6, 9):
        machine.second = second
        told[second] = list(library.xids())
    assert told == {
        0: [GpuXid(index=0, xid=13)],
        4: [],
        6: [GpuXid(index=0, xid=48), GpuXid(index=1, xid=31)],
        9: [],
    }


def test_memory_of_a_process_that_the_driver_does_not_list() -> None:
    """null is no reading, and no failure either."""
    machine = Machine('{"memory_process": null, "allocator": null}')
    assert ("memory_process_bytes", "0") not in machine.at(0)
    assert machine.errors == {}
    assert machine.library.allocator_stats() == {}


def test_a_call_hangs_for_its_time() -> None:
    """From its second on the call waits for what is left; before and after it does not, and no other call does."""
    machine = Machine('{"hang": {"call": "memory", "from": 10, "for": 30}}')
    for second in (0, 9, 10, 25, 40):
        machine.second = second
        machine.library.memory(0)
        machine.library.power(0)
    assert machine.waits == [30, 15]
    for call in ("init", "devices", "xid", "energy"):
        endless = Machine(f'{{"hang": {{"call": "{call}", "from": 0}}}}')
        endless.at(0)
        assert set(endless.waits) == {None}


def test_the_end_of_a_hang_is_real() -> None:
    """Without a double for waiting, a call that hangs for a moment returns after it."""
    script = parse_gpu_script('{"hang": {"call": "memory", "from": 0, "for": 0.05}, "memory_used": 7}')
    assert SimulatedGpu(script).memory(0).used == 7


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("{", ["is no JSON"]),
        ("[]", ["the whole: Input should be"]),
        ('{"temprature": 1, "watts": 2}', ["temprature: is no key", "watts: is no key"]),
        ('{"power": -1, "utilization": 1.5}', ["power: should be from 0", "utilization: should be from 0 to 1"]),
        ('{"power": "much"}', ["power: should be a number or a list of [second, number]"]),
        ('{"power": true}', ["power: should be a number"]),
        ('{"power": []}', ["power: should be a number"]),
        ('{"power": [[0, 1, 2]]}', ["power: should be a number"]),
        ('{"power": NaN}', ["power: should be a number"]),
        ('{"power": [[5, 1], [1, 2]]}', ["power: should have its seconds in ascending order"]),
        ('{"errors": {"fan": "lost"}}', ["errors.fan", "should be one of init, devices"]),
        ('{"errors": {"power": "sad"}}', ["errors.power: should be one of not_supported"]),
        ('{"throttle": {"boredom": 1}}', ["throttle.boredom", "should be one of power, thermal"]),
        ('{"ecc": {"both": 1}}', ["should be one of corrected, uncorrected"]),
        ('{"xids": [[1]]}', ["xids.0"]),
        ('{"lost": {"at": 1}}', ["lost.from", "lost.at: is no key"]),
        ('{"hang": {"call": "allocator", "from": 1}}', ["hang.call: should be one of"]),
        ('{"gpus": [{"driver": "1"}, {"power": -1}]}', ["gpus.0.driver: is no key", "gpus.1.power: should be"]),
        ('{"gpus": [{"errors": {"init": "lost"}}]}', ["gpus.0.errors.init"]),
        ('{"allocator": {"free": 1}}', ["allocator.free: is no key"]),
        ('{"mig": "maybe", "name": 5}', ["mig:", "name:"]),
    ],
)
def test_a_wrong_script_says_everything_that_is_wrong(script: str, says: list[str]) -> None:
    """The error names each key and what it should be."""
    with pytest.raises(StartupError, match="the GPU script is") as error:
        parse_gpu_script(script)
    for part in says:
        assert part in str(error.value)


def test_the_documentation_has_every_key() -> None:
    """The module tells of each key of the script and of no other."""
    text = simulated_gpu.__doc__ or ""
    models = (GpuScript, MachineScript, AllocatorScript)
    keys = {name for model in models for name in model.model_fields}
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", text)] == []
    listed = {word for line in text.splitlines() for word in re.findall(r"^    ([a-z][a-z_, ]*?)(?:  |$)", line)}
    named = {name.strip() for names in listed for name in names.split(",")}
    assert {"power", "hang", "allocator"} <= named <= keys
