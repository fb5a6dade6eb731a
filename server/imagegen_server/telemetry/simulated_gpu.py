"""GPUs without hardware: readings, losses and hangs on demand.

It ships so that dashboards, alerts and the reaction to a failing GPU can be tried on any machine:

    imagegen-server --model fake --gpu-script '{"temperature": [[0, 60], [30, 93]], "xids": [[40, 79]]}'

An empty script reads the real driver, `{}` is one GPU that is well. Seconds count from the server's start. A number
may also be a list of [second, number]: the number holds from that second on.

Keys of a GPU:

    uuid, name, mig              mig: enabled, disabled, unsupported
    memory_total, memory_used    bytes
    memory_process               bytes of this process; null: the driver does not list it
    utilization, memory_utilization     0 to 1
    temperature, temperature_limit      degrees Celsius
    power, power_limit           watts; the energy is the integral of `power`
    clock_sm, clock_memory       hertz
    throttle                     {"thermal": 0.5}: the share of time for which a reason holds clocks down; reasons:
                                 power, thermal, sync_boost, board_limit, low_utilization, reliability
    ecc                          {"uncorrected": [[0, 0], [20, 1]]}: the driver's count; also `corrected`
    xids                         [[20, 79]]: XID errors, as [second, number]
    remap_failed                 true: a row of memory could not be replaced
    remap_pending                true: a row of memory waits for a reset, which replaces it
    errors                       {"memory": "no_permission"}: calls that fail and how: not_supported, no_permission,
                                 lost, timeout, unknown. Calls: devices, memory, processes, utilization, temperature,
                                 power, power_limit, clock, energy, throttle, ecc, xid
    lost                         {"from": 20, "until": 60}: the GPU does not answer; for good without `until`
    counters_reset               [30]: seconds at which energy, throttle and ecc begin anew at 0

Keys of the machine:

    gpus                         [{}, {"power": 100}]: the keys of each GPU; those beside `gpus` hold for all of them.
                                 All are shown; the energy of generations is the first one's
    driver                       its version; null: there is no driver
    errors                       as above; `init` fails for all GPUs
    hang                         {"call": "memory", "from": 20, "for": 60}: a call that does not return; never without
                                 `for`
    allocator                    torch's figures: allocated_bytes, reserved_bytes, allocated_peak_bytes,
                                 inactive_split_bytes, alloc_retries, ooms; null: none
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from imagegen_server.telemetry.allocator import ALLOCATOR_KEYS
from imagegen_server.telemetry.gpu_library import (
    GpuError,
    GpuIdentity,
    GpuMemory,
    GpuRemapping,
    GpuUtilization,
    GpuXid,
    NoGpuError,
)
from imagegen_server.telemetry.gpu_script import Curve, GpuScript, MachineScript


def _wait(seconds: float | None) -> None:
    """Waits for some seconds, or for ever."""
    threading.Event().wait(seconds)


class SimulatedGpu:
    """Implements the GpuLibrary protocol, and torch's allocator, from a script."""

    def __init__(
        self,
        script: MachineScript,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float | None], None] = _wait,
    ) -> None:
        """Begins the script.

        Args:
            script: what happens when; see the module.
            clock: seconds, monotonic.
            wait: spends the seconds of a hang, None for one without an end.
        """
        self._script = script
        self._gpus = script.each_gpu()
        self._clock = clock
        self._wait = wait
        self._began = clock()
        self._watched: dict[int, float] = {}
        """GPUs whose XID errors are listened for, and the second up to which they were told."""
        self._known: set[int] = set()
        """GPUs whose XID errors were ever listened for."""

    def open(self) -> None:
        """See the protocol."""
        self._hang("init")
        if self._script.driver is None:
            raise NoGpuError
        if "init" in self._script.errors:
            raise GpuError(self._script.errors["init"])

    def count(self) -> int:
        """See the protocol."""
        self._hang("devices")
        return len(self._gpus)

    def identity(self, index: int) -> GpuIdentity:
        """See the protocol."""
        gpu = self._gpu("devices", index)
        return GpuIdentity(
            index=index,
            uuid=gpu.uuid or f"GPU-00000000-0000-0000-0000-{index:012x}",
            name=gpu.name,
            driver=self._script.driver or "",
            mig=gpu.mig,
        )

    def memory(self, index: int) -> GpuMemory:
        """See the protocol."""
        gpu, now = self._gpu("memory", index), self._now()
        return GpuMemory(used=int(gpu.memory_used.at(now)), total=int(gpu.memory_total.at(now)))

    def process_memory(self, index: int) -> int | None:
        """See the protocol."""
        memory = self._gpu("processes", index).memory_process
        return None if memory is None else int(memory.at(self._now()))

    def utilization(self, index: int) -> GpuUtilization:
        """See the protocol."""
        gpu, now = self._gpu("utilization", index), self._now()
        return GpuUtilization(gpu=gpu.utilization.at(now), memory=gpu.memory_utilization.at(now))

    def temperature(self, index: int) -> float:
        """See the protocol."""
        return self._gpu("temperature", index).temperature.at(self._now())

    def temperature_limit(self, index: int) -> float:
        """See the protocol."""
        return self._gpu("temperature", index).temperature_limit.at(self._now())

    def power(self, index: int) -> float:
        """See the protocol."""
        return self._gpu("power", index).power.at(self._now())

    def power_limit(self, index: int) -> float:
        """See the protocol."""
        return self._gpu("power_limit", index).power_limit.at(self._now())

    def clock(self, index: int, clock: str) -> float:
        """See the protocol."""
        gpu = self._gpu("clock", index)
        return (gpu.clock_sm if clock == "sm" else gpu.clock_memory).at(self._now())

    def energy(self, index: int) -> float:
        """See the protocol."""
        return self._area(index, self._gpu("energy", index).power)

    def throttled(self, index: int, reason: str) -> float:
        """See the protocol."""
        share = self._gpu("throttle", index).throttle.get(reason)
        return 0.0 if share is None else self._area(index, share)

    def ecc_errors(self, index: int, kind: str) -> int:
        """See the protocol."""
        count = self._gpu("ecc", index).ecc.get(kind)
        if count is None:
            return 0
        reset = self._reset(index)
        return int(count.at(self._now()) - (count.at(reset) if reset else 0))

    def remapping(self, index: int) -> GpuRemapping:
        """See the protocol."""
        gpu = self._gpu("ecc", index)
        return GpuRemapping(pending=gpu.remap_pending, failed=gpu.remap_failed)

    def watch_xids(self, index: int) -> None:
        """See the protocol. The first time, errors from second 0 on are told; later those after the call."""
        self._gpu("xid", index)
        self._watched[index] = self._now() if index in self._known else -1.0
        self._known.add(index)

    def xids(self) -> Sequence[GpuXid]:
        """See the protocol."""
        self._hang("xid")
        now = self._now()
        found = [
            GpuXid(index=index, xid=xid)
            for index, told in self._watched.items()
            for second, xid in self._gpus[index].xids
            if told < second <= now
        ]
        self._watched = dict.fromkeys(self._watched, now)
        return found

    def close(self) -> None:
        """See the protocol."""
        self._watched.clear()

    def allocator_stats(self) -> Mapping[str, int]:
        """Returns the allocator's figures under the keys of `models.allocator_stats`."""
        script, now = self._script.allocator, self._now()
        if script is None:
            return {}
        return {key: int(getattr(script, key).at(now)) for key in ALLOCATOR_KEYS.values()}

    def _now(self) -> float:
        return self._clock() - self._began

    def _gpu(self, call: str, index: int) -> GpuScript:
        """Returns a GPU that is asked something, if it answers."""
        self._hang(call)
        gpu = self._gpus[index]
        if gpu.lost is not None and gpu.lost.covers(self._now()):
            raise GpuError("lost")
        if call in gpu.errors:
            raise GpuError(gpu.errors[call])
        return gpu

    def _hang(self, call: str) -> None:
        """Does not return while the call hangs."""
        hang, now = self._script.hang, self._now()
        if hang is None or hang.call != call or now < hang.start:
            return
        if hang.seconds is None:
            self._wait(None)
        elif now < hang.start + hang.seconds:
            self._wait(hang.start + hang.seconds - now)

    def _reset(self, index: int) -> float:
        """Returns the second at which the driver's counters last began."""
        return max((second for second in self._gpus[index].counters_reset if second <= self._now()), default=0.0)

    def _area(self, index: int, curve: Curve) -> float:
        return curve.area(self._reset(index), self._now())
