"""Progress on the standard error stream: bars on a terminal, one line per finished stage elsewhere."""

from __future__ import annotations

import importlib.util
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from imagegen import types
from imagegen._cli_progress import StageStatus

if TYPE_CHECKING:
    from rich.progress import TaskID

_BAR_WIDTH: Final = 30


class Display:
    """Shows nothing; the others build on it. A context manager around one generation."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was found."""

    def note(self, text: str) -> None:
        """Shows a line of text."""

    def begin(self, stages: tuple[StageStatus, ...]) -> None:
        """Learns the planned stages, before any of them starts."""

    def update(self, status: StageStatus) -> None:
        """Shows how far a stage is."""

    def picture(self, text: str) -> None:
        """Shows what draws a picture on a terminal."""


class LineDisplay(Display):
    """One line for each stage, when it has finished: for log files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._finished: set[types.Stage] = set()

    def note(self, text: str) -> None:
        """Writes the line."""
        self._write(f"{text}\n")

    def picture(self, text: str) -> None:
        """Writes it as it is."""
        self._write(text)

    def update(self, status: StageStatus) -> None:
        """Writes the stage's line, once."""
        if status.finished and status.stage not in self._finished:
            self._finished.add(status.stage)
            self._write(f"{status.stage:<12} {status.elapsed:8.2f} s  {status.count}".rstrip() + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class TextDisplay(LineDisplay):
    """A line that is redrawn while a stage runs, for terminals without rich."""

    _CLEAR: Final = "\r\x1b[K"  # to the line's start, erase to its end

    def note(self, text: str) -> None:
        """Writes the line in place of the bar."""
        super().note(f"{self._CLEAR}{text}")

    def picture(self, text: str) -> None:
        """Writes it in place of the bar."""
        super().picture(f"{self._CLEAR}{text}")

    def update(self, status: StageStatus) -> None:
        """Redraws the bar, or replaces it by the finished stage's line."""
        if status.finished:
            self._write(self._CLEAR)
            super().update(status)
        else:
            filled = _BAR_WIDTH * status.done // status.total
            bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
            self._write(f"{self._CLEAR}{status.stage:<12} [{bar}] {status.count}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Erases an unfinished bar."""
        self._write(self._CLEAR)


class RichDisplay(Display):
    """One bar for each planned stage, drawn by rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich import console, progress  # noqa: PLC0415 (the extra `cli`)

        self._progress = progress.Progress(
            progress.TextColumn("{task.description:<12}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[count]}"),
            progress.TimeElapsedColumn(),
            console=console.Console(file=stream),
        )
        self._stream = stream
        self._tasks: dict[types.Stage, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the bars on the screen and gives the cursor back."""
        self._progress.stop()

    def note(self, text: str) -> None:
        """Prints the line above the bars, as it is: no markup."""
        self._progress.console.print(text, markup=False, highlight=False)

    def picture(self, text: str) -> None:
        """Writes it above the bars; rich would not pass on what it does not know, so the bars step aside."""
        self._progress.live.transient = True  # erased here, drawn again below the picture
        self._progress.stop()
        self._progress.live.transient = False
        self._stream.write(text)
        self._stream.flush()
        self._progress.start()

    def begin(self, stages: tuple[StageStatus, ...]) -> None:
        """Draws an empty bar for each stage."""
        for status in stages:
            self._tasks[status.stage] = self._progress.add_task(
                status.stage, total=status.total, start=False, count=status.count
            )

    def update(self, status: StageStatus) -> None:
        """Fills the stage's bar."""
        task = self._tasks[status.stage]
        self._progress.start_task(task)
        self._progress.update(task, completed=status.done, count=status.count)


def make_display(stream: TextIO, *, silent: bool) -> Display:
    """Returns the display that suits the stream; `silent` shows nothing."""
    if silent:
        return Display()
    if not stream.isatty():
        return LineDisplay(stream)
    if importlib.util.find_spec("rich") is None:
        return TextDisplay(stream)
    return RichDisplay(stream)
