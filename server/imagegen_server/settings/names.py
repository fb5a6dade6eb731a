"""How a setting is called on the command line, in the environment and in the help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

PREFIX = "IMAGEGEN_"


def flag(name: str) -> str:
    """Returns the option of a setting: --queue-capacity."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Returns the environment variable of a setting: IMAGEGEN_QUEUE_CAPACITY."""
    return PREFIX + name.upper()


def choices(annotation: Any) -> tuple[str, ...]:
    """Returns the words that a setting of this type may be; none if it is not one of a few words."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def default(field: FieldInfo) -> str:
    """Returns a setting's default as one would write it, or nothing if it is none."""
    if field.default in (None, ""):
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def metavar(annotation: Any) -> str:
    """Returns what stands for a value in the help."""
    if words := choices(annotation):
        return "{" + ",".join(words) + "}"
    kinds = {annotation, *get_args(annotation)}
    return next((name for kind, name in ((Path, "PATH"), (float, "X"), (int, "N")) if kind in kinds), "TEXT")
