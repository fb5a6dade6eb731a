"""Structured logs on one stream: JSON lines for machines, coloured columns for a terminal.

The standard library's loggers (grpc, diffusers and others) come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

import structlog

from imagegen_server.telemetry.undecoded import HideUndecoded

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


LogFormat = Literal["auto", "json", "console"]


class Warn(Protocol):
    """Hears what goes wrong."""

    def __call__(self, event: str, **fields: object) -> object:
        """Logs a warning."""
        ...


def say_nothing(event: str, **fields: object) -> None:
    """Takes a warning that nobody hears."""


def configure(level: str, log_format: LogFormat = "auto", stream: TextIO | None = None) -> None:
    """Sends every log line of this process to one stream. Called once, by the program; later calls replace earlier.

    Args:
        level: debug, info, warning or error; for the libraries' loggers as well.
        log_format: auto is console if the stream is a terminal, else json.
        stream: standard error if None.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = _columns(colours=stream.isatty()) if console else _json()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    handler.addFilter(HideUndecoded())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _columns(*, colours: bool) -> list[Processor]:
    # Tracebacks without local variables, which would show prompts.
    plain = structlog.dev.plain_traceback
    return [_for_people, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, sort_keys=False)]


def _for_people(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Returns the fields that are known, with the long ids behind what differs from line to line."""
    known = {name: value for name, value in fields.items() if value is not None}
    for name in ("request_id", "trace_id"):
        if name in known:
            known[name] = known.pop(name)
    return known


def log_stopped(exit_status: int) -> None:
    """Logs that a server has ended, with its exit status: the last line of an end in order."""
    structlog.get_logger("imagegen").info("stopped", exit_status=exit_status)


def adopt_libraries(names: Iterable[str], *, log_prompts: bool = False) -> None:
    """Brings libraries that print their own log lines into this one. To be called after they were imported.

    Without `log_prompts` only their errors are kept: diffusers, for one, warns with the text that it cuts off.

    Args:
        names: of their top-level loggers: diffusers, transformers and others.
        log_prompts: whether lines may have prompts in them.
    """
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET if log_prompts else logging.ERROR)
