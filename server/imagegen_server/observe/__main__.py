"""Starts two servers and Prometheus, drives a mixed load with faults, and says where to look and what was seen.

One server draws with the embedded pair, the other is the fake model, for faults that one has to ask for. Both have a
simulated GPU where there is no real one. Everything runs on free ports of 127.0.0.1 and ends with this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

from imagegen_server.child import SIGNALS
from imagegen_server.core import Outcome
from imagegen_server.local import ServerDidNotStart, Serving, serving
from imagegen_server.observe.kinds import FAKE_ARGUMENTS
from imagegen_server.observe.load import drive
from imagegen_server.observe.prometheus import Prometheus, PrometheusDidNotStart, prometheus
from imagegen_server.observe.summary import OUTCOMES, Progress, what_was_seen, where_to_look

_Result = TypeVar("_Result")

COULD_NOT_START: Final = 3
"""Exit status if a server or Prometheus does not start, as imagegen-server's own."""
GRACE: Final = ("--grace-period", "1", "--log-format", "json")
WELL_GPU: Final = json.dumps(
    {
        "utilization": [[0, 0.05], [10, 0.9]],
        "temperature": [[0, 48], [10, 62], [20, 70], [40, 74]],
        "power": [[0, 60], [10, 290]],
    }
)
"""A GPU that warms up with its work."""
ILL_GPU: Final = json.dumps(
    {
        "temperature": [[0, 70], [15, 92]],
        "throttle": {"thermal": [[0, 0], [15, 0.4]]},
        "ecc": {"corrected": [[0, 0], [10, 3]]},
        "xids": [[45, 13]],
        "errors": {"processes": "no_permission"},
    }
)
"""A GPU that runs hot, has had an error, and keeps a reading to itself."""
_CATCH_UP_SECONDS: Final = 15.0
"""How long Prometheus may take to have seen every end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it with the arguments, the process's own if None; returns the exit status.

    Raises SystemExit on SIGTERM and SIGHUP, and KeyboardInterrupt if interrupted before the end, after everything that
    was started is stopped.
    """
    options = _parser().parse_args(argv)
    ending = _Ending()
    ending.listen()
    try:
        with _started() as (shapes, fake, seen):
            _show(shapes, fake, seen, options.seconds, ending)
            if options.stay or (sys.stdin is not None and sys.stdin.isatty()):
                print("\neverything stays up; Ctrl-C ends it", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        signal.pause()
    except (ServerDidNotStart, PrometheusDidNotStart) as error:
        print(f"observe: {error}", file=sys.stderr)
        return COULD_NOT_START
    return 0


@contextlib.contextmanager
def _started() -> Iterator[tuple[Serving, Serving, Prometheus]]:
    """Starts everything and stops it after the block."""
    if shutil.which("prometheus") is None:  # said before a model is loaded for nothing
        with prometheus(()):
            pass
    print("starting two servers and Prometheus …", flush=True)
    gpu = () if shutil.which("nvidia-smi") else (f"--gpu-script={WELL_GPU}",)
    with (
        serving(*FAKE_ARGUMENTS, *GRACE, f"--gpu-script={ILL_GPU}") as fake,
        serving("--model=shapes", *GRACE, *gpu) as shapes,
        prometheus([f"127.0.0.1:{server.metrics_port}" for server in (shapes, fake)]) as seen,
    ):
        yield shapes, fake, seen


def _show(shapes: Serving, fake: Serving, seen: Prometheus, seconds: float, ending: _Ending) -> None:
    print(where_to_look(seen, (("the embedded pair", shapes), ("the fake model", fake))))
    print(f"\ndriving both for {seconds:g} s, and then until the first round of calls is over:", flush=True)
    progress = Progress(sys.stdout)
    counts = ending.run(drive(shapes.address, fake.address, seconds, progress.ended))
    progress.finish()
    told = ", ".join(f"{outcome} {count}" for outcome, count in counts.items() if count)
    print(f"\nthe callers saw {counts.total()} calls end: {told}")
    complete = _wait_for(seen, counts)
    print(f"Prometheus saw{'' if complete else ', which differs'}:\n{what_was_seen(seen)}", flush=True)


def _wait_for(seen: Prometheus, counts: Counter[Outcome]) -> bool:
    """Waits until Prometheus has seen as many ends as the callers; returns whether it did."""
    until = time.monotonic() + _CATCH_UP_SECONDS
    while time.monotonic() < until:
        if sum(series.value for series in seen.instant(OUTCOMES)) >= counts.total():
            return True
        time.sleep(0.5)
    return False


class _Ending:
    """Lets the first signal that ends this process unwind it, and ignores further ones, which would leave orphans."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._cancel: Callable[[], None] | None = None
        self._running = False
        """Whether a loop is there, or being made or closed, which an exception of a signal handler would tear apart."""

    def listen(self) -> None:
        """Begins to hear signals."""
        for each in SIGNALS:
            signal.signal(each, self._hear)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs a coroutine on a loop of its own. A signal cancels it, and raises once it has ended."""
        self._running = True
        try:
            result = asyncio.run(self._cancellable(work))
        except asyncio.CancelledError:
            self._unwind()
        finally:
            self._running = False
        if self._number is not None:  # heard too late to cancel anything
            self._unwind()
        return result

    async def _cancellable(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()

        def cancel() -> None:
            loop.call_soon_threadsafe(task.cancel)

        self._cancel = cancel
        try:
            if self._number is not None:  # heard while the loop was made
                task.cancel()
            return await task
        finally:
            self._cancel = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._number = number
        if self._cancel is not None:
            self._cancel()
        elif not self._running:
            self._unwind()

    def _unwind(self) -> NoReturn:
        if self._number is None or self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imagegen_server.observe",
        description="Starts servers and Prometheus, drives a load with faults, and says where to look.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="S", help="how long to drive the load (default: %(default)g)"
    )
    parser.add_argument("--stay", action="store_true", help="stay up until Ctrl-C even without a terminal")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most 86400 seconds")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
