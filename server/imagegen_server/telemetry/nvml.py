"""NVIDIA's management library behind the GpuLibrary protocol."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagegen_server.telemetry.gpu_library import (
    GpuError,
    GpuIdentity,
    GpuMemory,
    GpuRemapping,
    GpuUtilization,
    GpuXid,
    NoGpuError,
)

_KINDS: Final[Mapping[str, str]] = {
    "NOT_SUPPORTED": "not_supported",
    "FUNCTION_NOT_FOUND": "not_supported",  # a driver older than the function
    "DEPRECATED": "not_supported",
    "ARGUMENT_VERSION_MISMATCH": "not_supported",
    "NO_PERMISSION": "no_permission",
    "GPU_IS_LOST": "lost",
    "GPU_NOT_FOUND": "lost",
    "RESET_REQUIRED": "lost",
    "UNINITIALIZED": "lost",
    "DRIVER_NOT_LOADED": "lost",
    "TIMEOUT": "timeout",
}
"""Statuses, without NVML_ERROR_, to values of closed_sets.GPU_ERRORS; any other is `unknown`."""

_POLICIES: Final[Mapping[str, str]] = {
    "power": "NVML_PERF_POLICY_POWER",
    "thermal": "NVML_PERF_POLICY_THERMAL",
    "sync_boost": "NVML_PERF_POLICY_SYNC_BOOST",
    "board_limit": "NVML_PERF_POLICY_BOARD_LIMIT",
    "low_utilization": "NVML_PERF_POLICY_LOW_UTILIZATION",
    "reliability": "NVML_PERF_POLICY_RELIABILITY",
}
_CLOCKS: Final[Mapping[str, str]] = {"sm": "NVML_CLOCK_SM", "memory": "NVML_CLOCK_MEM"}
_ECC: Final[Mapping[str, str]] = {
    "corrected": "NVML_MEMORY_ERROR_TYPE_CORRECTED",
    "uncorrected": "NVML_MEMORY_ERROR_TYPE_UNCORRECTED",
}
_NOT_AVAILABLE: Final = 2**64 - 1
"""What NVML writes into a counter that it does not keep."""
_WAIT_MS: Final = 1
"""Milliseconds that the driver may look for an event: next to none, since whatever happened before is queued."""
_MOST_EVENTS: Final = 100
"""Events that one call takes, so that a storm of them cannot hold up the other readings."""


class Nvml:
    """Reads GPUs through the `pynvml` module of nvidia-ml-py."""

    def __init__(self, module: Any = None) -> None:
        """Args: module: one with pynvml's functions, constants and errors; pynvml itself if None."""
        self._nvml = module or importlib.import_module("pynvml")
        self._open = False
        self._handles: dict[int, Any] = {}
        self._events: Any = None
        self._watched: dict[int | None, int] = {}
        """Addresses of handles to indices: events come with a handle, which may belong to a GPU that is lost."""
        self._kinds = {getattr(self._nvml, f"NVML_ERROR_{name}", None): kind for name, kind in _KINDS.items()}

    def open(self) -> None:
        """Loads the library and connects to the driver."""
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND, self._nvml.NVML_ERROR_DRIVER_NOT_LOADED):
                raise NoGpuError from error
            raise self._failure(error) from error
        self._open = True

    def count(self) -> int:
        """Returns how many GPUs the driver shows to this process."""
        return int(self._ask("nvmlDeviceGetCount"))

    def identity(self, index: int) -> GpuIdentity:
        """Returns what a GPU is."""
        return GpuIdentity(
            index=index,
            uuid=str(self._of("nvmlDeviceGetUUID", index)),
            name=str(self._of("nvmlDeviceGetName", index)),
            driver=str(self._ask("nvmlSystemGetDriverVersion")),
            mig=self._mig(index),
        )

    def memory(self, index: int) -> GpuMemory:
        """Reads a GPU's memory."""
        memory = self._of("nvmlDeviceGetMemoryInfo", index)
        return GpuMemory(used=int(memory.used), total=int(memory.total))

    def process_memory(self, index: int) -> int | None:
        """Returns the bytes that this process uses, over all instances of a divided GPU.

        None if the driver does not list this process: it has no context there, or another name for itself outside
        its container.
        """
        processes = self._of("nvmlDeviceGetComputeRunningProcesses", index)
        sizes = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
        if None in sizes:
            raise GpuError("not_supported")
        return sum(sizes) if sizes else None

    def utilization(self, index: int) -> GpuUtilization:
        """Reads how busy a GPU is; NVML counts in percent."""
        rates = self._of("nvmlDeviceGetUtilizationRates", index)
        return GpuUtilization(gpu=rates.gpu / 100, memory=rates.memory / 100)

    def temperature(self, index: int) -> float:
        """Returns degrees Celsius."""
        return float(self._of("nvmlDeviceGetTemperature", index, self._nvml.NVML_TEMPERATURE_GPU))

    def temperature_limit(self, index: int) -> float:
        """Returns the degrees Celsius at which clocks are held down."""
        threshold = self._nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return float(self._of("nvmlDeviceGetTemperatureThreshold", index, threshold))

    def power(self, index: int) -> float:
        """Returns the watts that the board draws; NVML counts in milliwatts."""
        return float(self._of("nvmlDeviceGetPowerUsage", index)) / 1000

    def power_limit(self, index: int) -> float:
        """Returns the limit in watts that is enforced."""
        return float(self._of("nvmlDeviceGetEnforcedPowerLimit", index)) / 1000

    def clock(self, index: int, clock: str) -> float:
        """Returns a clock in hertz; NVML counts in megahertz."""
        return float(self._of("nvmlDeviceGetClockInfo", index, getattr(self._nvml, _CLOCKS[clock]))) * 1e6

    def energy(self, index: int) -> float:
        """Returns joules since the driver was loaded; NVML counts in millijoules."""
        return float(self._of("nvmlDeviceGetTotalEnergyConsumption", index)) / 1000

    def throttled(self, index: int, reason: str) -> float:
        """Returns the seconds for which a reason held clocks down; NVML counts in nanoseconds."""
        policy = getattr(self._nvml, _POLICIES[reason])
        nanoseconds = int(self._of("nvmlDeviceGetViolationStatus", index, policy).violationTime)
        if nanoseconds == _NOT_AVAILABLE:
            raise GpuError("not_supported")
        return nanoseconds / 1e9

    def ecc_errors(self, index: int, kind: str) -> int:
        """Returns the memory errors since the driver was loaded: NVML's volatile count, over all memories."""
        counter = self._nvml.NVML_VOLATILE_ECC
        return int(self._of("nvmlDeviceGetTotalEccErrors", index, getattr(self._nvml, _ECC[kind]), counter))

    def remapping(self, index: int) -> GpuRemapping:
        """Returns what became of broken rows (Ampere and later)."""
        _corrected, _uncorrected, pending, failed = self._of("nvmlDeviceGetRemappedRows", index)
        return GpuRemapping(pending=bool(pending), failed=bool(failed))

    def watch_xids(self, index: int) -> None:
        """Begins to listen for a GPU's XID errors."""
        if self._events is None:
            self._events = self._ask("nvmlEventSetCreate")
        self._of("nvmlDeviceRegisterEvents", index, self._nvml.nvmlEventTypeXidCriticalError, self._events)
        self._watched[_address(self._handles[index])] = index

    def xids(self) -> Sequence[GpuXid]:
        """Returns the XID errors that are queued. If the queue fails midway, what was taken from it is returned."""
        found: list[GpuXid] = []
        while len(found) < _MOST_EVENTS and self._events is not None:
            try:
                event = self._ask("nvmlEventSetWait_v2", self._events, _WAIT_MS)
            except GpuError as error:
                if error.kind == "timeout" or found:
                    break
                raise
            index = self._watched.get(_address(event.device))
            if index is not None and event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                found.append(GpuXid(index=index, xid=int(event.eventData)))
        return found

    def close(self) -> None:
        """Disconnects from the driver. A failure changes nothing: the next `open` connects anew."""
        self._handles.clear()
        self._watched.clear()
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(events)
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _mig(self, index: int) -> str:
        """Returns whether the GPU is divided into instances."""
        try:
            current, _pending = self._of("nvmlDeviceGetMigMode", index)
        except GpuError as error:
            if error.kind == "not_supported":
                return "unsupported"
            raise
        return "enabled" if current else "disabled"

    def _of(self, name: str, index: int, *arguments: Any) -> Any:
        """Calls a function of NVML about a GPU."""
        if index not in self._handles:
            self._handles[index] = self._ask("nvmlDeviceGetHandleByIndex", index)
        return self._ask(name, self._handles[index], *arguments)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Calls a function of NVML; raises GpuError."""
        function = getattr(self._nvml, name, None)
        if function is None:  # a pynvml older than the function
            raise GpuError("not_supported")
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise self._failure(error) from error
        except UnicodeDecodeError as error:  # pynvml, when a failing GPU answers with bytes that are no text
            raise GpuError("unknown") from error

    def _failure(self, error: Any) -> GpuError:
        return GpuError(self._kinds.get(error.value, "unknown"))


def _address(handle: Any) -> int | None:
    """Returns what two handles of one GPU have in common: they are pointers, made anew for each event."""
    return ctypes.cast(handle, ctypes.c_void_p).value
