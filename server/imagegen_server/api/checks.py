"""Collects everything that is wrong with a request, so that its caller learns it all at once."""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.duration_pb2 import Duration

from imagegen_server.errors import Violation

MAX_VIOLATIONS: Final = 64
"""A request has fewer fields; repeated ones must not make the answer grow."""


class Checks:
    """The violations found so far. Descriptions say what is allowed and what was sent, in ASCII."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Everything found, in the order of the checks."""
        return tuple(self._found)

    def add(self, field: str, description: str) -> None:
        """Notes a violation."""
        if len(self._found) < MAX_VIOLATIONS:
            self._found.append(Violation(field=field, description=description))

    def integer(self, field: str, value: int, low: int, high: int) -> None:
        """Requires low <= value <= high."""
        if not low <= value <= high:
            self.add(field, f"must be {low} to {high}, got {value}")

    def number(
        self, field: str, value: float, low: float, high: float, *, above: bool = False, below: bool = False
    ) -> None:
        """Requires a finite number in [low, high]; `above` and `below` exclude the bounds."""
        within = (low < value if above else low <= value) and (value < high if below else value <= high)
        if math.isfinite(value) and within:
            return
        lower = f"above {_exact(low)}" if above else f"at least {_exact(low)}"
        upper = f"below {_exact(high)}" if below else f"at most {_exact(high)}"
        self.add(field, f"must be {lower} and {upper}, got {_exact(value)}")

    def text(self, field: str, value: str, longest: int) -> None:
        """Requires at most `longest` characters."""
        if len(value) > longest:
            self.add(field, f"must have at most {longest} characters, got {len(value)}")

    def enum(self, field: str, value: int, known: frozenset[int]) -> None:
        """Requires a value of the enumeration; unset counts as one."""
        if value not in known:
            self.add(field, f"unknown value {value}")

    def duration(self, field: str, value: Duration, longest: float) -> None:
        """Requires a well-formed duration of 0 to `longest` seconds."""
        seconds, nanos = value.seconds, value.nanos
        if abs(nanos) > 999_999_999 or (seconds > 0 > nanos) or (seconds < 0 < nanos):
            self.add(field, f"is not a valid duration: seconds {seconds}, nanos {nanos}")
        elif not 0 <= seconds + nanos / 1e9 <= longest:
            self.add(field, f"must be 0 to {_exact(longest)} s, got {_exact(seconds + nanos / 1e9)} s")


def _exact(value: float) -> str:
    """Returns the shortest text that stands for a number and for no other: a bound and what is just above it differ."""
    return repr(float(value)).removesuffix(".0")
