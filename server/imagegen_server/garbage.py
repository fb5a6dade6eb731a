"""Python's search for reference cycles, kept away from what is loaded at the start."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_later() -> Iterator[None]:
    """Searches nothing during the context, nor ever again what it leaves, if searching is on. For imports.

    Hundreds of thousands of objects come with the libraries and stay: to look at all of them again and again, in ever
    longer pauses, takes a tenth of the time from start to serving.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
