"""The servers of the table, each started when a case first needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import trustme

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub
from imagegen_server.api import new_key
from support.certificates import write
from support.clients.liar import Liar
from support.live_server import LiveServer, live_server, open_channel
from support.ports import closed_port
from support.scripted_service import serving
from support.waiting import eventually

STEP: Final = 0.05
"""Seconds of an evaluation on the busy server."""
LONG: Final = pb.GenerateImageRequest(
    prompt="long", num_inference_steps=100, refiner=pb.RefinerOptions(num_inference_steps=100)
)
"""Ten seconds of work on the busy server."""

ARGUMENTS: Final = {
    "main": (),
    "bare": ("--no-use-refiner",),
    "busy": ("--max-running", "1", "--queue-capacity", "1", "--fake-script", f'{{"evaluation": {STEP}}}'),
    "draining": ("--grace-period", "600", "--fake-script", '{"evaluation": 0.2}'),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a case goes."""

    address: str
    ca: str = ""
    """Path of the authority's certificate; plain text if empty."""
    server: LiveServer | None = None
    key: str = ""
    """An API key that the server knows."""


class Servers:
    """Starts what the cases need, once each, and stops it all at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._targets: dict[str, Target] = {}
        self._stack = ExitStack()

    def target(self, name: str) -> Target:
        """Returns a server by the name that the table uses, started if need be."""
        if name not in self._targets:
            self._targets[name] = self._start(name)
        return self._targets[name]

    def close(self) -> None:
        """Stops every server."""
        self._stack.close()

    def _start(self, name: str) -> Target:
        if name == "none":
            return Target(f"127.0.0.1:{self._stack.enter_context(closed_port())}")
        if name == "stranger":
            return Target(self.target("tls").address, self._authority(trustme.CA(), name))
        if name == "liar":
            return Target(self._stack.enter_context(serving(Liar())).target)
        if name == "tls":
            return self._start_tls()
        if name == "keys":
            return self._start_with_keys()
        server = self._live(name, *ARGUMENTS[name])
        if name == "draining":
            self._drain(server)
        return Target(server.address, server=server)

    def _live(self, name: str, *arguments: str) -> LiveServer:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        # debug: no refusal is left out of the log, however many there are
        return self._stack.enter_context(live_server(directory, *arguments, "--log-level", "debug"))

    def _start_tls(self) -> Target:
        authority = trustme.CA()
        ca = self._authority(authority, "tls")
        certificate, key = write(authority.issue_cert("127.0.0.1", "localhost"), self._directory / "tls")
        server = self._live("tls", "--tls-certificate", str(certificate), "--tls-key", str(key))
        return Target(server.address, ca, server)

    def _start_with_keys(self) -> Target:
        key, line = new_key("alice")
        file = self._directory / "keys.jsonl"
        file.write_text(f"{line}\n")
        server = self._live("keys", f"--api-keys={file}", "--auth-policy=info=role:auditor")
        return Target(server.address, server=server, key=key)

    def _authority(self, authority: trustme.CA, name: str) -> str:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        authority.cert_pem.write_to_path(directory / "ca.crt")
        return str(directory / "ca.crt")

    def _drain(self, server: LiveServer) -> None:
        """Lets a server have work to the end of the tests, and tells it to stop."""
        channel = self._stack.enter_context(open_channel(server.address))
        call = _long(channel, running=True)
        self._stack.callback(call.cancel)
        server.terminate()
        eventually(lambda: bool(server.log("draining")) or bool(server.log("signal")), "the server does not drain")


@contextmanager
def occupied(server: LiveServer, generations: int) -> Iterator[Sequence[grpc.Call]]:
    """Puts long generations into a server, and takes them out at the end if they are still there."""
    with open_channel(server.address) as channel:
        calls = []
        for number in range(generations):
            calls.append(_long(channel, running=number == 0))
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()
            eventually(server.idle, "the long generations did not end")


def _long(channel: grpc.Channel, *, running: bool) -> grpc.Call:
    """Returns the call of a long generation that has been admitted, or that has the device."""
    call = ImageGenStub(channel).GenerateImage(LONG)
    wanted = "step_progress" if running else "accepted"
    assert any(event.WhichOneof("event") == wanted for event in call)
    return call
