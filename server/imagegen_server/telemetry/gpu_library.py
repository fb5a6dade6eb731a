"""What a GPU can be asked: the seam between the collector and whatever reads the hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class NoGpuError(Exception):
    """There is no GPU, or no driver for it."""


class GpuError(Exception):
    """A reading failed."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
        """One of closed_sets.GPU_ERRORS."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuIdentity:
    """What does not change while the driver is loaded."""

    index: int
    uuid: str
    """As the driver writes it: GPU- and five groups of hexadecimal digits."""
    name: str
    driver: str
    mig: str
    """enabled, disabled or unsupported."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuMemory:
    """Device memory in bytes."""

    used: int
    """By all processes, the driver's own share included: total less used is free."""
    total: int


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuUtilization:
    """Shares of the driver's last sample period, 0 to 1."""

    gpu: float
    """With a kernel running."""
    memory: float
    """With device memory read or written."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuXid:
    """An error that the driver reported."""

    index: int
    """Of the GPU, in the connection that is open."""
    xid: int
    """Its number in NVIDIA's catalog of XID errors."""


@dataclass(kw_only=True, frozen=True, slots=True)
class GpuRemapping:
    """Broken rows of a GPU's memory, which spare ones replace."""

    pending: bool
    """Whether a row waits to be replaced, which the next reset does."""
    failed: bool
    """Whether a row could not be replaced."""


class GpuLibrary(Protocol):
    """Reads GPUs. Called from one thread; any call may block.

    Every call but `close` raises GpuError, and each may fail alone. An index is valid until `close`: a GPU that is
    lost may be missing from the next connection, and the others then move up.
    """

    def open(self) -> None:
        """Connects to the driver. Raises NoGpuError if there is none."""
        ...

    def count(self) -> int:
        """Returns the number of GPUs, 0 or more."""
        ...

    def identity(self, index: int) -> GpuIdentity:
        """Returns what a GPU is."""
        ...

    def memory(self, index: int) -> GpuMemory:
        """Reads a GPU's memory."""
        ...

    def process_memory(self, index: int) -> int | None:
        """Returns the bytes that this process uses; None if the driver lists no such process."""
        ...

    def utilization(self, index: int) -> GpuUtilization:
        """Reads how busy a GPU is."""
        ...

    def temperature(self, index: int) -> float:
        """Returns degrees Celsius."""
        ...

    def temperature_limit(self, index: int) -> float:
        """Returns the degrees Celsius at which clocks are held down."""
        ...

    def power(self, index: int) -> float:
        """Returns the watts that the board draws."""
        ...

    def power_limit(self, index: int) -> float:
        """Returns the limit in watts that is enforced."""
        ...

    def clock(self, index: int, clock: str) -> float:
        """Returns the hertz of a clock of closed_sets.GPU_CLOCKS."""
        ...

    def energy(self, index: int) -> float:
        """Returns joules since the driver was loaded."""
        ...

    def throttled(self, index: int, reason: str) -> float:
        """Returns seconds, since some beginning, for which one of closed_sets.THROTTLE_REASONS held clocks down."""
        ...

    def ecc_errors(self, index: int, kind: str) -> int:
        """Returns the memory errors of a type of closed_sets.ECC_TYPES since the driver was loaded."""
        ...

    def remapping(self, index: int) -> GpuRemapping:
        """Returns what became of broken rows of memory."""
        ...

    def watch_xids(self, index: int) -> None:
        """Begins to listen for a GPU's XID errors; ends with `close`."""
        ...

    def xids(self) -> Sequence[GpuXid]:
        """Returns the XID errors since the last call, of the GPUs that are watched. Does not wait for any."""
        ...

    def close(self) -> None:
        """Disconnects; without effect if not connected. Raises nothing."""
        ...
