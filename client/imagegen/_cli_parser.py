"""The arguments of the command line, and what they mean to the client."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from imagegen import _cli_preview, types
from imagegen._channel import DEFAULT_TIMEOUT
from imagegen._target import DEFAULT_TARGET, checked_target

SERVER_VARIABLE: Final = "IMAGEGEN_SERVER"
"""Environment variable that names the server."""

KEY_VARIABLE: Final = "IMAGEGEN_API_KEY"
"""Environment variable with an API key."""

TOKEN_VARIABLE: Final = "IMAGEGEN_TOKEN"  # noqa: S105 # the name of a variable
"""Environment variable with a bearer token."""

SUFFIXES: Final[Mapping[str, str]] = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
"""File suffixes and what they stand for."""

FORMATS: Final[Mapping[str, str]] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Values of --format; also the suffix of a file that is not named."""

DEFAULT_PREVIEWS: Final = 4
"""Previews of an image under --preview."""

_EXIT_CODES: Final = """\
exit codes:
  0    done
  1    failed: the server failed, an answer could not be used, or a file could not be written
  2    wrong usage, or a request that the server refuses as it is: invalid, or not allowed (credentials)
  3    no server answers (in time), or the connection was lost
  4    refused for now (queue full, loading, draining): try again later
  5    the deadline cannot be met, or has passed
  6    the generation was cancelled
  130  interrupted (Ctrl-C); the generation is cancelled, unless it was told to keep running
"""


class UsageError(Exception):
    """The command line makes no sense."""

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message)
        self.usage = usage
        """How it should look."""


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of ending the process, so that --json covers wrong usage too."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print."""
        raise UsageError(message, self.format_usage())


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _request_id(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is no text in UTF-8") from error
    return text


def _server(text: str) -> str:
    try:
        return checked_target(text, "--tls")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _common(server: str) -> _Parser:
    common = _Parser(add_help=False)
    common.add_argument(
        "--server",
        type=_server,
        metavar="HOST:PORT",
        default=server,
        help=f"the server's address (default: ${SERVER_VARIABLE}, else {DEFAULT_TARGET})",
    )
    access = common.add_argument_group("access")
    access.add_argument("--tls", action="store_true", help="use TLS, with gRPC's root certificates")
    access.add_argument("--ca", type=Path, metavar="FILE", help="use TLS, and trust the certificates in this PEM file")
    access.add_argument("--certificate", type=Path, metavar="FILE", help="PEM file with a certificate to show")
    access.add_argument("--certificate-key", type=Path, metavar="FILE", help="PEM file with its private key")
    access.add_argument(
        "--tls-server-name", metavar="NAME", help="the name in the server's certificate, if it is reached by another"
    )
    access.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with an API key (default: ${KEY_VARIABLE}, if set)"
    )
    access.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"file with a bearer token (default: ${TOKEN_VARIABLE}, if set)"
    )
    access.add_argument(
        "--allow-plaintext-credentials", action="store_true", help="let a key or a token travel without TLS"
    )
    common.add_argument("--json", action="store_true", help="print exactly one JSON object, for errors too")
    return common


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what the image should show")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where the image goes: .png, .jpg or .webp, or - for the standard output; several images get -0, -1 ... "
        "(default: the request id)",
    )
    parser.add_argument("--seed", type=int, help="makes the result repeatable")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps of the base")
    parser.add_argument("--guidance", type=float, metavar="G", help="classifier-free guidance; 1 is unguided")
    parser.add_argument("--width", type=int, metavar="PX", help="pixels, a multiple of 8")
    parser.add_argument("--height", type=int, metavar="PX", help="pixels, a multiple of 8")
    parser.add_argument("--num-images", type=_count, metavar="N", default=1, help="images of this prompt (default: 1)")
    parser.add_argument("--scheduler", metavar="NAME", default="", help="one of those that `imagegen models` lists")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what the image should not show")
    parser.add_argument("--model", metavar="NAME", default="", help="model profile (default: the server's)")
    parser.add_argument("--fast", action="store_true", help="fewer steps and less guidance where they are not given")
    parser.add_argument("--format", choices=FORMATS, help="file format (default: from the suffix, else png)")
    parser.add_argument("--quality", type=int, metavar="Q", help="JPEG and WebP quality, 1 to 100")
    parser.add_argument(
        "--no-parameters", action="store_true", help="leave the prompt and the other parameters out of the file"
    )
    parser.add_argument(
        "--preview",
        nargs="?",
        const="auto",
        choices=_cli_preview.CHOICES,
        help="show the unfinished image on the terminal: kitty, sixel or blocks (default: what the terminal knows)",
    )
    parser.add_argument(
        "--previews", type=_count, metavar="N", help=f"how many, 1 to 16 (default: {DEFAULT_PREVIEWS}; needs --preview)"
    )
    _add_timeout(parser)
    parser.add_argument("--request-id", metavar="ID", help="names the generation (default: a new UUID)")
    parser.add_argument(
        "--keep-running",
        action="store_true",
        help="go on through lost connections, and without this command; `imagegen watch ID` takes it up again",
    )
    parser.add_argument("--batch", action="store_true", help="nobody is waiting: let those go first who are")
    parser.add_argument("--isolate-batch", action="store_true", help="bit for bit repeatable on any device; slower")
    _add_refiner(parser.add_argument_group("refiner"))


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        default=DEFAULT_TIMEOUT,
        help=f"seconds to wait for the images, inf for ever (default: {DEFAULT_TIMEOUT:g})",
    )


