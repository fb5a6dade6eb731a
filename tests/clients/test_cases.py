"""Every language runs the same table of calls against real servers, and every answer is what the table says."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from google.protobuf import json_format

from imagegen.v1 import imagegen_pb2 as pb
from support.clients.builds import LANGUAGES, Program
from support.clients.cases import Case, cases
from support.clients.driver import Driver
from support.clients.servers import Servers, Target, occupied
from support.cutting_proxy import cutting_proxy
from support.http_edge import in_front_of
from support.live_server import LiveServer, open_channel
from support.load import generate
from support.waiting import eventually

TABLE = cases()
IDS = itertools.count(1)
PYTHONS_LEAST = 250
"""Milliseconds. gRPC retries for the Python client, which is not told; by itself it would wait at most 240 ms."""


class Runner:
    """Runs cases in any language, each at most once."""

    def __init__(self, servers: Servers, drivers: dict[str, Driver]) -> None:
        self._servers = servers
        self._drivers = drivers
        self._answers: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}

    def answer(self, language: str, case: Case) -> tuple[dict[str, Any], str]:
        """Returns what came of a case in a language, and the request id that it had."""
        key = (language, case.name)
        if key not in self._answers:
            request_id = f"{language}-{next(IDS)}"
            target = self._servers.target(case.server)
            with ExitStack() as stack:
                if case.before:
                    _complete(target, case.before, request_id)
                if case.occupied:
                    assert target.server is not None
                    calls = stack.enter_context(occupied(target.server, case.occupied))
                    if case.freed:
                        _free_when_refused(stack, target.server, calls)
                address = _cut_when_running(stack, target, request_id) if case.cut else target.address
                if case.proxied:
                    address = f"127.0.0.1:{stack.enter_context(in_front_of(address)).port}"
                line = case.line(request_id, address=address, ca=target.ca, key=target.key)
                answer = self._drivers[language].run(line)
            self._answers[key] = answer, request_id
        return self._answers[key]

    def server(self, case: Case) -> LiveServer:
        """Returns the server that a case went to."""
        server = self._servers.target(case.server).server
        assert server is not None
        return server


def _complete(target: Target, request: dict[str, Any], request_id: str) -> None:
    text = json.dumps(request).replace("{id}", request_id)
    with open_channel(target.address) as channel:
        assert generate(channel, json_format.Parse(text, pb.GenerateImageRequest())).ok


def _free_when_refused(stack: ExitStack, server: LiveServer, calls: Any) -> None:
    """Cancels the generations that fill the server as soon as the case has been refused for the first time."""
    before = len(server.log("rejected"))

    def free() -> None:
        eventually(lambda: len(server.log("rejected")) > before, "nothing was refused")
        for call in calls:
            call.cancel()

    thread = threading.Thread(target=free)
    thread.start()
    stack.callback(thread.join)


def _cut_when_running(stack: ExitStack, target: Target, request_id: str) -> str:
    """Returns the address of a proxy, whose connections are reset once the base runs."""
    server = target.server
    assert server is not None
    proxy = stack.enter_context(cutting_proxy(server.port))

    def running() -> bool:
        ended = (line for line in server.log("stage ended") if line["request_id"] == request_id)
        return any(line["stage"] == "text_encode" for line in ended)

    def cut() -> None:
        eventually(running, "the generation does not run")
        proxy.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    stack.callback(thread.join)
    return proxy.target


def _waited(server: LiveServer, request_id: str) -> float:
    """Returns the shortest time in milliseconds between a refusal of a generation and its next attempt, by the log."""
    lines = [line for line in server.log() if line.get("request_id") == request_id]
    attempts = [line for line in lines if line["event"] in ("rejected", "accepted")]
    times = [datetime.fromisoformat(line["timestamp"]) for line in attempts]
    assert len(times) > 1, "it was not refused"
    return min((later - earlier).total_seconds() * 1000 for earlier, later in itertools.pairwise(times))


@pytest.fixture(scope="module")
def runner(programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Every language's driver, and the servers as cases need them."""
    directory = tmp_path_factory.mktemp("clients")
    servers = Servers(directory)
    drivers = {name: Driver(program.driver, directory / f"{name}.log") for name, program in programs.items()}
    yield Runner(servers, drivers)
    for driver in drivers.values():
        driver.close()
    servers.close()


def runs(language: str, case: Case) -> bool:
    """Returns whether a language runs a case."""
    return language not in case.exceptions


@pytest.mark.parametrize(
    ("case", "language"),
    [pytest.param(case, name, id=f"{name}: {case.name}") for case in TABLE for name in LANGUAGES if runs(name, case)],
)
def test_an_answer_is_what_the_table_says(runner: Runner, case: Case, language: str) -> None:
    """The status, its details, the events and the images are as expected, and the server says the same."""
    answer, request_id = runner.answer(language, case)
    assert case.differences(answer, request_id) == [], json.dumps(answer, indent=1)
    if case.logged:
        server = runner.server(case)
        eventually(
            lambda: (
                [line["outcome"] for line in server.log("ended") if line["request_id"] == request_id] == [case.logged]
            ),
            lambda: f"the log does not have {request_id} as {case.logged}",
        )


WAITED = [case for case in TABLE if case.waited]


@pytest.mark.parametrize(
    ("case", "language"), [pytest.param(case, name, id=f"{name}: {case.name}") for case in WAITED for name in LANGUAGES]
)
def test_a_refused_caller_comes_back_when_it_was_told(runner: Runner, case: Case, language: str) -> None:
    """The server sees the next attempt no sooner than its pushback says."""
    answer, request_id = runner.answer(language, case)
    waited = _waited(runner.server(case), request_id)
    told = answer.get("waits_ms") or [PYTHONS_LEAST]
    assert waited >= min(told)


WITH_IMAGES = [case for case in TABLE if case.expect.get("images")]


@pytest.mark.parametrize("case", WITH_IMAGES, ids=lambda case: case.name)
def test_languages_agree_about_the_images(runner: Runner, case: Case) -> None:
    """The same request and seed give the same bytes in every language: as many, with the same SHA-256."""
    hashes = {
        name: [(image["header"]["sha256"], image["bytes"]) for image in runner.answer(name, case)[0]["images"]]
        for name in LANGUAGES
        if runs(name, case)
    }
    assert len(set(map(tuple, hashes.values()))) == 1, hashes
