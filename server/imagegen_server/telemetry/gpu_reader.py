"""Everything that is read of one GPU, and what is counted of it since the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.energy import EnergyReading
from imagegen_server.telemetry.gpu_faults import GpuFaults
from imagegen_server.telemetry.gpu_library import GpuError, GpuIdentity, GpuLibrary
from imagegen_server.telemetry.gpu_series import Sample
from imagegen_server.telemetry.logs import Warn

_Answer = TypeVar("_Answer")
ErrorCounter = Callable[[str, str], None]
"""Hears the call and the error, of closed_sets.GPU_CALLS and closed_sets.GPU_ERRORS."""


class Calls:
    """Makes the calls to the driver, one at a time: says which is under way, and counts those that fail."""

    def __init__(self, count_error: ErrorCounter, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: count_error: hears every failure; clock: seconds, monotonic."""
        self._count_error = count_error
        self.clock = clock
        self.under_way: tuple[str, float] = ("", clock())
        """The call and when it began; empty between calls."""

    def make(self, call: str, function: Callable[[], _Answer]) -> _Answer:
        """Returns a call's answer; GpuError, counted, if it fails."""
        self.under_way = (call, self.clock())
        try:
            return function()
        except GpuError as error:
            self._count_error(call, error.kind)
            raise
        finally:
            self.under_way = ("", self.clock())


class GrowingTotal:
    """The sum of what a counter of the driver grew by since it was first read.

    The driver's counters begin anew when it is loaded or the GPU is reset; this one never goes down.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self.total = 0.0

    def follow(self, raw: float) -> float:
        """Takes the driver's count and returns the total. A count that went down adds nothing."""
        if self._last is not None and raw > self._last:
            self.total += raw - self._last
        self._last = raw
        return self.total


