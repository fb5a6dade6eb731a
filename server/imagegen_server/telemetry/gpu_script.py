"""The script of simulated GPUs; `simulated_gpu` tells its keys."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imagegen_server.errors import StartupError
from imagegen_server.telemetry import closed_sets


class Curve:
    """A value that changes at given seconds: what it is, and its integral."""

    def __init__(self, points: list[tuple[float, float]]) -> None:
        """Args: points: (second, value from then on), seconds ascending; the first value holds before that too."""
        self._seconds = [second for second, _ in points]
        self._values = [value for _, value in points]

    def at(self, second: float) -> float:
        """Returns the value at a second."""
        return self._values[max(bisect_right(self._seconds, second) - 1, 0)]

    def area(self, start: float, end: float) -> float:
        """Returns the integral between two seconds."""
        cuts = [start, *(second for second in self._seconds if start < second < end), end]
        return sum(self.at(low) * (high - low) for low, high in pairwise(cuts))


def _curve(least: float, most: float) -> BeforeValidator:
    """Returns a check that takes a number, or a list of [second, number], between two bounds."""

    def check(value: object) -> object:
        if isinstance(value, Curve):
            return value
        points: list[Any] = value if isinstance(value, list) else [[0, value]]
        pairs = [point for point in points if isinstance(point, list) and len(point) == 2 and all(map(_number, point))]
        if not points or len(pairs) < len(points):
            raise ValueError("should be a number or a list of [second, number]")
        seconds = [second for second, _ in pairs]
        if seconds != sorted(seconds) or seconds[0] < 0:
            raise ValueError("should have its seconds in ascending order, from 0 on")
        if not all(least <= number <= most for _, number in pairs):
            raise ValueError(f"should be from {least:g} to {most:g}")
        return Curve([(float(second), float(number)) for second, number in pairs])

    return BeforeValidator(check)


def _one_of(values: Collection[str]) -> AfterValidator:
    """Returns a check for a closed set."""

    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"should be one of {', '.join(values)}")
        return value

    return AfterValidator(check)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


Amount = Annotated[Curve, _curve(0, 1e15)]
Degrees = Annotated[Curve, _curve(-100, 1000)]
Ratio = Annotated[Curve, _curve(0, 1)]
Call = Annotated[str, _one_of([call for call in closed_sets.GPU_CALLS if call != "allocator"])]
Error = Annotated[str, _one_of(closed_sets.GPU_ERRORS)]
Reason = Annotated[str, _one_of(closed_sets.THROTTLE_REASONS)]
EccType = Annotated[str, _one_of(closed_sets.ECC_TYPES)]
Second = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Absence(_Part):
    """When a GPU is lost."""

    start: Second = Field(alias="from")
    until: Second | None = None

    def covers(self, second: float) -> bool:
        """Returns whether the GPU is lost at a second."""
        return self.start <= second and (self.until is None or second < self.until)


class Hang(_Part):
    """When a call does not return."""

    call: Call
    start: Second = Field(alias="from")
    seconds: Second | None = Field(None, alias="for")


class GpuScript(_Part):
    """What one GPU is and does."""

    uuid: str = Field("", max_length=96)
    name: str = "Simulated GPU"
    mig: Literal["enabled", "disabled", "unsupported"] = "disabled"
    memory_total: Amount = Curve([(0, 24 * 2.0**30)])
    memory_used: Amount = Curve([(0, 15 * 2.0**30)])
    memory_process: Amount | None = Curve([(0, 14 * 2.0**30)])
    utilization: Ratio = Curve([(0, 0.9)])
    memory_utilization: Ratio = Curve([(0, 0.6)])
    temperature: Degrees = Curve([(0, 65)])
    temperature_limit: Degrees = Curve([(0, 90)])
    power: Amount = Curve([(0, 300)])
    power_limit: Amount = Curve([(0, 350)])
    clock_sm: Amount = Curve([(0, 1.7e9)])
    clock_memory: Amount = Curve([(0, 1.2e9)])
    throttle: dict[Reason, Ratio] = {}
    ecc: dict[EccType, Amount] = {}
    xids: list[tuple[Second, Annotated[int, Field(ge=1, le=9999)]]] = []
    remap_failed: bool = False
    remap_pending: bool = False
    errors: dict[Call, Error] = {}
    lost: Absence | None = None
    counters_reset: list[Second] = []


class AllocatorScript(_Part):
    """What torch's allocator reports."""

    allocated_bytes: Amount = Curve([(0, 9 * 2.0**30)])
    reserved_bytes: Amount = Curve([(0, 12 * 2.0**30)])
    allocated_peak_bytes: Amount = Curve([(0, 11 * 2.0**30)])
    inactive_split_bytes: Amount = Curve([(0, 2.0**29)])
    alloc_retries: Amount = Curve([(0, 0)])
    ooms: Amount = Curve([(0, 0)])


class MachineScript(GpuScript):
    """What a machine has; a GPU's keys at this level hold for all of its GPUs."""

    driver: str | None = "simulated"
    gpus: Annotated[list[dict[str, Any]], Field(max_length=64)] = [{}]
    hang: Hang | None = None
    allocator: AllocatorScript | None = AllocatorScript()

    def each_gpu(self) -> tuple[GpuScript, ...]:
        """Returns the GPUs with what holds for all of them; pydantic's ValidationError for one that is wrong."""
        shared = self.model_fields_set & set(GpuScript.model_fields)
        common = {name: getattr(self, name) for name in shared}
        return tuple(GpuScript.model_validate(common | own) for own in self.gpus)


def parse_gpu_script(text: str) -> MachineScript:
    """Returns what a JSON object says; all keys are optional.

    Raises StartupError that names everything that is wrong.
    """
    try:
        script = MachineScript.model_validate(json.loads(text))
        wrong = []
        for number, own in enumerate(script.gpus):
            try:
                if "init" in GpuScript.model_validate(own).errors:
                    wrong.append(f"gpus.{number}.errors.init: fails for the machine, not for one GPU")
            except ValidationError as error:
                wrong += _violations(error, f"gpus.{number}.")
    except json.JSONDecodeError as error:
        raise StartupError(f"the GPU script is no JSON: {error}") from None
    except ValidationError as error:
        wrong = _violations(error)
    if wrong:
        raise StartupError("the GPU script is wrong: " + "; ".join(wrong))
    return script


def _violations(error: ValidationError, prefix: str = "") -> list[str]:
    """Returns a line for each value that is wrong."""
    lines = []
    for found in error.errors():
        where = prefix + ".".join(str(part) for part in found["loc"])
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            message = "is no key of the script"
        lines.append(f"{where or 'the whole'}: {message}")
    return lines
