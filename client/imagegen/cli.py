"""The command line: `imagegen generate|watch|get|cancel|models|info`. `imagegen --help` has the exit codes.

Results go to the standard output, progress and errors to the standard error stream; so do results where the image has
the standard output.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from imagegen._access import PlaintextError
from imagegen._channel import UNARY_TIMEOUT
from imagegen._cli_access import access_options, somebody_listens, tls_options, watch_command
from imagegen._cli_failure import Circumstances, ExitCode, exit_code, failure_json, failure_text
from imagegen._cli_generate import Following, Generate, Watch
from imagegen._cli_output import OutputError, complain, flush, say
from imagegen._cli_parser import UsageError, parse
from imagegen._cli_report import (
    found_json,
    found_text,
    generation_json,
    generation_text,
    info_text,
    models_text,
)
from imagegen._client import Client
from imagegen.errors import ImageGenError, UnreachableError


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Runs one command and returns the exit code. The arguments default to those of the process."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words, os.environ if environment is None else environment)
    except OutputError as error:
        if not error.unread:  # that was somebody's choice
            complain(f"imagegen: {error}")
        return ExitCode.FAILED


def _run(words: Sequence[str], variables: Mapping[str, str]) -> int:
    try:
        arguments = parse(words, variables)
        commands: dict[str, type[Generate | Watch]] = {"generate": Generate, "watch": Watch}
        following = commands[arguments.command](arguments) if arguments.command in commands else None
    except SystemExit:  # --help or --version
        flush()
        raise
    except UsageError as error:
        _fail(error, ExitCode.USAGE, f"{error.usage}imagegen: {error}", as_json="--json" in words)
        return ExitCode.USAGE
    try:
        with _client(arguments, variables) as client:
            result, text = _follow(following, client) if following else _ask(arguments, client)
        tell = complain if following and following.piped else say
        tell(json.dumps(result) if arguments.json else text)
    except (ImageGenError, UsageError, OSError, KeyboardInterrupt) as error:
        return _report(error, arguments, following)
    return ExitCode.OK


def _client(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Client:
    options = access_options(arguments, environment)
    if arguments.command in ("generate", "watch"):
        options["timeout"] = arguments.timeout
    try:
        return Client(arguments.server, **options)
    except PlaintextError as error:
        raise UsageError(
            f"a key or a token would travel to {arguments.server} in plain text: use --tls or --ca FILE, "
            "or say --allow-plaintext-credentials"
        ) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _follow(following: Following, client: Client) -> tuple[dict[str, Any], str]:
    completed = following.run(client, sys.stderr)
    return generation_json(completed, following.files), generation_text(completed, following.files)


def _ask(arguments: argparse.Namespace, client: Client) -> tuple[dict[str, Any], str]:
    """Runs a command that asks the server one question."""
    if arguments.command == "models":
        models = client.models()
        return {"models": [dataclasses.asdict(model) for model in models]}, models_text(models)
    if arguments.command == "info":
        info = client.server_info()
        return dataclasses.asdict(info), info_text(info)
    if arguments.command == "get":
        found = client.get(arguments.request_id)
        return found_json(found), found_text(found)
    state = client.cancel(arguments.request_id)
    return {"request_id": arguments.request_id, "state": state}, f"{arguments.request_id}: {state}"


def _report(error: BaseException, arguments: argparse.Namespace, following: Following | None) -> int:
    """Says what went wrong, and which files were written before; returns the exit code."""
    files = [str(file) for file in following.files] if following else []
    where = _circumstances(error, arguments, following)
    if isinstance(error, KeyboardInterrupt):
        code, text = ExitCode.INTERRUPTED, _interrupted(arguments, following)
    elif isinstance(error, UsageError):
        code, text = ExitCode.USAGE, str(error)
    elif isinstance(error, ImageGenError):
        code, text = exit_code(error, where), failure_text(error, where)
    else:
        code, text = ExitCode.FAILED, str(error)
    written = "".join(f"\nwrote {file}" for file in files)
    told = f"imagegen: {text}{written}"
    request_id = following.request_id if following else ""
    _fail(error, code, told, as_json=arguments.json, files=files, request_id=request_id)
    return code


def _circumstances(error: BaseException, arguments: argparse.Namespace, following: Following | None) -> Circumstances:
    accepted = following is not None and following.accepted
    lasting = following is not None and following.lasting
    return Circumstances(
        server=arguments.server,
        connected=accepted,
        listening=isinstance(error, UnreachableError) and not accepted and somebody_listens(arguments.server),
        tls=tls_options(arguments),
        seconds=arguments.timeout if arguments.command == "generate" else UNARY_TIMEOUT,
        again=watch_command(arguments, following.request_id) if following and accepted and lasting else "",
    )


def _interrupted(arguments: argparse.Namespace, following: Following | None) -> str:
    if following is None or (arguments.command == "watch" and not following.accepted):
        return "interrupted"
    if not following.lasting:
        return "interrupted; the generation is cancelled"
    again = watch_command(arguments, following.request_id)
    if not following.accepted:
        return f"interrupted before the server accepted the generation; if it did all the same: {again}"
    return f"interrupted; the generation goes on: {again}"


def _fail(
    error: BaseException,
    code: ExitCode,
    text: str,
    *,
    as_json: bool,
    files: Sequence[str] = (),
    request_id: str = "",
) -> None:
    if as_json:
        say(json.dumps({**failure_json(error, code, request_id), "files": list(files)}))
    else:
        complain(text)


if __name__ == "__main__":
    sys.exit(main())
