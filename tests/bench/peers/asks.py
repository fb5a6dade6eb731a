"""The requests of a load: the same ones, at the same instants, for every system. Pure; seeded; times in seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

SIDES: Final = (64, 128)
"""Pixels; latents of 8x8 and 16x16."""
STEPS: Final = (20, 50)
"""Least and most base steps."""
STRENGTH: Final = 0.3
"""The refiner executes this part of the schedule: of 20 steps 6, of 50 steps 15."""
GUIDANCE: Final = 8.0
_COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "white", "orange")
_SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring")


@dataclass(kw_only=True, frozen=True, slots=True)
class Ask:
    """One request of one caller."""

    key: str
    """Names it in the ledger of the system that serves it."""
    prompt: str
    seed: int
    side: int
    """Pixels."""
    steps: int
    """Base steps; the refiner's follow from STRENGTH."""
    at: float = 0.0
    """When it arrives after the load began; without meaning in a closed loop."""
    leaves_after: float | None = None
    """How long after it was sent its caller goes away; None waits for the image."""

    @property
    def refiner_steps(self) -> int:
        """Executed steps of the refiner, as diffusers counts them for an image-to-image call."""
        return max(1, min(int(self.steps * STRENGTH), self.steps))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-able form that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ask:
        """Returns the request of `to_json`. Raises TypeError for anything else."""
        return cls(**data)


def asks(name: str, count: int, *, mixed: bool, seed: int) -> list[Ask]:
    """Returns `count` requests with prompts of their own: of all sizes and step counts if `mixed`, else all equal."""
    draw = random.Random(f"{name} {seed}")
    return [
        Ask(
            key=f"{name}-{seed}-{index}",
            # no two of a run are alike, so that nobody gains by remembering a prompt
            prompt=f"a {draw.choice(_COLOURS)} {draw.choice(_SHAPES)} on a {draw.choice(_COLOURS)} background, {name} "
            f"{seed} {index}",
            seed=draw.randrange(2**31),
            side=draw.choice(SIDES) if mixed else SIDES[0],
            steps=draw.randint(*STEPS) if mixed else STEPS[0],
        )
        for index in range(count)
    ]


def poisson(like: Sequence[Ask], *, rate: float, seed: int) -> list[Ask]:
    """Returns the requests with arrivals of a Poisson process of `rate` a second. Raises ValueError for rate <= 0."""
    if rate <= 0:
        raise ValueError(f"arrivals need a rate above 0, not {rate}")
    draw, at, placed = random.Random(f"arrivals {seed}"), 0.0, []
    for each in like:
        at += draw.expovariate(rate)
        placed.append(_with(each, at=at))
    return placed


def leaving(like: Sequence[Ask], *, part: float, within: float, seed: int) -> list[Ask]:
    """Returns the requests; the callers of a `part` of them go away at a random time up to `within` after asking."""
    draw = random.Random(f"leaving {seed}")
    gone = set(draw.sample(range(len(like)), round(part * len(like))))
    times = [draw.uniform(0.05 * within, within) for _ in like]
    return [_with(each, leaves_after=times[i]) if i in gone else each for i, each in enumerate(like)]


def _with(ask: Ask, **changes: Any) -> Ask:
    return Ask(**{**asdict(ask), **changes})
