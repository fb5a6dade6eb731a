"""What a Dockerfile says, as data: its stages with their instructions."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True, frozen=True, slots=True)
class Stage:
    """What one FROM begins."""

    base: str
    """The image that it is built on, with the global arguments filled in."""
    name: str
    """What `AS` calls it; empty if nothing does."""
    instructions: tuple[tuple[str, str], ...]
    """The instructions after FROM: keyword in capitals, and the rest on one line."""

    def all(self, keyword: str) -> list[str]:
        """Returns what follows each instruction of one kind, in their order."""
        return [rest for found, rest in self.instructions if found == keyword]

    def one(self, keyword: str) -> str:
        """Returns what follows the only instruction of a kind. Raises ValueError if there is none or several."""
        (rest,) = self.all(keyword)
        return rest

    def pairs(self, keyword: str) -> dict[str, str]:
        """Returns the NAME=value pairs of ENV, LABEL or ARG."""
        words = [word for rest in self.all(keyword) for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words if "=" in word)


def exec_form(text: str) -> list[str]:
    """Returns the arguments of an instruction in exec form. Raises ValueError if it is in shell form."""
    arguments: list[str] = json.loads(text)
    return arguments


def read(path: Path) -> list[Stage]:
    """Returns the stages of a Dockerfile, in their order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]
    instructions = [(keyword.upper(), rest) for keyword, _, rest in (line.partition(" ") for line in lines)]
    starts = [index for index, (keyword, _) in enumerate(instructions) if keyword == "FROM"]
    arguments = dict(rest.split("=", 1) for keyword, rest in instructions[: starts[0]] if keyword == "ARG")
    stages = []
    for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True):
        base, _, name = instructions[start][1].partition(" AS ")
        base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
        stages.append(Stage(base=base, name=name, instructions=tuple(instructions[start + 1 : end])))
    return stages
