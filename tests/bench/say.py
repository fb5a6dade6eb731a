"""Words for whoever waits for a measurement."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Writes a line to the standard output at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
