"""From the command line and the environment to settings, or to a line for everything that is wrong."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from imagegen_server.settings.names import PREFIX, default, flag, metavar, variable
from imagegen_server.settings.settings import GROUPS, Settings

_COMMANDS = ("serve", "doctor", "tune")
_ALL_COMMANDS = (*_COMMANDS, "top", "key")
"""Those included that have options of their own."""
_SERVICE_LINKS = ("tcp://", "udp://")
_CLIENTS = f"{PREFIX}SERVER"
"""The variable that `imagegen` reads, on the same machine perhaps. Its keys belong to no server: those are told."""


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of this process.

    Args:
        argv: arguments without the program's name; the process's own if None.
        environ: the environment; the process's own if None.

    Raises SystemExit: 0 for --help and --version, 2 after listing on standard error everything that is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    environment = os.environ if environ is None else environ
    command = arguments.pop(0) if arguments and arguments[0] in _COMMANDS else "serve"
    parser = _parser()
    chosen, unknown = parser.parse_known_args(arguments)
    wrong = _unknown(unknown, arguments)
    try:
        settings = Settings.model_validate(_from_environment(environment) | vars(chosen) | {"command": command})
    except ValidationError as error:
        wrong += _violations(error)
    if wrong:
        parser.exit(2, "imagegen-server: wrong settings:\n" + "".join(f"  {line}\n" for line in wrong))
    return settings


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Returns the variables that look like settings and are none, sorted: a typing error, or another program's.

    What Kubernetes adds for a Service named imagegen is left out, and where the client finds its server.
    """
    environment = os.environ if environ is None else environ
    known = {_CLIENTS, *(variable(name) for group in GROUPS for name in group.model_fields)}
    ours = (name for name in environment if name.startswith(PREFIX) and name not in known)
    return tuple(sorted(name for name in ours if not re.match(rf"{PREFIX}(SERVICE|PORT)_", name)))


def _parser() -> argparse.ArgumentParser:
    """Returns a parser that leaves the checking of values to the model, so that all are checked."""
    parser = argparse.ArgumentParser(
        prog="imagegen-server",
        usage="%(prog)s [serve | doctor | tune | top | key] [options]",
        description="Serves Stable Diffusion XL over gRPC. `doctor` prints device, precision and memory plan instead, "
        "`tune` measures how the model runs fastest on this device and keeps that for the server, "
        "`top` shows in a terminal what a running server does (`top --help`), `key` makes an API key (`key --help`). "
        f"Every option can be set as a variable too: --port as {PREFIX}PORT.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    version = importlib.metadata.version("imagegen")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    for group in GROUPS:
        section = parser.add_argument_group(str(group.__doc__))
        for name, field in group.model_fields.items():
            shown = f" (default: {default(field)})" if default(field) else ""
            text = f"{field.description}{shown}".replace("%", "%%")
            if field.annotation is bool:
                section.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text)
            else:
                section.add_argument(flag(name), metavar=metavar(field.annotation), help=text)
    return parser


def _unknown(unknown: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns a line for each argument that means nothing, and none for the value of an option that does not exist."""
    lines = []
    pairs = set(itertools.pairwise(arguments))
    for before, argument in itertools.pairwise(["", *unknown]):
        if argument.startswith("-"):
            lines.append(f"{argument}: no such option{_meant(argument)}")
        elif before.startswith("-") and "=" not in before and (before, argument) in pairs:
            continue
        elif argument in _ALL_COMMANDS:
            lines.append(f"{argument}: a command is the first word")
        elif argument == arguments[0]:
            lines.append(f"{argument} is no command: {', '.join(_ALL_COMMANDS[:-1])} or {_ALL_COMMANDS[-1]}")
        else:
            lines.append(f"{argument}: belongs to no option")
    return lines


def _meant(argument: str) -> str:
    """Returns a question for the option that is written most like the argument, if one is like it."""
    known = [flag(name) for group in GROUPS for name in group.model_fields]
    close = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings among the variables.

    A Kubernetes Service named imagegen puts IMAGEGEN_PORT=tcp://ADDRESS:PORT into the pods beside it. That is no
    setting.
    """
    values = {name: environ.get(variable(name), "") for name in Settings.model_fields if name != "command"}
    return {name: value for name, value in values.items() if value and not value.startswith(_SERVICE_LINKS)}


def _violations(error: ValidationError) -> list[str]:
    """Returns a line for each value that is wrong."""
    lines = []
    for found in error.errors():
        name = str(found["loc"][0])
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"{flag(name)} ({variable(name)}): {message}; got {found['input']!r}")
    return lines
