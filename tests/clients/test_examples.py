"""The examples' own programs, as a user runs them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_c_sharp
import tree_sitter_rust

from support.clients.builds import Program, java
from support.clients.paths import EXAMPLES, ROOT
from support.live_server import LiveServer, live_server

COMPILED = ("go", "node", "cpp")
REFUSED = "a cat {base:nan}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the fake model."""
    with live_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def run(
    language: str, program: Program, server: LiveServer, prompt: str, file: Path
) -> subprocess.CompletedProcess[str]:
    """Runs an example's program with seed 7."""
    arguments = {
        "go": ("-address", server.address, "-seed", "7", "-o", str(file), prompt),
        "node": ("--address", server.address, "--seed", "7", "-o", str(file), prompt),
        "cpp": (server.address, prompt, str(file), "7"),
    }
    return subprocess.run(
        [*program.example, *arguments[language]], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("language", COMPILED)
def test_it_shows_progress_and_writes_the_image(
    programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path
) -> None:
    """Standard output has the hash of the file, standard error the plan and steps of both stages."""
    done = run(language, programs[language], server, "a cat", tmp_path / "image.png")
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
    done = run(language, programs[language], server, "", tmp_path / "image.png")
    assert done.returncode == 1
    assert "prompt: " in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "image.png").exists()


@pytest.mark.parametrize("language", COMPILED)
def test_it_explains_a_failure(programs: dict[str, Program], server: LiveServer, language: str, tmp_path: Path) -> None:
    """A generation that fails half-way is told as it is."""
    done = run(language, programs[language], server, REFUSED, tmp_path / "image.png")
    assert done.returncode == 1
    assert "non-finite" in done.stderr


def test_the_java_example_compiles() -> None:
    """Without a warning, against Debian's gRPC; it is not run."""
    assert (java() / "example" / "Generate.class").exists()


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
