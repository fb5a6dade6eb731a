"""What is measured, in which order, and how much of it fits into the time. Pure; times in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bench.peers.asks import Ask, asks, leaving, poisson

START: Final = 12.0
"""What starting, warming up and stopping a system is taken to cost."""
LOADS: Final = (0.5, 0.8, 0.95)
"""Arrivals, as parts of the best peer's capacity."""
LEAVERS: Final = 0.5
"""The part of the callers that leaves, in the load where some do."""
PATIENCE: Final = 1.0
"""A caller that leaves does so within so many times what one image takes the best peer at capacity: before most images,
of whichever system, so that there is something to waste."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Load:
    """One kind of load."""

    name: str
    mixed: bool
    """20 to 50 steps and both sizes; otherwise all requests are alike."""
    in_flight: int = 0
    """Callers of a closed loop; 0 for arrivals."""
    part: float = 0.0
    """Rate of arrivals, as a part of the best peer's capacity."""
    leave: bool = False
    count: int
    """Requests of one block, before it is fitted to the time."""

    @property
    def least(self) -> int:
        """Fewest requests that make a block: in a closed loop callers ask again, else the last to end decide alone."""
        return max(3, 2 * self.in_flight)

    def size(self, scale: float) -> int:
        """Returns how many requests a block has if the counts are multiplied with `scale`."""
        return max(self.least, round(self.count * scale))


def loads() -> tuple[Load, ...]:
    """Returns every load, in the order in which a visit to a system puts them on it."""
    found = []
    # Most arrivals at the highest load: a queue takes its time to grow.
    for mixed, closed, arriving in ((True, (3, 6, 12, 20), (16, 28, 40)), (False, (4, 8, 16, 16), (6, 6, 6))):
        kind = "mixed" if mixed else "equal"
        found += [
            Load(name=f"{kind}, {n} in flight", mixed=mixed, in_flight=n, count=count)
            for n, count in zip((1, 4, 8, 16), closed, strict=True)
        ]
        found += [
            Load(name=f"{kind}, arrivals at {part:g}", mixed=mixed, part=part, count=count)
            for part, count in zip(LOADS, arriving, strict=True)
        ]
    found.append(Load(name="mixed, callers leave", mixed=True, part=0.8, leave=True, count=20))
    return tuple(found)


def visits(systems: tuple[str, ...], rounds: int) -> Iterator[tuple[int, str]]:
    """Yields block number and system: A B C D D C B A, again and again.

    Each system comes twice in a round. A drift of the machine's speed that is linear in time cancels out.
    """
    for turn in range(rounds):
        for number, order in ((2 * turn, systems), (2 * turn + 1, systems[::-1])):
            for system in order:
                yield number, system


def requests(load: Load, block: int, *, capacity: float, scale: float) -> list[Ask]:
    """Returns the requests of a block: the same for every system.

    Args:
        load: which load.
        block: its number; every block has requests of its own.
        capacity: the best peer's images per second with requests of this kind.
        scale: what the counts are multiplied with.
    """
    made = asks(load.name.replace(", ", "-").replace(" ", "-"), load.size(scale), mixed=load.mixed, seed=block)
    if load.part:
        made = poisson(made, rate=load.part * capacity, seed=block)
    if load.leave:
        made = leaving(made, part=LEAVERS, within=PATIENCE / capacity, seed=block)
    return made


def scale_for(seconds: float, capacities: Mapping[bool, float], *, systems: int, rounds: int) -> float:
    """Returns what to multiply the counts with, so that the measurement takes about `seconds`; 0.2 to 4.

    `capacities` are the best peer's, for mixed requests (True) and equal ones. The others are slower, ImageGen is
    faster: the estimate counts every system as taking half as long again as the best peer.
    """

    def visit(scale: float) -> float:
        rates = {load: capacities[load.mixed] * (load.part or min(1.0, 0.5 + load.in_flight / 8)) for load in loads()}
        return 1.5 * sum(load.size(scale) / rate for load, rate in rates.items())

    left = seconds / (2 * rounds * systems) - START
    scales = [step / 50 for step in range(10, 201)]
    return max((scale for scale in scales if visit(scale) <= left), default=scales[0])
