"""NVML's answers, units and statuses, from a module that stands where pynvml is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pynvml
import pytest

from imagegen_server.telemetry import Nvml
from imagegen_server.telemetry.closed_sets import ECC_TYPES, GPU_CLOCKS, GPU_ERRORS, THROTTLE_REASONS
from imagegen_server.telemetry.gpu_library import (
    GpuError,
    GpuIdentity,
    GpuMemory,
    GpuRemapping,
    GpuUtilization,
    GpuXid,
    NoGpuError,
)
from support.fake_nvml import ANSWERS, Card, FakeNvml, consumer_card, mig_card


def _open(module: Any) -> Nvml:
    nvml = Nvml(module)
    nvml.open()
    return nvml


def _kind(read: Callable[[], object]) -> str:
    """Returns how a reading fails."""
    with pytest.raises(GpuError) as error:
        read()
    return error.value.kind


def test_nvml_answers_become_values_in_base_units() -> None:
    """Percent, milliwatts, megahertz, millijoules and nanoseconds become ratios, watts, hertz, joules and seconds."""
    card = Card(uuid="GPU-x", name="H", processes=[(1, 700), (os.getpid(), 30), (os.getpid(), 12)])
    card.violation_ns = {policy: (policy + 1) * 1_500_000_000 for policy in range(6)}
    card.ecc = {pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED: 8, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED: 3}
    nvml = _open(FakeNvml(card))
    assert nvml.count() == 1
    assert nvml.identity(0) == GpuIdentity(index=0, uuid="GPU-x", name="H", driver="570.1", mig="disabled")
    assert nvml.memory(0) == GpuMemory(used=5000, total=9000)
    assert nvml.process_memory(0) == 42
    assert nvml.utilization(0) == GpuUtilization(gpu=0.5, memory=0.25)
    assert (nvml.temperature(0), nvml.temperature_limit(0)) == (61, 90)
    assert (nvml.power(0), nvml.power_limit(0)) == (250, 350)
    assert [nvml.clock(0, clock) for clock in GPU_CLOCKS] == [1.7e9, 2.6e9]
    assert nvml.energy(0) == 7000
    assert [nvml.throttled(0, reason) for reason in THROTTLE_REASONS] == [1.5, 3, 4.5, 6, 7.5, 9]
    assert [nvml.ecc_errors(0, kind) for kind in ECC_TYPES] == [8, 3]
    assert nvml.remapping(0) == GpuRemapping(pending=False, failed=False)
    card.remap_failed = 1
    assert nvml.remapping(0) == GpuRemapping(pending=False, failed=True)
    card.remap_pending, card.remap_failed = 1, 0
    assert nvml.remapping(0) == GpuRemapping(pending=True, failed=False)


def test_a_divided_card_in_a_container() -> None:
    """Under MIG, utilization is not supported, memory not permitted, and everything else is read."""
    nvml = _open(FakeNvml(mig_card("GPU-m")))
    assert nvml.identity(0).mig == "enabled"
    assert _kind(lambda: nvml.utilization(0)) == "not_supported"
    assert _kind(lambda: nvml.memory(0)) == "no_permission"
    assert _kind(lambda: nvml.process_memory(0)) == "no_permission"
    assert nvml.power(0) == 250


def test_a_consumer_card() -> None:
    """Without MIG, ECC, remapping and violation times, identity and the other readings are there."""
    nvml = _open(FakeNvml(consumer_card("GPU-c")))
    assert nvml.identity(0).mig == "unsupported"
    assert _kind(lambda: nvml.ecc_errors(0, "corrected")) == "not_supported"
    assert _kind(lambda: nvml.remapping(0)) == "not_supported"
    assert _kind(lambda: nvml.throttled(0, "power")) == "not_supported"
    assert nvml.energy(0) == 7000


def test_readings_that_nvml_leaves_open() -> None:
    """A process it does not list has no memory; one without a size and a violation time of all ones are unsupported."""
    card = Card(uuid="GPU-x", processes=[(1, 700)])
    nvml = _open(FakeNvml(card))
    assert nvml.process_memory(0) is None
    card.processes.append((os.getpid(), None))
    assert _kind(lambda: nvml.process_memory(0)) == "not_supported"
    card.violation_ns[pynvml.NVML_PERF_POLICY_THERMAL] = 2**64 - 1
    assert _kind(lambda: nvml.throttled(0, "thermal")) == "not_supported"
    assert nvml.throttled(0, "power") == 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "not_supported"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "not_supported"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no_permission"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "lost"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "lost"),
        (pynvml.NVML_ERROR_TIMEOUT, "timeout"),
        (pynvml.NVML_ERROR_UNKNOWN, "unknown"),
        (12345, "unknown"),
    ],
)
def test_nvml_statuses_become_a_closed_set(status: int, kind: str) -> None:
    """Every status of the driver is one of the label's values, whichever reading it comes from."""
    module = FakeNvml(Card(uuid="GPU-x"))
    nvml = _open(module)
    reads: dict[str, Callable[[], object]] = {
        "nvmlDeviceGetCount": nvml.count,
        "nvmlDeviceGetUUID": lambda: nvml.identity(0),
        "nvmlDeviceGetMemoryInfo": lambda: nvml.memory(0),
        "nvmlDeviceGetPowerUsage": lambda: nvml.power(0),
        "nvmlDeviceGetTotalEnergyConsumption": lambda: nvml.energy(0),
        "nvmlDeviceRegisterEvents": lambda: nvml.watch_xids(0),
    }
    module.fail = dict.fromkeys(reads, status)
    assert {_kind(read) for read in reads.values()} == {kind}
    assert kind in GPU_ERRORS


