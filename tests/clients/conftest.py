"""The compiled examples, for all tests of the clients in other languages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.clients.builds import LANGUAGES, Program
from support.clients.stubs import stubs
from support.clients.tools import missing
from support.needs import lacking


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    """The compilers."""
    if names := missing():
        lacking(f"missing: {', '.join(names)}; `make test-clients` gets them where it may")


@pytest.fixture(scope="session")
def programs(_tools: None) -> dict[str, Program]:
    """Every language's programs, compiled now or in an earlier run."""
    stubs()  # which all of them need
    with ThreadPoolExecutor(len(LANGUAGES)) as threads:
        builds = {name: threads.submit(build) for name, build in LANGUAGES.items()}
    return {name: build.result() for name, build in builds.items()}
