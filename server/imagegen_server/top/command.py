"""The command `imagegen-server top`: its options, and the screen that it draws until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.live import Live

from imagegen_server.top.keys import Keys
from imagegen_server.top.scrape import Poller, ScrapeFailed, Scraper, checked_url
from imagegen_server.top.watch import Watch

DEFAULT_URL: Final = "http://127.0.0.1:9464/metrics"
HINT: Final = "q or Ctrl-C ends"
_REDRAW: Final = 1.0
"""Seconds after which the page is drawn anew although nothing was heard: the clock, and how long a silence lasts."""
_TICK: Final = 0.1
"""Seconds that a key or a changed window size may wait."""


def main(argv: Sequence[str]) -> int:
    """Runs the command with the arguments after `top` and returns the exit status.

    That is 0; of `--once` 1 if there was no answer, and 130 if it was interrupted while it waited for the second.
    Raises SystemExit: 0 for --help, 2 for wrong options, 143 on SIGTERM once the terminal is restored.
    """
    options = _parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # bars and dashes on a terminal that has none
    console = Console(no_color=options.no_color or None, highlight=False)
    scraper = Scraper(options.url, options.token or "")
    watch_options = {"window": max(options.window, 2.5 * options.interval)}
    if options.once or not sys.stdout.isatty() or console.is_dumb_terminal:
        try:
            return _once(console, scraper, Watch(options.url, since_start=True, **watch_options), options.interval)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    with contextlib.suppress(KeyboardInterrupt):  # that is how one ends it
        _live(console, scraper, Watch(options.url, **watch_options), options.interval)
    return 0


def _once(console: Console, scraper: Scraper, watch: Watch, interval: float) -> int:
    """Prints the page after two scrapes."""
    try:
        watch.hear(scraper.scrape(), time.time())
    except ScrapeFailed as failure:
        print(f"imagegen-server top: no answer: {failure}", file=sys.stderr)
        return 1
    time.sleep(interval)
    try:
        watch.hear(scraper.scrape(), time.time())
    except ScrapeFailed as failure:
        watch.hear(failure, time.time())
    console.print(watch.page(time.time()))
    return 0


def _live(console: Console, scraper: Scraper, watch: Watch, interval: float) -> None:
    """Draws the page on the whole screen until q is typed."""
    signal.signal(signal.SIGTERM, _leave)
    screen = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    with Keys() as keys, Poller(scraper, interval) as poller, screen:
        drawn, size = -math.inf, console.size
        typed = ""
        while not {"q", "Q", "\x04"} & set(typed):
            results = poller.results()
            for result in results:
                watch.hear(result, time.time())
            if results or console.size != size or time.monotonic() - drawn >= _REDRAW:
                drawn, size = time.monotonic(), console.size
                screen.update(watch.page(time.time(), HINT), refresh=True)
            typed = keys.wait(_TICK)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagegen-server top",
        description="Shows what a running server does, from its /metrics. Without a terminal it prints once and ends.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--url", type=_url, default=DEFAULT_URL, help="the server's /metrics, or host:port of it (default: %(default)s)"
    )
    parser.add_argument(
        "--token-file",
        dest="token",
        type=_token,
        default=None,
        metavar="FILE",
        help="file with a bearer token to show",
    )
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="S", help="seconds between two looks (default: %(default)g)"
    )
    parser.add_argument(
        "--window",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="seconds that rates and durations are over (default: %(default)g)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print rates over one interval and everything else since the start, and end"
    )
    parser.add_argument("--no-color", action="store_true", help="no colours; NO_COLOR does the same")
    return parser


def _url(text: str) -> str:
    try:
        return checked_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error}") from error
    if not token.isascii() or not token.isprintable() or " " in token:  # it is not shown: it is a secret all the same
        raise argparse.ArgumentTypeError(f"{path} does not hold one word of ASCII, which a header could carry")
    return token


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 3600 seconds")
    return value
