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
        value = values.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (name in _WHOLE and value != int(value)):  # type: ignore[operator,call-overload] # a number by now
            kind = "a whole number" if name in _WHOLE else "a number"
            wrong.append(f"{name}: must be {kind} from {low:g} to {high:g}")
        else:
            found[name] = int(value) if name in _WHOLE else float(value)  # type: ignore[call-overload,arg-type] # as above
    return TenantLimits(**found)  # type: ignore[arg-type] # max_in_flight is whole
