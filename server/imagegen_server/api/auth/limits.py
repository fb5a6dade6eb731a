"""What a tenant may use, and how that is written in files and tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "max_in_flight": (1, 100_000),
    "steps_per_minute": (1, 1e9),
    "burst_steps": (1, 1e9),
    "weight": (0.01, 100),
}
_WHOLE: Final = ("max_in_flight",)


@dataclass(kw_only=True, frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use. None: whatever the default is."""

    max_in_flight: int | None = None
    """Generations queued and running at one time, 1 to 100000."""
    steps_per_minute: float | None = None
    """Denoising steps of all images together, 1 to 1e9."""
    burst_steps: float | None = None
    """Steps that may be used at once after a pause, 1 to 1e9; a minute's if unset."""
    weight: float | None = None
    """Its share of a contended device against that of others, 0.01 to 100."""

    def over(self, defaults: TenantLimits) -> TenantLimits:
        """Returns these limits, with the defaults where there is none."""
        mine = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(defaults, **{name: value for name, value in mine.items() if value is not None})


LIMIT_NAMES: Final = frozenset(_RANGES)
"""The names of the limits in files and tokens."""


def parse_limits(values: Mapping[str, object], wrong: list[str]) -> TenantLimits:
    """Returns the limits among named values; adds to `wrong` a line for each that is out of its range."""
    found: dict[str, float] = {}
    for name, (low, high) in _RANGES.items():
        if values.get(name) is None:
            continue
        number = _number(values[name])
        if number is None or not low <= number <= high or (name in _WHOLE and not number.is_integer()):
            kind = "a whole number" if name in _WHOLE else "a number"
            wrong.append(f"{name}: must be {kind} from {low:g} to {high:g}")
        else:
            found[name] = number
    most = found.pop("max_in_flight", None)
    return TenantLimits(max_in_flight=None if most is None else int(most), **found)


def _number(value: object) -> float | None:
    """Returns a finite number as such; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
