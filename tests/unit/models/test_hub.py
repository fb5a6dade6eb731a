"""Sources, and progress where there is no terminal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.download_progress import DownloadProgress, log_progress, reporting_bar
from imagegen_server.models.sources.hub import HubSource, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/model", HubSource(repository="acme/model", revision=None)),
        ("acme/model@v1", HubSource(repository="acme/model", revision="v1")),
        ("/srv/model", Path("/srv/model")),
        ("./model", Path("model")),
        ("~/model", Path(os.path.expanduser("~/model"))),
    ],
)
def test_a_source_is_a_repository_or_a_path(text: str, expected: HubSource | Path) -> None:
    """What looks like a path is one, whether or not it exists."""
    assert parse_source(text) == expected


def test_a_directory_that_exists_wins_over_a_repository_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in diffusers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "model").mkdir(parents=True)
    assert parse_source("acme/model") == Path("acme/model")


@pytest.mark.parametrize(
    "text",
    [
        "model",
        "a/b/c",
        "acme/",
        "@v1",
        "a b/c",
        "acme/my model",
        "acme/имя",
        "-acme/model",
        "acme/a--b",
        "a/b.git",
        "a/b\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """The message shows the form of a source."""
    with pytest.raises(WeightsUnavailable, match="owner/name@revision"):
        parse_source(text)


def test_log_lines_come_at_intervals_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Not a line for every chunk; the last one says 100 %."""
    now = [0.0]
    receive = log_progress(10.0, clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for second in range(0, 26):
            now[0] = float(second)
            receive(DownloadProgress(name="acme/model", completed_bytes=second * 10**9, total_bytes=25 * 10**9))
    assert [record.getMessage() for record in caplog.records] == [
        f"downloading acme/model: {done}.00 of 25.00 GB ({percent} %)"
        for done, percent in ((0, 0), (10, 40), (20, 80), (25, 100))
    ]


def test_bars_draw_nothing_and_report_the_furthest_count_of_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    """Bars that count files are ignored, and a slower bar does not take the report back."""
    reports: list[int] = []
    bar_class = reporting_bar(reports.append)
    received, written = bar_class(total=100, unit="B"), bar_class(total=100, unit="B")
    with bar_class(total=3, unit="it") as files:
        received.update(40)
        written.update(30)
        written.update(30)
        files.update(3)
        received.update(60)
    received.close()
    written.close()
    assert reports == [40, 60, 100]
    assert capfd.readouterr() == ("", "")
