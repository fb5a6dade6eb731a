"""GPU readings, taken apart from everything that must not wait.

The driver is polled on a thread of its own: when it hangs, that thread hangs, and a scrape still answers at once with
`collector_up` 0 and without readings. What a device does not support is an absent series and a counted error, never 0.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.registry import Collector

from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.energy import EnergyMeter
from imagegen_server.telemetry.gpu_library import GpuLibrary
from imagegen_server.telemetry.gpu_poller import GpuPoller
from imagegen_server.telemetry.gpu_reader import Calls, ErrorCounter
from imagegen_server.telemetry.gpu_series import GPU_METRICS, Family, Sample, families, family
from imagegen_server.telemetry.logs import Warn, say_nothing

_STALE: Final = 3
"""Intervals after which readings are not shown any more."""
_LONGEST_DELAY: Final = 12
"""Most polls between attempts to connect anew."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Snapshot:
    """What the last poll that ended has to show."""

    at: float
    up: bool
    families: tuple[Family, ...]


class GpuCollector(Collector):
    """Polls in the background and answers scrapes from the last poll.

    Where it is known which GPU the process computes on, the machine's others belong to other processes: nothing is read
    or shown of them.
    """

    def __init__(
        self,
        library: GpuLibrary,
        count_error: ErrorCounter,
        *,
        warn: Warn = say_nothing,
        interval: float = 5.0,
        energy_interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares, and reads nothing before `start`.

        Args:
            library: where readings come from.
            count_error: hears every reading that failed.
            warn: hears every fault of a GPU and every change of its health, as an event and its fields.
            interval: seconds between polls, above 0. Readings older than three intervals are not shown.
            energy_interval: seconds between readings of the energy, above 0; as often as everything else if it is
                longer than `interval`.
            clock: seconds, monotonic.
        """
        self._count_error = count_error
        self._interval = interval
        self._ticks = max(1, round(interval / energy_interval))
        """Readings of energy in one interval."""
        self._clock = clock
        self._calls = Calls(count_error, clock)
        self._gpus = GpuPoller(library, self._calls, warn)
        self._energy = EnergyMeter(max_age=_STALE * interval, clock=clock)
        self._snapshot = _Snapshot(at=clock(), up=False, families=())
        self._reporting = threading.Lock()
        self._reported: tuple[str, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-collector", daemon=True)

    def start(self, uuid: str | None) -> None:
        """Begins to poll. Once.

        Args:
            uuid: of the GPU that the process computes on, which alone is polled. Where no GPU has it, it is taken for
                that of an instance: of every GPU that is divided, since the driver does not tell which one it is on.
                Empty: it is the first one, and all are polled. None: it is no GPU, and all are polled.
        """
        self._gpus.uuid = uuid
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Ends polling, after a last poll; a thread that hangs in the driver is left behind after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def energy_joules(self) -> float | None:
        """Returns the joules that the GPU has used since its first reading. Waits for nothing.

        None before the start, and if it is no GPU, does not count energy, is an instance, is lost, or was not read for
        three intervals. Differences between two calls are right over many of them; a single one is extrapolated with
        the last power. For one thread.
        """
        return self._energy.read()

    def describe(self) -> Iterator[Family]:
        """Yields the names, without reading anything."""
        for metric in GPU_METRICS:
            yield family(metric)

    def collect(self) -> Iterator[Family]:
        """Yields the last readings, if they are fresh."""
        snapshot = self._snapshot
        self._report_hang()
        fresh = self._clock() - snapshot.at <= _STALE * self._interval
        yield from families([Sample(metric=m.GPU_COLLECTOR_UP, labels=(), value=int(fresh and snapshot.up))])
        if fresh:
            yield from snapshot.families

    def _report_hang(self) -> None:
        """Counts a call that has been under way for three intervals, once."""
        call = self._calls.under_way
        if not call[0] or self._clock() - call[1] <= _STALE * self._interval:
            return
        with self._reporting:  # of the scrapes, which do nothing else with it
            known, self._reported = self._reported == call, call
        if not known:
            self._count_error(call[0], "timeout")

    def _run(self) -> None:
        """Polls until stopped, and connects anew, less and less often, while the GPU is lost.

        Ends at once where there is no GPU. A last poll tells of the fault for which the process may be ending.
        """
        delay = 1
        while not self._stop.is_set() and self._gpus.connect():
            left = delay
            while left and not self._stop.is_set():
                self._gpus.poll()
                self._publish()
                self._wait()
                left, delay = (1, 1) if self._gpus.complete else (left - 1, delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        self._gpus.poll()
        self._gpus.disconnect()

    def _publish(self) -> None:
        """Lets scrapes and the energy's reader see the last poll."""
        self._meter()
        shown = families(self._gpus.samples())
        self._snapshot = _Snapshot(at=self._clock(), up=self._gpus.answering, families=shown)

    def _wait(self) -> None:
        """Waits until the next poll, reading the energy meanwhile."""
        for tick in range(self._ticks):
            reader = self._gpus.served
            if tick and reader is not None and not reader.lost:
                reader.read_energy()
                self._meter()
            if self._stop.wait(self._interval / self._ticks):
                return

    def _meter(self) -> None:
        """Hands the energy that was read to its meter."""
        reader = self._gpus.served
        reading = None if reader is None else reader.energy
        if reading is None:
            self._energy.clear()
        else:
            self._energy.update(reading)
