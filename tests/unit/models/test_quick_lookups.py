"""Lookups that are quick while libraries are imported give the answers of the usual ones."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Mapping
from types import FrameType

import pytest

from imagegen_server.models.imports.lookups import quick_lookups


def _frame() -> FrameType:
    frame = inspect.currentframe()
    assert frame is not None
    return frame


def test_a_frame_has_the_same_module_file_and_line() -> None:
    frame = _frame()
    module, told = inspect.getmodule(frame), inspect.getframeinfo(frame)
    with quick_lookups():
        assert inspect.getmodule(frame) is module is sys.modules[__name__]
        quick = inspect.getframeinfo(frame)
    assert quick[:3] == told[:3]
    assert told.code_context
    assert quick.code_context is None


@pytest.mark.parametrize("asked", [pytest, _frame, FrameType, pytest.MonkeyPatch.setattr, 7, _frame.__code__])
def test_what_is_no_frame_has_the_same_module(asked: object) -> None:
    module = inspect.getmodule(asked)
    with quick_lookups():
        assert inspect.getmodule(asked) is module


@pytest.mark.parametrize("name", [__name__, "pytest", "no.such.module", None])
def test_a_frame_of_code_that_is_no_module_is_looked_for_as_usual(name: str | None) -> None:
    """It may call itself what it likes."""
    space: dict[str, object] = {"inspect": inspect} | ({} if name is None else {"__name__": name})
    exec("frame = inspect.currentframe()", space)  # noqa: S102 - a frame of no module
    module = inspect.getmodule(space["frame"])
    with quick_lookups():
        assert inspect.getmodule(space["frame"]) is module


def test_distributions_are_listed_when_the_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.packages_distributions
    looked: list[int] = []

    def look() -> Mapping[str, list[str]]:
        looked.append(1)
        return real()

    monkeypatch.setattr(importlib.metadata, "packages_distributions", look)
    with quick_lookups():
        late = importlib.metadata.packages_distributions()
        other = importlib.metadata.packages_distributions()
        assert not looked
        assert late["pytest"] == ["pytest"]
        assert "no_such_package" not in other
    assert dict(late) == dict(real())
    assert len(other) == len(real())
    assert len(looked) == 1


def test_everything_is_as_it_was_afterwards() -> None:
    def functions() -> tuple[object, ...]:
        return inspect.getframeinfo, inspect.getmodule, importlib.metadata.packages_distributions

    before = functions()
    with pytest.raises(ImportError), quick_lookups():
        raise ImportError
    assert functions() == before


def test_torch_notes_the_same_sources_of_its_functions() -> None:
    """What torch keeps of the lookups: file and line of each registration, which it names in its complaints."""
    program = """
import contextlib, json, sys
from imagegen_server.models.imports.lookups import quick_lookups
with quick_lookups() if sys.argv[1] == "quick" else contextlib.nullcontext():
    import torch
entries = torch._library.simple_registry.singleton._data
print(json.dumps({n: e.fake_impl.kernels[0].source for n, e in entries.items() if e.fake_impl.kernels}))
"""
    told = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, how], capture_output=True, text=True, check=True
        ).stdout
        for how in ("quick", "usual")
    ]
    assert told[0] == told[1]
    assert "/torch/" in told[0]
