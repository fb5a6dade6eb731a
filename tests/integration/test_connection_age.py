"""An aged connection is made anew, which is how clients find servers that came later, and costs no call."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import psutil

from support.live_server import LiveServer, live_server, open_channel
from support.load import generate, request, slow_steps
from support.waiting import eventually


def _local_ports(server: LiveServer) -> set[int]:
    """Returns the ports from which this process is connected to the server."""
    connections = psutil.Process().net_connections("tcp")
    return {found.laddr.port for found in connections if found.raddr and found.raddr.port == server.port}


def test_connections_age_and_calls_go_on(tmp_path: Path) -> None:
    """A generation outlives its connection's age several times over, and the channel then has another connection."""
    with live_server(tmp_path, "--max-connection-age", "0.5") as server, open_channel(server.address) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        first = _local_ports(server)
        began = time.monotonic()
        ended = generate(channel, request("a cat" + slow_steps(0.1, base=20)))
        assert ended.ok, ended.details
        assert time.monotonic() - began > 1.0
        assert generate(channel, request()).ok
        eventually(lambda: not first & _local_ports(server), "another connection")
