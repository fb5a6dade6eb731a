"""All GPUs of a machine, over connections that end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from imagegen_server.telemetry.gpu_library import GpuError, GpuIdentity, GpuLibrary, NoGpuError
from imagegen_server.telemetry.gpu_reader import Calls, GpuReader
from imagegen_server.telemetry.gpu_series import Sample


class GpuPoller:
    """Connects, reads every GPU, and knows a GPU again after the connection was made anew. For one thread.

    A GPU is known by its UUID, and keeps its label `gpu` even if losing another one moves its index.
    """

    def __init__(self, library: GpuLibrary, calls: Calls) -> None:
        """Args: calls: makes the calls to `library`."""
        self._library = library
        self._calls = calls
        self._readers: dict[str, GpuReader] = {}
        self._open = False

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
        for reader in self._readers.values():
            if not reader.lost:
                reader.read()
        self._read_xids()  # last, so that the reason for a loss is read with it

    @property
    def complete(self) -> bool:
        """Whether there are GPUs and all of them answer."""
        return bool(self._readers) and not any(reader.lost for reader in self._readers.values())

    @property
    def answering(self) -> bool:
        """Whether any GPU answers."""
        return not all(reader.lost for reader in self._readers.values())

    def find(self, uuid: str) -> GpuReader | None:
        """Returns a GPU by its UUID, the first one for the empty string; None if it was never seen."""
        return self._readers.get(uuid) if uuid else next(iter(self._readers.values()), None)

    def samples(self) -> Iterator[Sample]:
        """Yields the series of all GPUs that were ever seen."""
        for reader in self._readers.values():
            yield from reader.samples()

    def _identities(self, count: int) -> Iterator[GpuIdentity]:
        """Yields the GPUs that say what they are."""
        for index in range(count):
            try:
                yield self._calls.make("devices", partial(self._library.identity, index))
            except GpuError:
                continue

    def _attach(self, found: dict[str, GpuIdentity]) -> None:
        """Hands the new connection to the GPUs in it; the others are lost."""
        for uuid, reader in self._readers.items():
            if uuid not in found:
                reader.detach()
        for uuid, identity in found.items():
            if uuid not in self._readers:
                label = self._free_label(identity.index)
                self._readers[uuid] = GpuReader(self._library, self._calls, identity, label)
            self._readers[uuid].attach(identity)

    def _free_label(self, index: int) -> str:
        """Returns the index, or the next number that no other GPU has as its label."""
        taken = {reader.label for reader in self._readers.values()}
        while str(index) in taken:
            index += 1
        return str(index)

    def _read_xids(self) -> None:
        """Counts the XID errors that were reported since the last poll."""
        watched = {reader.index: reader for reader in self._readers.values() if reader.watched}
        if not watched:
            return
        try:
            found = self._calls.make("xid", self._library.xids)
        except GpuError:
            return  # counted; a GPU that is lost shows in its own readings
        for error in found:
            if error.index in watched:
                watched[error.index].count_xid(error.xid)
