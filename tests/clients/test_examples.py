"""The examples' own programs, as a user runs them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import tree_sitter
import tree_sitter_c_sharp
import tree_sitter_rust

import imagegen
from support.clients.builds import Program, java
from support.clients.liar import Liar
from support.clients.paths import EXAMPLES, ROOT, command
from support.clients.tools import DECLARED, JARS
from support.cutting_proxy import cutting_proxy
from support.live_server import LiveServer, live_server
from support.scripted_service import Endless, Refusing, Script, ScriptedService, serving
from support.waiting import eventually

COMPILED = ("go", "node", "cpp")
REFUSED = "a cat {base:nan}"
LATER = 120_000
"""Milliseconds after which a refused caller is told to come back: less than its deadline, more than a test waits."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model."""
    with live_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def command_line(language: str, program: Program, address: str, prompt: str, file: Path, seed: str = "7") -> list[str]:
    """Returns the command line of an example's program."""
    arguments = {
        "go": ("-address", address, "-seed", seed, "-o", str(file), prompt),
        "node": ("--address", address, "--seed", seed, "-o", str(file), prompt),
        "cpp": (address, prompt, str(file), seed),
    }
    return [*program.example, *arguments[language]]


def run(
    language: str, program: Program, address: str, prompt: str, file: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Runs an example's program with seed 7."""
    line = [*command_line(language, program, address, prompt, file), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("language", COMPILED)
def test_it_shows_progress_and_writes_the_image(
    programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path
) -> None:
    """Standard output has the hash of the file, standard error the plan and steps of both stages."""
    done = run(language, programs[language], server.address, "a cat", tmp_path / "image.png")
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "image.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest()
    assert ", seed 7\n" in done.stderr
    assert "STAGE_BASE 50/50" in done.stderr
    assert "STAGE_REFINER 30/30" in done.stderr


@pytest.mark.parametrize("language", COMPILED)
def test_it_explains_a_refusal(programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path) -> None:
    """Every violation is named, the exit status is 1, and no file is written."""
    done = run(language, programs[language], server.address, "", tmp_path / "image.png")
    assert done.returncode == 1
    assert "prompt: " in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "image.png").exists()


@pytest.mark.parametrize("seed", ["seven", "7.5", "", str(2**63)])
@pytest.mark.parametrize("language", COMPILED)
def test_a_seed_that_is_no_number_is_told(
    programs: dict[str, Program], language: str, seed: str, tmp_path: Path
) -> None:
    """By its name, with the status of a wrong command line, before anything is sent."""
    line = command_line(language, programs[language], "localhost:1", "a cat", tmp_path / "image.png", seed)
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "seed" in done.stderr.lower()
    assert "    at " not in done.stderr
    assert "terminate called" not in done.stderr


@pytest.mark.parametrize("language", COMPILED)
def test_it_explains_a_failure(programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path) -> None:
    """A generation that fails half-way is told as it is."""
    done = run(language, programs[language], server.address, REFUSED, tmp_path / "image.png")
    assert done.returncode == 1
    assert "non-finite" in done.stderr


@pytest.mark.parametrize("language", COMPILED)
def test_it_tells_of_a_damaged_image(programs: dict[str, Program], language: str, tmp_path: Path) -> None:
    """An image whose hash is another is not written, and what is told is no stack trace."""
    with serving(Liar()) as liar:
        done = run(language, programs[language], liar.target, "wrong hash", tmp_path / "image.png")
    assert done.returncode == 1
    assert "image 0 is damaged" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "image.png").exists()


@pytest.mark.parametrize("language", COMPILED)
def test_it_fails_if_the_image_cannot_be_written(
    programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path
) -> None:
    """In a directory that does not exist, and on a disk that is full."""
    for file in (tmp_path / "nowhere" / "image.png", Path("/dev/full")):
        done = run(language, programs[language], server.address, "a cat", file)
        assert done.returncode == 1, file
        assert str(file) in done.stderr or "ENOSPC" in done.stderr


def test_the_cpp_example_needs_the_authority_that_it_is_told(
    programs: dict[str, Program], server: LiveServer, tmp_path: Path
) -> None:
    """A file that is not there, or empty, is an error: nothing goes out in plain text for it."""
    (tmp_path / "empty.pem").touch()
    for ca in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        done = run("cpp", programs["cpp"], server.address, "a cat", tmp_path / "image.png", str(ca))
        assert done.returncode == 1
        assert f"cannot read {ca}" in done.stderr
        assert "accepted" not in done.stderr


