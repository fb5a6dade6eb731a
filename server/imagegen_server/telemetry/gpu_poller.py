"""The GPU that a process computes on, among those of a machine and over connections that end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from imagegen_server.telemetry.gpu_library import GpuError, GpuIdentity, GpuLibrary, NoGpuError
from imagegen_server.telemetry.gpu_reader import Calls, GpuReader
from imagegen_server.telemetry.gpu_series import Sample
from imagegen_server.telemetry.logs import Warn, say_nothing


class GpuPoller:
    """Connects, reads what is to be shown, and knows a GPU again after the connection was made anew. For one thread.

    A GPU is known by its UUID, and keeps its label `gpu` even if losing another one moves its index. Of GPUs that are
    not shown nothing is asked but what they are.
    """

    def __init__(self, library: GpuLibrary, calls: Calls, warn: Warn = say_nothing) -> None:
        """Args: calls: makes the calls to `library`; warn: hears of faults."""
        self._library = library
        self._calls = calls
        self._warn = warn
        self._readers: dict[str, GpuReader] = {}
        self._open = False
        self.uuid: str | None = None
        """Of the GPU that is served; empty for the first one; None if none is."""

    def connect(self) -> bool:
        """Ends the connection, if there is one, and makes a new one; False if there is no GPU and never was."""
        self._read_xids()
        self.disconnect()
        self._open = True
        try:
            self._calls.make("init", self._library.open)
            count = self._calls.make("devices", self._library.count)
        except NoGpuError:
            self._attach({})
            return bool(self._readers)
        except GpuError:
            self._attach({})
            return True
        self._attach({found.uuid: found for found in self._identities(count)})
        return bool(count or self._readers)

    def disconnect(self) -> None:
        """Ends the connection; without effect if there is none."""
        if self._open:
            self._open = False
            self._calls.make("init", self._library.close)

    def poll(self) -> None:
        """Reads everything that can be read."""
        for reader in self.shown:
            if not reader.lost:
                reader.read()
        self._read_xids()  # last, so that the reason for a loss is read with it
        for reader in self.shown:
            reader.judge()

    @property
    def complete(self) -> bool:
        """Whether there is a GPU to show, and it answers: each of them, where there are several."""
        return bool(self.shown) and not any(reader.lost for reader in self.shown)

    @property
    def answering(self) -> bool:
        """Whether any GPU that is shown answers."""
        return not all(reader.lost for reader in self.shown)

    @property
    def served(self) -> GpuReader | None:
        """The GPU that is served; None if none is, it was never seen, or only an instance of it is served."""
        if self.uuid is None:
            return None
        return self._readers.get(self.uuid) if self.uuid else next(iter(self._readers.values()), None)

    @property
    def shown(self) -> tuple[GpuReader, ...]:
        """The GPU whose UUID is known; where none has it every divided one; all of them where no UUID is known."""
        readers = tuple(self._readers.values())
        if not self.uuid:
            return readers
        if self.served is not None:
            return (self.served,)
        return tuple(reader for reader in readers if reader.divided)

    def samples(self) -> Iterator[Sample]:
        """Yields the series of what is shown."""
        for reader in self.shown:
            yield from reader.samples()

    def _identities(self, count: int) -> Iterator[GpuIdentity]:
        """Yields the GPUs that say what they are."""
        for index in range(count):
            try:
                yield self._calls.make("devices", partial(self._library.identity, index))
            except GpuError:
                continue

    def _attach(self, found: dict[str, GpuIdentity]) -> None:
        """Hands the new connection to what is shown of the GPUs in it; a GPU that is not in it is lost."""
        for uuid, identity in found.items():
            if uuid not in self._readers:
                label = self._free_label(identity.index)
                self._readers[uuid] = GpuReader(self._library, self._calls, identity, label, self._warn)
        for reader in self.shown:
            if reader.uuid in found:
                reader.attach(found[reader.uuid])
            else:
                reader.detach()

    def _free_label(self, index: int) -> str:
        """Returns the index, or the next number that no other GPU has as its label."""
        taken = {reader.label for reader in self._readers.values()}
        while str(index) in taken:
            index += 1
        return str(index)

    def _read_xids(self) -> None:
        """Counts the XID errors that were reported since the last poll."""
        watched = {reader.index: reader for reader in self.shown if reader.watched}
        if not watched:
            return
        try:
            found = self._calls.make("xid", self._library.xids)
        except GpuError:
            return  # counted; a GPU that is lost shows in its own readings
        for index, reader in watched.items():
            reader.add_xids([error.xid for error in found if error.index == index])
