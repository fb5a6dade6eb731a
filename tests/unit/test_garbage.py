"""What is imported at the start is not searched for garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from imagegen_server.garbage import collected_later


class Knot:
    """Refers to itself, so that only a search frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Leaves the collector as it was."""
    yield
    gc.enable()
    gc.unfreeze()


def test_what_the_context_leaves_is_never_searched_again() -> None:
    with collected_later():
        assert not gc.isenabled()
        kept = weakref.ref(Knot())
    later = weakref.ref(Knot())
    assert gc.isenabled()
    gc.collect()
    assert kept() is not None
    assert later() is None


def test_the_collector_goes_on_after_a_failed_import() -> None:
    with pytest.raises(ImportError), collected_later():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off_and_nothing_is_frozen() -> None:
    gc.disable()
    before = gc.get_freeze_count()
    with collected_later():
        kept = weakref.ref(Knot())
    assert not gc.isenabled()
    assert gc.get_freeze_count() == before
    gc.collect()
    assert kept() is None