class GpuReader:
    """Reads one GPU, over as many connections as it takes. For one thread."""

    def __init__(self, library: GpuLibrary, calls: Calls, identity: GpuIdentity, label: str, warn: Warn) -> None:
        """Args: label: value of the label `gpu`, the same over all connections; warn: hears of faults."""
        self._library = library
        self._calls = calls
        self.label = label
        self._identity = identity
        self._unsupported: set[Hashable] = set()
        self._gauges: list[Sample] = []
        self._totals: dict[tuple[m.Metric, tuple[str, ...]], GrowingTotal] = {}
        self._shown: set[tuple[m.Metric, tuple[str, ...]]] = set()
        """Totals that the last poll could read."""
        self._faults = GpuFaults(label, identity.uuid, warn)
        self.watched = False
        """Whether XID errors are listened for in this connection."""
        self.lost = True
        self.energy: EnergyReading | None = None
        """The last reading; None if energy could not be read."""

    @property
    def index(self) -> int:
        """The GPU's index in the connection that is open."""
        return self._identity.index

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return self._identity.uuid

    @property
    def divided(self) -> bool:
        """Whether the GPU is divided into instances (MIG)."""
        return self._identity.mig == "enabled"

    def attach(self, identity: GpuIdentity) -> None:
        """Takes over a new connection, in which nothing is known to be unsupported."""
        self._identity = identity
        self._unsupported.clear()
        self.lost = False
        try:
            self._calls.make("xid", lambda: self._library.watch_xids(self.index))
            self.watched = True
            self._faults.watch_xids()
        except GpuError as error:
            self.watched = False
            if error.kind == "lost":
                self.lose()

    def lose(self) -> None:
        """Notes that the GPU does not answer. What was counted stays; everything else is unknown."""
        self.lost = True
        self._gauges = []
        self.energy = None

    def detach(self) -> None:
        """Notes that the GPU is not in the connection that is open."""
        self.lose()
        self.watched = False

    def add_xids(self, xids: Sequence[int]) -> None:
        """Counts errors that the driver reported."""
        self._faults.add_xids(xids)

    def judge(self) -> None:
        """Decides whether the GPU is well, once a poll has read everything."""
        self._faults.judge(lost=self.lost)

    def read(self) -> None:
        """Reads everything; a GPU that turns out to be lost is noted as such."""
        try:
            watts = self._ask("power", self._library.power)
            self._gauges = list(self._read_gauges(watts))
            self._read_energy(watts)
            self._read_totals()
            self._read_remapping()
        except GpuError:
            self.lose()

    def read_energy(self) -> None:
        """Reads power and energy only, for `energy`."""
        try:
            self._read_energy(self._ask("power", self._library.power))
        except GpuError:
            self.lose()

    def samples(self) -> Iterator[Sample]:
        """Yields every series of the GPU. While it is lost: what it is, that it is not well, and what was counted."""
        gpu = self._identity
        labels = (self.label, gpu.uuid, gpu.name, gpu.driver, gpu.mig)
        yield Sample(metric=m.GPU_INFO, labels=labels, value=1)
        yield from self._faults.samples()
        yield from self._gauges
        for (metric, detail), total in self._totals.items():
            if (metric, detail) in self._shown:
                yield Sample(metric=metric, labels=(self.label, *detail), value=total.total)

    def _read_gauges(self, watts: float | None) -> Iterator[Sample]:
        library = self._library
        memory = self._ask("memory", library.memory)
        utilization = self._ask("utilization", library.utilization)
        readings = (
            (m.GPU_MEMORY_USED, memory.used if memory else None),
            (m.GPU_MEMORY_TOTAL, memory.total if memory else None),
            (m.GPU_MEMORY_PROCESS, self._ask("processes", library.process_memory)),
            (m.GPU_UTILIZATION, utilization.gpu if utilization else None),
            (m.GPU_MEMORY_UTILIZATION, utilization.memory if utilization else None),
            (m.GPU_TEMPERATURE, self._ask("temperature", library.temperature)),
            (m.GPU_TEMPERATURE_LIMIT, self._ask("temperature", library.temperature_limit, "limit")),
            (m.GPU_POWER, watts),
            (m.GPU_POWER_LIMIT, self._ask("power_limit", library.power_limit)),
        )
        for metric, value in readings:
            if value is not None:
                yield Sample(metric=metric, labels=(self.label,), value=value)
        for clock in closed_sets.GPU_CLOCKS:
            hertz = self._ask("clock", partial(library.clock, clock=clock), clock)
            if hertz is not None:
                yield Sample(metric=m.GPU_CLOCK, labels=(self.label, clock), value=hertz)

    def _read_totals(self) -> None:
        library = self._library
        for reason in closed_sets.THROTTLE_REASONS:
            seconds = self._ask("throttle", partial(library.throttled, reason=reason), reason)
            self._follow(m.GPU_THROTTLE, (reason,), seconds)
        for kind in closed_sets.ECC_TYPES:
            errors = self._ask("ecc", partial(library.ecc_errors, kind=kind), kind)
            self._follow(m.GPU_ECC_ERRORS, (kind,), errors)
            if kind == "uncorrected":
                self._faults.read_uncorrected(errors)

    def _read_remapping(self) -> None:
        remapping = self._ask("ecc", self._library.remapping, "remap")
        self._faults.read_remapping(remapping)
        if remapping is not None:
            pending = Sample(metric=m.GPU_REMAP_PENDING, labels=(self.label,), value=int(remapping.pending))
            self._gauges.append(pending)

    def _read_energy(self, watts: float | None) -> None:
        raw = self._ask("energy", self._library.energy)
        at = self._calls.clock()
        self._follow(m.GPU_ENERGY, (), raw)
        self.energy = None
        if raw is not None:
            self.energy = EnergyReading(at=at, joules=self._totals[m.GPU_ENERGY, ()].total, watts=watts)

    def _follow(self, metric: m.Metric, detail: tuple[str, ...], raw: float | None) -> None:
        """Takes a count of the driver, if it could be read."""
        self._shown.discard((metric, detail))
        if raw is not None:
            self._totals.setdefault((metric, detail), GrowingTotal()).follow(raw)
            self._shown.add((metric, detail))

    def _ask(self, call: str, read: Callable[[int], _Answer], detail: str = "") -> _Answer | None:
        """Returns a reading; None if it failed. What is not supported is asked once. Raises GpuError if lost."""
        if (call, detail) in self._unsupported:
            return None
        try:
            return self._calls.make(call, lambda: read(self.index))
        except GpuError as error:
            if error.kind == "lost":
                raise
            if error.kind == "not_supported":
                self._unsupported.add((call, detail))
            return None
