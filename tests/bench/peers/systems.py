"""The systems that are compared: how each is started, asked and stopped. One process tree at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from bench.peers.asks import Ask
from bench.peers.callers import GrpcCaller, HttpCaller, ImageGenCaller
from bench.peers.drive import Heard, send
from bench.peers.ledger import VARIABLE, Entry, read
from bench.peers.pipelines import threads
from imagegen_server.child import free_port

PACKAGES: Final = ("imagegen", "torch", "diffusers", "transformers", "grpcio", "ray", "litserve")
HERE: Final = Path(__file__).resolve().parent
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
_ASK_AGAIN: Final = 0.1


class SystemFailedError(Exception):
    """A system did not come to serve."""


@dataclass(kw_only=True, frozen=True, slots=True)
class System:
    """What is compared."""

    name: str
    title: str
    """For readers."""
    script: str
    arguments: tuple[str, ...] = ()
    """Before the port, which comes last."""
    caller: Callable[[str], Any]
    """Makes a client from host:port."""


OURS: Final = System(
    name="imagegen",
    title="ImageGen",
    script="serve_imagegen.py",
    arguments=("--model=shapes", "--max-running=16", "--metrics-port=0", "--log-level=warning", "--port"),
    caller=ImageGenCaller,
)
PEERS: Final = (
    System(name="diffusers", title="diffusers behind a lock (gRPC)", script="serve_lock.py", caller=GrpcCaller),
    System(
        name="ray",
        title="Ray Serve, @serve.batch (gRPC)",
        script="serve_ray.py",
        caller=lambda address: GrpcCaller(address, (("application", "peer"),)),
    ),
    System(name="litserve", title="LitServe, batching (HTTP)", script="serve_litserve.py", caller=HttpCaller),
)
SYSTEMS: Final = (OURS, *PEERS)


class Live:
    """A system that serves."""

    def __init__(self, system: System, process: subprocess.Popen[bytes], caller: Any, ledger: Path) -> None:
        self.system = system
        self.caller = caller
        self.ledger = ledger
        self._process = process
        self._fences = 0

    def entries(self) -> list[Entry]:
        """Returns what the device did so far."""
        return read(self.ledger)

    def memory_bytes(self) -> int:
        """Returns what the tree holds of the machine's memory: shared pages are divided among those who share them."""
        total = 0
        for process in _tree(self._process.pid):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def pids(self) -> tuple[int, ...]:
        """Returns the processes of the tree."""
        return tuple(process.pid for process in _tree(self._process.pid))

    async def fence(self, ask: Ask) -> bytes:
        """Waits until the system has done everything that it was asked before; returns a small image.

        Raises SystemFailedError if it gives none.
        """
        self._fences += 1
        key = f"fence-{self._fences}"
        files: list[bytes] = []
        heard = await send(_Kept(self.caller, files), _named(ask, key))
        if heard.ended is None:
            raise SystemFailedError(f"{self.system.name}: {heard.error or 'no answer'}")
        return files[0]


class _Kept:
    """A caller that keeps the files."""

    def __init__(self, caller: Any, files: list[bytes]) -> None:
        self._caller = caller
        self._files = files

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        file: bytes = await self._caller.ask(ask, progressed)
        self._files.append(file)
        return file


@asynccontextmanager
async def running(system: System, directory: Path, python: str = sys.executable) -> AsyncIterator[Live]:
    """Starts a system on a free port, waits until it has made an image, and stops its whole tree afterwards.

    Args:
        system: which.
        directory: for the ledger and the log; emptied of them before.
        python: the interpreter whose packages are used.

    Raises SystemFailedError, with the end of the log.
    """
    ledger, log = directory / f"{system.name}.ledger", directory / f"{system.name}.log"
    ledger.unlink(missing_ok=True)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEGEN_")}
    environment |= {
        VARIABLE: str(ledger),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": str(threads()),
    }
    process = _start([python, str(HERE / system.script), *system.arguments, str(port)], environment, log)
    address = f"127.0.0.1:{port}"
    live = Live(system, process, system.caller(address), ledger)
    try:
        await _ready(live, process, port, log)
        yield live
    finally:
        await live.caller.close()
        await asyncio.to_thread(_stop, process)


WARM: Final = Ask(key="warm", prompt="a red circle", seed=1, side=64, steps=20)


async def _ready(live: Live, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    began, why = time.monotonic(), ""
    while time.monotonic() - began < START_SECONDS and process.poll() is None:
        if _listens(port):
            try:
                await live.fence(WARM)
            except SystemFailedError as error:  # still loading
                why = str(error)
            else:
                return
        await asyncio.sleep(_ASK_AGAIN)
    raise SystemFailedError(f"{live.system.name} did not serve: {why}\n{_tail(log)}")


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def failures(heard: list[Heard]) -> list[str]:
    """Returns what went wrong, of callers who had not left."""
    return [f"{each.key}: {each.error}" for each in heard if each.ended is None and each.left is None]


def _named(ask: Ask, key: str) -> Ask:
    return Ask(**{**ask.to_json(), "key": key})


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the tree's root to end, then ends what is left of the tree."""
    tree = _tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    for each in tree:
        with suppress(psutil.Error):
            each.kill()
    psutil.wait_procs(tree, STOP_SECONDS)
    process.wait()