def _add_refiner(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-refiner", action="store_true", help="decode the base's latent")
    group.add_argument("--refiner-mode", choices=["image-to-image", "ensemble"], help="how the latent is handed over")
    group.add_argument("--refiner-steps", type=int, metavar="N", help="executed steps (image-to-image)")
    group.add_argument("--refiner-strength", type=float, metavar="S", help="above 0, at most 1 (image-to-image)")
    group.add_argument("--refiner-switch-at", type=float, metavar="F", help="above 0, below 1 (ensemble)")
    group.add_argument(
        "--refiner-guidance",
        type=float,
        metavar="G",
        help="guidance (default: the model's, or the base's where it has none)",
    )
    group.add_argument("--refiner-prompt", metavar="TEXT", help="prompt (default: the base's)")
    group.add_argument(
        "--no-fallback", action="store_true", help="fail instead of returning an image unrefined, or decoded in tiles"
    )


def _version() -> str:
    try:
        return importlib.metadata.version("imagegen")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that is not installed


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Returns the parser; the environment may name the server."""
    parser = _Parser(
        prog="imagegen",
        description="Generates images on an ImageGen server.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"imagegen {_version()}")
    common = _common(environment.get(SERVER_VARIABLE) or DEFAULT_TARGET)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_generate(add("generate", "generate images from a prompt"))
    add("models", "list the model profiles with their limits, defaults and schedulers")
    add("info", "describe the server: device, precision, memory plan and queue")
    watch = add("watch", "follow a generation that runs, or ended a moment ago, and write its images")
    watch.add_argument("request_id", type=_request_id, metavar="ID", help="the generation's request id")
    watch.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where the image goes, or - for the standard output; several get -0, -1 ... (default: the request id)",
    )
    _add_timeout(watch)
    get = add("get", "say where a generation is, and how it ended")
    get.add_argument("request_id", type=_request_id, metavar="ID", help="the generation's request id")
    cancel = add("cancel", "stop a generation")
    cancel.add_argument("request_id", type=_request_id, metavar="ID", help="the generation's request id")
    return parser


def parse(words: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """Returns the arguments; raises `UsageError` for what they do not make sense with."""
    parser = build_parser(environment)
    arguments, rest = parser.parse_known_args(words)
    if rest:
        hint = ""
        if arguments.command == "generate" and not rest[0].startswith("-"):
            hint = f'; put the prompt in quotes: "{" ".join([arguments.prompt, *rest])}"'
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return arguments


def generation_options(arguments: argparse.Namespace, mime_type: str) -> types.GenerationKeywords:
    """Returns the client's options for the arguments of `generate`; the request id is the caller's to choose."""
    options: types.GenerationKeywords = {
        "seed": arguments.seed,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "width": arguments.width,
        "height": arguments.height,
        "num_images": arguments.num_images,
        "scheduler": arguments.scheduler,
        "negative_prompt": arguments.negative_prompt,
        "model": arguments.model,
        "high_quality": False if arguments.fast else None,
        "use_refinement": False if arguments.no_refiner else None,
        "refiner": _refiner(arguments),
        "output": types.OutputOptions(
            mime_type=mime_type,
            quality=arguments.quality,
            embed_parameters=False if arguments.no_parameters else None,
        ),
        "priority": types.Priority.BATCH if arguments.batch else None,
        "isolate_batch": arguments.isolate_batch,
        "on_disconnect": types.OnDisconnect.CONTINUE if arguments.keep_running else None,
    }
    if arguments.preview:
        options["preview_count"] = arguments.previews or DEFAULT_PREVIEWS
    if arguments.no_fallback:
        options["allowed_fallbacks"] = ()
    return options


def _refiner(arguments: argparse.Namespace) -> types.RefinerOptions | None:
    mode = arguments.refiner_mode
    options = types.RefinerOptions(
        mode=types.RefinerMode(mode.replace("-", "_")) if mode else None,
        num_inference_steps=arguments.refiner_steps,
        strength=arguments.refiner_strength,
        switch_at=arguments.refiner_switch_at,
        guidance_scale=arguments.refiner_guidance,
        prompt=arguments.refiner_prompt or "",
    )
    return None if options == types.RefinerOptions() else options
