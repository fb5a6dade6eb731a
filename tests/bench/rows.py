"""What is measured: one row for each comparison."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from bench.loads import Paired
from bench.ratios import PairedRatio, paired_ratio


@dataclass(kw_only=True, frozen=True, slots=True)
class Row:
    """One comparison."""

    name: str
    what: str
    """The quantity whose ratio is taken."""
    arms: str
    """As in "C/A": numerator, denominator."""
    ratio: PairedRatio
    numerator: float
    """Median of the samples, in `unit`; depends on the machine."""
    denominator: float
    unit: str
    others: float
    """Cores that other programs kept busy during the most disturbed pair."""
    goal: str = ""
    """What the ratio should be; empty if the row only informs."""


def row(
    name: str,
    *,
    what: str,
    arms: str,
    samples: Paired,
    unit: str,
    goal: str = "",
    scale: float = 1.0,
) -> Row:
    """Returns the row of numerators (first) and denominators (second); `scale` turns them into `unit`."""
    above, below = samples.first, samples.second
    return Row(
        name=name,
        what=what,
        arms=arms,
        ratio=paired_ratio(above, below),
        numerator=median(above) * scale,
        denominator=median(below) * scale,
        unit=unit,
        goal=goal,
        others=samples.others,
    )