@pytest.mark.parametrize("language", COMPILED)
@pytest.mark.parametrize(
    "make_script",
    [Endless, lambda: Refusing(9, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", LATER)],
    ids=["queued", "refused for now"],
)
def test_it_can_be_interrupted_while_it_waits(
    programs: dict[str, Program], language: str, make_script: Callable[[], Script], tmp_path: Path
) -> None:
    """Ctrl-C ends the call and the program, without a stack trace, when no event comes and before a new attempt."""
    service = ScriptedService()
    service.script = make_script()
    with serving(service):
        line = command_line(language, programs[language], service.target, "a cat", tmp_path / "image.png")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                eventually(lambda: bool(service.requests), "it does not call")
                time.sleep(0.5)  # the answer is on its way; who is interrupted before it comes must end as well
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 1, errors
        assert service.ended.wait(30)
    assert [line for line in errors.splitlines() if line.startswith("    at ")] == []
    assert len(service.requests) == 1


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model, a generation of seconds."""
    with live_server(tmp_path_factory.mktemp("slow"), '--fake-script={"evaluation": 0.05}') as running:
        yield running


def request_id_of(process: subprocess.Popen[str]) -> str:
    """Returns the id with which the server has accepted an example's generation."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("accepted as "):
            return line.removeprefix("accepted as ").partition(",")[0]
    raise AssertionError("it was not accepted")


@pytest.mark.parametrize("language", COMPILED)
def test_it_goes_on_after_a_broken_connection(
    programs: dict[str, Program], slow: LiveServer, language: str, tmp_path: Path
) -> None:
    """The image arrives as if nothing had happened."""
    with cutting_proxy(slow.port) as proxy:
        line = command_line(language, programs[language], proxy.target, "a cat", tmp_path / "image.png")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                request_id_of(process)
                proxy.cut()
                out, errors = process.communicate(timeout=60)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    assert proxy.connections >= 2
    assert hashlib.sha256((tmp_path / "image.png").read_bytes()).hexdigest() == out.strip()


@pytest.mark.parametrize("language", COMPILED)
def test_ctrl_c_stops_the_generation(
    programs: dict[str, Program], slow: LiveServer, language: str, tmp_path: Path
) -> None:
    """It outlives its connection, but not the wish of who asked for it."""
    line = command_line(language, programs[language], slow.address, "a cat", tmp_path / "image.png")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            request_id = request_id_of(process)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    with imagegen.Client(slow.address) as client:
        cancelled = imagegen.GenerationState.CANCELLED
        eventually(lambda: client.get(request_id).state == cancelled, "it was not stopped")


def test_the_java_example_compiles() -> None:
    """Without a warning, against Debian's gRPC and what else its pom declares; it is not run."""
    pom = (EXAMPLES / "java" / "pom.xml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"<dependency>.*<artifactId>(.+)</artifactId>.*</dependency>", pom)) == sorted(DECLARED)
    assert (java() / "example" / "Generate.class").exists()


def test_the_java_example_cancels_what_it_leaves_early() -> None:
    """A call whose images are damaged on the way is ended, not left to itself."""
    path = os.pathsep.join(map(str, [java(), *JARS]))
    said = command("java", "-cp", path, "LeavesEarly").splitlines()
    assert said == ["a chunk of image 0 is missing", "cancelled"]


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [(tree_sitter_c_sharp, "csharp/*.cs"), (tree_sitter_rust, "rust/src/*.rs")],
    ids=["C#", "Rust"],
)
def test_an_example_that_cannot_be_compiled_here_can_be_read(grammar: object, pattern: str) -> None:
    """Every file follows the language's grammar."""
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))  # type: ignore[attr-defined]
    files = sorted(EXAMPLES.glob(pattern))
    assert len(files) == 3
    assert [path for path in files if parser.parse(path.read_bytes()).root_node.has_error] == []


@pytest.mark.parametrize("language", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_the_documentation_names_every_example(language: str) -> None:
    assert f"examples/{language}" in (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
