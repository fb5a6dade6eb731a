"""What the fake runner is told: its times, and the faults that a prompt asks for; see `fake`."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from functools import lru_cache

from imagegen_server.core import Stage
from imagegen_server.errors import DeviceLost, OutOfDeviceMemory, StartupError

CRASH_STATUS = 70
"""Exit status of the process after a `crash` fault (EX_SOFTWARE of sysexits.h)."""

_FAULT = re.compile(
    r"\{(text_encode|base|refiner|vae_decode):(oom|nan|error|lost|crash|stall|tiled)(?:=(\d+(?:\.\d+)?))?(?:@(\d+))?\}"
)


class InjectedError(Exception):
    """What an `error` fault raises."""


@dataclass(kw_only=True, frozen=True, slots=True)
class FakeTiming:
    """How long the fake device takes, in seconds, and what memory it reports."""

    evaluation: float = 0.001
    """Fixed part of a denoising evaluation."""
    row: float = 0.0
    """Added for each row of the batch."""
    text_encode: float = 0.001
    vae_decode: float = 0.001
    peak_memory_bytes: float = 0.0
    """What the device reports as the most memory in use, in bytes; 0 for a device that does not report it."""


def parse_script(text: str) -> FakeTiming:
    """Returns the timing in a JSON object with the names of `FakeTiming`, such as {"evaluation": 0.05}; all optional.

    Raises StartupError that names everything that is wrong.
    """
    try:
        script = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise StartupError(f"the fake script is no JSON: {error}") from error
    names = [field.name for field in fields(FakeTiming)]
    if not isinstance(script, dict):
        raise StartupError(f"the fake script must be a JSON object with any of {', '.join(names)}")
    wrong = [f"{name} is not one of {', '.join(names)}" for name in script if name not in names]
    for name, value in script.items():
        most, unit = (2**50, "bytes") if name == "peak_memory_bytes" else (3600, "seconds")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            wrong.append(f"{name} must be {unit} from 0 to {most}, not {value!r}")
    if wrong:
        raise StartupError("the fake script is wrong: " + "; ".join(wrong))
    return FakeTiming(**script)


@dataclass(kw_only=True, frozen=True, slots=True)
class Fault:
    """What goes wrong at one evaluation of an image."""

    stage: Stage
    kind: str
    """oom, nan, error, lost, crash, stall or tiled."""
    seconds: float
    """Of a stall."""
    evaluation: int
    """Of the stage, from 0."""


@lru_cache(maxsize=256)
def faults_of(prompt: str) -> tuple[Fault, ...]:
    """Returns what a prompt asks for."""
    return tuple(
        Fault(stage=Stage(stage), kind=kind, seconds=float(seconds or 0), evaluation=int(evaluation or 0))
        for stage, kind, seconds, evaluation in _FAULT.findall(prompt)
    )


def raise_for_all(fault: Fault) -> None:
    """Raises what takes the whole batch down."""
    if fault.kind == "oom":
        raise OutOfDeviceMemory(f"out of memory in {fault.stage}")
    if fault.kind == "lost":
        raise DeviceLost(f"device lost in {fault.stage}")
    if fault.kind == "crash":
        os._exit(CRASH_STATUS)
