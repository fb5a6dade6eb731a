"""The table of cases, and how an answer is compared with what a case expects."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from support.clients.paths import ROOT

TABLE: Final = ROOT / "tests" / "clients" / "cases.json"
ABSENT: Final = "$absent"


@dataclass(kw_only=True, frozen=True, slots=True)
class Case:
    """One row of the table: a call, the conditions under which it is made, and what must come of it."""

    name: str
    expect: dict[str, Any]
    request: dict[str, Any]
    """In the contract's JSON form; `{id}` stands for an id of the run's own."""
    call: str
    server: str
    """A name that `servers.Servers` knows."""
    deadline: float
    """Seconds."""
    attempts: int
    metadata: dict[str, str]
    before: dict[str, Any] = field(default_factory=dict)
    """A request that has completed when the case begins."""
    occupied: int = 0
    """Long generations that are in the server when the case begins."""
    freed: bool = False
    """Whether they are cancelled once the case was refused."""
    waited: bool = False
    """Whether the log must show that the caller came back no sooner than it was told."""
    cut: bool = False
    """Whether the connection is reset while the generation runs."""
    proxied: bool = False
    """Whether Envoy is between the caller and the connection that is reset."""
    stop: dict[str, str] = field(default_factory=dict)
    """After which event the generation is stopped, and by what: the `call` or `CancelGeneration`."""
    logged: str = ""
    """The outcome that the server's log must have for `{id}`."""
    exceptions: dict[str, str] = field(default_factory=dict)
    """Languages that do not run the case, and why."""

    def line(self, request_id: str, *, address: str, ca: str, key: str) -> str:
        """Returns the case as a driver reads it; `{key}` in the metadata is an API key that the server knows."""
        order: dict[str, Any] = {
            "address": address,
            "ca": ca,
            "call": self.call,
            "request": self.request,
            "deadline": self.deadline,
            "attempts": self.attempts,
            "metadata": self.metadata,
        }
        if self.stop:
            order["stop"] = self.stop
        return json.dumps(order).replace("{id}", request_id).replace("{key}", key)

    def differences(self, answer: dict[str, Any], request_id: str) -> list[str]:
        """Returns where an answer is not what the case expects."""
        wanted = json.loads(json.dumps(self.expect).replace("{id}", request_id))
        return _differences(wanted, answer, "answer")


def cases() -> list[Case]:
    """Returns the table's rows."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = [table["defaults"] | row for row in table["cases"]]
    return [Case(**{("exceptions" if key == "except" else key): value for key, value in row.items()}) for row in rows]


def _differences(wanted: Any, found: Any, path: str) -> list[str]:
    """Objects need the wanted keys, events the wanted order; everything else must be equal. `$` begins a condition."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [line for key in wanted for line in _differences(wanted[key], found.get(key, ABSENT), f"{path}.{key}")]
    if path == "answer.events" and wanted:
        found = [event for event in found if event in wanted]
        return [] if sorted(found) == sorted(wanted) and found[0] == wanted[0] else [f"{path} is {found}, not {wanted}"]
    if isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return [f"{path} has {len(found)} parts, not {len(wanted)}: {found}"]
        return [line for i, part in enumerate(wanted) for line in _differences(part, found[i], f"{path}[{i}]")]
    if isinstance(wanted, str) and wanted.startswith("$"):
        return [] if _holds(wanted, found) else [f"{path} is {found!r}, not {wanted}"]
    return [] if wanted == found else [f"{path} is {found!r}, not {wanted!r}"]


def _holds(condition: str, found: Any) -> bool:
    name, *words = condition[1:].split()
    match name:
        case "absent":
            return bool(found == ABSENT)
        case "text":
            return bool(found) and found != ABSENT
        case "positive":
            return isinstance(found, int | float) and found > 0
        case "above":
            return isinstance(found, int | float) and found > int(words[0])
        case "sha256":
            return isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) is not None
        case "fields":
            return sorted(violation["field"] for violation in found) == sorted(words)
    raise ValueError(f"the table has an unknown condition: {condition}")
