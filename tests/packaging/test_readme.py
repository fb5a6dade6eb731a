"""The README is true: its code runs, its tables are fresh, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen_server.api.status import Reason
from imagegen_server.errors import QuotaReason, UnavailableReason
from support.live_server import live_server
from support.readme import README, renewed
from support.reasons import CALLS
from support.reasons import renewed as renewed_calls

ROOT = README.parent
TEXT = README.read_text(encoding="utf-8")


def test_generated_tables_are_fresh() -> None:
    """Settings and memory table are what the code says; `PYTHONPATH=tests python -m support.readme` renews them."""
    assert renewed(TEXT) == TEXT


def test_the_table_of_reasons_is_fresh() -> None:
    """Every reason that an error can have is there, as the server writes it; `make calls-reference` renews it."""
    text = CALLS.read_text(encoding="utf-8")
    assert renewed_calls(text) == text
    every = {*Reason, *QuotaReason, *UnavailableReason}
    assert set(re.findall(r"^\| [A-Z_]+ \| `([A-Z_]+)` \|", text, re.MULTILINE)) == {str(reason) for reason in every}


def test_the_streaming_call_works_as_written(tmp_path: Path) -> None:
    """The Python example runs against a server, prints steps of both stages and writes the image; it is short."""
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(block.strip().splitlines()) <= 10
    with live_server(tmp_path) as server:
        code = block.replace("localhost:50051", server.address)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert "base 50/50" in done.stdout
    assert "refiner 30/30" in done.stdout
    assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT).as_posix() for p in [README, *ROOT.glob("docs/**/*.md")]))
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of the README and the documentation names a file."""
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert missing == []


def test_modules_that_are_to_be_run_exist() -> None:
    """Every `python -m` of ours, in comments too, is a module, or a package that can be run."""
    pages = [README, ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.*")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    named = {name for text in texts for name in re.findall(r"-m (imagegen[\w.]*\w)", text)}
    assert "imagegen_server.models.memory.table" in named
    missing = []
    for name in sorted(named):
        spec = importlib.util.find_spec(name)
        if spec is None or (spec.submodule_search_locations and importlib.util.find_spec(f"{name}.__main__") is None):
            missing.append(name)
    assert missing == []


def test_nobody_is_sent_to_another_project() -> None:
    """On PyPI `imagegen` is one: what we tell people to install is a checkout, or a URL."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name.endswith((".py", ".md", ".toml", ".yaml"))]
    wrong = re.compile(r"pip install (?:-\S+ )*['\"]?imagegen(?! @)\b")
    assert [str(file) for file in files if file.is_file() and wrong.search(file.read_text(encoding="utf-8"))] == []


def test_make_targets_exist() -> None:
    """Every `make` command of the README and CONTRIBUTING is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = re.findall(r"(?:`|^\s*)make ([a-z-]+)", TEXT + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= targets
