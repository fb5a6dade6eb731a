"""What is wrong with one GPU, and the lines that the log gets of it.

A fault that ends the process ends its metrics too, mostly before they are scraped: what stays is the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m
from imagegen_server.telemetry.gpu_library import GpuRemapping
from imagegen_server.telemetry.gpu_series import Sample
from imagegen_server.telemetry.logs import Warn

FATAL_XIDS: Final = frozenset({46, 48, 54, 61, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158})
"""XID errors after which a GPU is not well until it is reset, repaired or the machine restarted.

NVIDIA's catalog (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html) gives an immediate action for each
number; these are the ones with RESET_GPU (46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158), RESTART_BM
(79: fallen off the bus), CHECK_MECHANICALS (54: power not connected), and those whose text says that a reset or a
reboot is needed (48: double bit error, 74: NVLink). 61 is unused from Ampere on; NVIDIA's GPU debug guidelines ask
for a reset before. Left out: 155, which intended shutdowns of a link cause too, and what ends with the application
(13, 31, 32, 43, 45, 69, 94) or heals by itself (63, 92).
"""


class GpuFaults:
    """Faults of one GPU since the start, and whether it is well. For one thread.

    Uncorrected memory errors alone do not make it unwell: the driver ends who used the memory and keeps others from
    it, and says by an XID error where that did not work. A row that waits to be replaced does not either: "a pending
    remapping won't affect future work on the GPU" (NVIDIA, nvmlDeviceGetRemappedRows).
    """

    def __init__(self, label: str, uuid: str, warn: Warn) -> None:
        """Args: label: value of the label `gpu`; uuid: the GPU's; warn: hears faults and changes of health."""
        self._label = label
        self._warn = warn
        self._names = {"gpu": label, "uuid": uuid}
        self._xids: Counter[str] = Counter()
        self._fatal: set[int] = set()
        self._uncorrected = 0
        """The driver's count when it was last read."""
        self._remapping: GpuRemapping | None = None
        self._reasons: list[str] = []

    def watch_xids(self) -> None:
        """Shows XID errors from now on, those that have not occurred too."""
        self._xids.update(dict.fromkeys((*closed_sets.XIDS, closed_sets.OTHER_XID), 0))

    def add_xids(self, xids: Sequence[int]) -> None:
        """Counts errors that the driver reported."""
        for xid, count in Counter(xids).items():
            self._xids[str(xid) if str(xid) in closed_sets.XIDS else closed_sets.OTHER_XID] += count
            self._warn("gpu xid", **self._names, xid=xid, count=count)
        self._fatal |= FATAL_XIDS.intersection(xids)

    def read_uncorrected(self, count: int | None) -> None:
        """Takes the driver's count of uncorrected memory errors; None if it could not be read.

        The first one tells of errors from before the start.
        """
        if count is None:
            return
        if count > self._uncorrected:
            self._warn("gpu memory errors", **self._names, uncorrected=count - self._uncorrected)
        self._uncorrected = count

    def read_remapping(self, remapping: GpuRemapping | None) -> None:
        """Takes the state of broken rows; None if it could not be read."""
        pending = self._remapping is not None and self._remapping.pending
        if remapping is not None and remapping.pending and not pending:
            self._warn("gpu memory rows wait for a reset", **self._names)
        self._remapping = remapping

    def judge(self, *, lost: bool) -> None:
        """Decides whether the GPU is well, once everything has been read."""
        reasons = ["lost"] * lost + [f"xid {xid}" for xid in sorted(self._fatal)]
        if self._remapping is not None and self._remapping.failed:
            reasons.append("remapping failed")
        if reasons != self._reasons:
            self._warn("gpu health", **self._names, healthy=not reasons, reasons=reasons)
        self._reasons = reasons

    def samples(self) -> Iterator[Sample]:
        """Yields the health, and XID errors where they were ever watched."""
        yield Sample(metric=m.GPU_HEALTH, labels=(self._label,), value=int(not self._reasons))
        for xid, count in self._xids.items():
            yield Sample(metric=m.GPU_XID_ERRORS, labels=(self._label, xid), value=count)
