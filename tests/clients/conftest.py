"""The compiled examples, for all tests of the clients in other languages."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.clients.builds import LANGUAGES, Program
from support.clients.stubs import stubs
from support.clients.tools import missing


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    """Skips where the compilers are missing; under continuous integration (the variable CI is set) it fails."""
    lacking = missing()
    if lacking:
        text = f"missing: {', '.join(lacking)}; `make test-clients` gets them where it may"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(scope="session")
def programs(_tools: None) -> dict[str, Program]:
    """Every language's programs, compiled now or in an earlier run."""
    stubs()  # which all of them need
    with ThreadPoolExecutor(len(LANGUAGES)) as threads:
        builds = {name: threads.submit(build) for name, build in LANGUAGES.items()}
    return {name: build.result() for name, build in builds.items()}