def test_a_failing_mig_query_is_a_failure() -> None:
    """That MIG cannot be asked for is no answer to whether the card is divided."""
    card = Card(uuid="GPU-x", fail={"nvmlDeviceGetMigMode": pynvml.NVML_ERROR_UNKNOWN})
    nvml = _open(FakeNvml(card))
    assert _kind(lambda: nvml.identity(0)) == "unknown"


def test_xid_errors_are_taken_from_the_queue() -> None:
    """Errors of watched cards come in order and once; other events, and cards that are not watched, do not count."""
    first, second, third = (Card(uuid=f"GPU-{number}") for number in range(3))
    module = FakeNvml(first, second, third)
    nvml = _open(module)
    assert list(nvml.xids()) == []
    nvml.watch_xids(0)
    nvml.watch_xids(2)
    module.report(third, 79)
    module.report(first, 13)
    module.report(second, 48)
    module.report(first, 1, kind=pynvml.nvmlEventTypePState)
    module.report(first, 13)
    expected = [GpuXid(index=2, xid=79), GpuXid(index=0, xid=13), GpuXid(index=0, xid=13)]
    assert list(nvml.xids()) == expected
    assert list(nvml.xids()) == []


def test_a_storm_of_xid_errors_ends_a_call() -> None:
    """One call takes a bounded number of errors, and the next one goes on with the rest."""
    card = Card(uuid="GPU-x")
    module = FakeNvml(card)
    nvml = _open(module)
    nvml.watch_xids(0)
    for _ in range(150):
        module.report(card, 31)
    counts = [len(nvml.xids()) for _ in range(3)]
    assert counts[0] < 150
    assert (sum(counts), counts[2]) == (150, 0)


def test_a_queue_that_fails_keeps_what_was_taken() -> None:
    """When waiting fails because a card is lost, errors before it are returned, and the failure afterwards."""
    card = Card(uuid="GPU-x")
    module = FakeNvml(card)
    nvml = _open(module)
    nvml.watch_xids(0)
    module.report(card, 79)
    module.fail["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert list(nvml.xids()) == [GpuXid(index=0, xid=79)]
    assert _kind(nvml.xids) == "lost"


@pytest.mark.parametrize("status", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_missing_driver_is_no_gpu(status: int) -> None:
    """Neither library nor driver: NoGpuError; any other failure to connect is a GpuError."""
    module = FakeNvml()
    module.fail["nvmlInit"] = status
    with pytest.raises(NoGpuError):
        Nvml(module).open()
    module.fail["nvmlInit"] = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    assert _kind(Nvml(module).open) == "unknown"


def test_closing_never_raises_and_the_next_connection_works() -> None:
    """A connection closes once, without an error even if the driver is gone; a new one has new handles and events."""
    card = Card(uuid="GPU-x")
    module = FakeNvml(card)
    nvml = Nvml(module)
    nvml.close()
    assert module.closed == 0
    nvml.open()
    nvml.watch_xids(0)
    module.fail = dict.fromkeys(("nvmlShutdown", "nvmlEventSetFree"), pynvml.NVML_ERROR_GPU_IS_LOST)
    nvml.close()
    nvml.close()
    module.fail.clear()
    nvml.open()
    nvml.watch_xids(0)
    module.report(card, 31)
    assert list(nvml.xids()) == [GpuXid(index=0, xid=31)]
    nvml.close()
    assert module.closed == 1
    assert _kind(lambda: nvml.memory(0)) == "lost"


class _Without:
    """A pynvml that lacks some functions."""

    def __init__(self, module: FakeNvml, names: Iterable[str]) -> None:
        self._module, self._names = module, frozenset(names)

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(name)
        return getattr(self._module, name)


def test_an_older_pynvml_lacks_functions() -> None:
    """What the module does not have is not supported; a status that it has no name for is unknown."""
    module = FakeNvml(Card(uuid="GPU-x"))
    nvml = _open(_Without(module, ["nvmlDeviceGetRemappedRows", "NVML_ERROR_GPU_NOT_FOUND"]))
    assert _kind(lambda: nvml.remapping(0)) == "not_supported"
    module.fail["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_GPU_NOT_FOUND
    assert _kind(lambda: nvml.power(0)) == "unknown"


def test_a_name_that_is_no_text() -> None:
    """A failing card whose name is garbage fails that reading, not the thread."""

    class Garbled(FakeNvml):
        def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802 - NVML's name
            return b"\xff\xfe".decode()

    nvml = _open(Garbled(Card(uuid="GPU-x")))
    assert _kind(lambda: nvml.identity(0)) == "unknown"


def test_the_real_library_has_what_is_used() -> None:
    """nvidia-ml-py has every function that the fake one stands for, and connects or says that there is no GPU."""
    nvml = Nvml()
    used = [*ANSWERS, *(name for name in dir(FakeNvml) if name.startswith("nvml"))]
    assert {"nvmlDeviceGetPowerUsage", "nvmlEventSetWait_v2"} <= set(used)
    assert [name for name in used if not callable(getattr(pynvml, name, None))] == []
    try:
        nvml.open()
    except NoGpuError:
        return
    assert nvml.count() >= 0
    nvml.close()
