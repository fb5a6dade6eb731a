"""A real `imagegen-server` in a process of its own: started, scraped, looked at from outside, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypedDict

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from imagegen_server.child import ready_child
from support.waiting import SETTLE_SECONDS

COMMAND: Final[tuple[str, ...]] = (sys.executable, "-m", "imagegen_server")
START_SECONDS: Final = 120.0
"""How long a server may take to load before a test gives up on it."""


class Samples:
    """One scrape of /metrics."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, /, **labels: str) -> float:
        """Returns the sum of the series of a name that have these labels; 0 if there is none."""
        wanted = frozenset(labels.items())
        return sum(value for (found, has), value in self._values.items() if found == name and wanted <= has)

    def has(self, name: str, /, **labels: str) -> bool:
        """Returns whether a series of a name has these labels."""
        wanted = frozenset(labels.items())
        return any(found == name and wanted <= has for found, has in self._values)

    def names(self) -> frozenset[tuple[str, frozenset[tuple[str, str]]]]:
        """Returns every series: its name and its labels."""
        return frozenset(self._values)


class Ports(TypedDict):
    """What a server writes into its port file."""

    port: int
    metrics_port: int
    health_port: int | None
    """None without --health-port."""
    images_port: int | None
    """None without --images-port."""


class LiveServer:
    """A server process that serves. Made by `live_server`."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, log: Path) -> None:
        self.process = process
        self.port = ports["port"]
        self.metrics_port = ports["metrics_port"]
        self.health_port = ports["health_port"]
        self.images_port = ports["images_port"]
        self._log = log
        self.directory = log.parent
        """Where the port file and the log are."""
        self._os = psutil.Process(process.pid)

    @property
    def address(self) -> str:
        """host:port of the gRPC server."""
        return f"127.0.0.1:{self.port}"

    def metrics(self) -> Samples:
        """Returns what /metrics says now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            return Samples(answer.read().decode())

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Returns the whole lines logged so far, in order; those of one event if it is named."""
        text = self._log.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [line for line in lines if event is None or line["event"] == event]

    def raw_log(self) -> str:
        """Returns everything the process wrote, for failure messages."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def descriptors(self) -> int:
        """Returns how many file descriptors the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Returns how many threads the process has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def rss(self) -> int:
        """Returns the resident memory in bytes."""
        return int(self._os.memory_info().rss)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = SETTLE_SECONDS) -> int:
        """Returns the exit status. Raises subprocess.TimeoutExpired if there is none in time."""
        return self.process.wait(seconds)

    def idle(self) -> bool:
        """Returns whether nothing is in flight, by the gauges."""
        samples = self.metrics()
        gauges = ("imagegen_requests_in_flight", "imagegen_requests_queued")
        return not any(samples.total(gauge) for gauge in gauges)


@contextmanager
def live_server(directory: Path, *arguments: str, model: str = "fake") -> Iterator[LiveServer]:
    """Starts a server on free ports and kills it afterwards if it still runs.

    Args:
        directory: for the port file and the log.
        arguments: of the command line, in addition to the model and the ports.
        model: the model profile.

    Raises RuntimeError with the log if it does not come to serve.
    """
    port_file, log = directory / "ports.json", directory / "server.log"
    port_file.unlink(missing_ok=True)
    command = [*COMMAND, "--model", model, "--port", "0", "--metrics-port", "0", "--port-file", str(port_file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEGEN_")}
    command += ["--log-format", "json", *arguments]
    with (
        (directory / "server.out").open("wb") as out,
        ready_child(
            command,
            log,
            name="the server",
            ready=port_file.exists,
            start_seconds=START_SECONDS,
            stop_seconds=0,
            failure=RuntimeError,
            stdout=out,
            env=environment,
        ) as process,
    ):
        ports: Ports = json.loads(port_file.read_text(encoding="utf-8"))
        yield LiveServer(process, ports, log)


def open_channel(address: str, *options: tuple[str, Any]) -> grpc.Channel:
    """Returns a channel with a connection of its own; channels of a process otherwise share one."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options])
