"""The page at the widths of real terminals: everything is on it, nothing is wrapped apart, dashes for the unknown."""

from __future__ import annotations

import pytest
from rich.console import Console

from imagegen_server.top.scrape import ScrapeFailed
from imagegen_server.top.snapshot import parse
from imagegen_server.top.watch import Watch
from support.exposition import Exposition, busy_server

CLOCK = 1_700_003_600.0
URL = "http://127.0.0.1:9464/metrics"


def drawn(watch: Watch, width: int, *, colour: bool = False) -> str:
    """Returns the page as text; with escape codes if colours are wanted."""
    console = Console(
        width=width, force_terminal=colour, color_system="truecolor" if colour else None, no_color=not colour
    )
    with console.capture() as capture:
        console.print(watch.page(CLOCK, "q or Ctrl-C ends"))
    return capture.get()


def watching(*expositions: Exposition) -> Watch:
    watch = Watch(URL, window=60)
    for index, each in enumerate(expositions):
        watch.hear(parse(each.text(), 10.0 * index), CLOCK + 10 * index)
    return watch


@pytest.fixture
def busy() -> Watch:
    """A busy server, seen twice."""
    return watching(busy_server(4), busy_server(8))


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_everything_is_on_the_page(busy: Watch, width: int) -> None:
    """Each part with its figures, at any width."""
    text = " ".join(drawn(busy, width).split())
    for expected in (
        "● serving sdxl fp16, residency both, imagegen 0.1.0",
        "degraded: works without batch_rows",
        "last 10 s: rates, stages, durations, shares, (+n); since the start: totals",
        "6, at most 6",
        "2 of 64",
        "1,008 generations/min",  # 4 x 42 in 10 s
        "ok 288 864",
        "wait, interactive < 100 ms 2.27 s",
        "text_encode 144 4 1.10 s 4.10 s",
        "600 67 ms 97 ms 5",
        "oom 24 (+12)",
        "queue_full 56",
        "8.3 % of device time",
        "GPU 0 NVIDIA GeForce RTX 4090, driver 550.54",
        "93 %, memory 41 %, clock 2520 MHz",
        "19.4 of 24.0 by all processes",
        "18.1 of 22.0 budget, 17.0 planned",
        "81 °C of 83 °C",
        "352 W of 450 W, 1000 J/image",
        "thermal 100 % of the time",
        "good, ECC 2 corrected, 0 not, XID none",
        "12.1 in tensors, peak 16.2",
        "q or Ctrl-C ends",
    ):
        assert expected in text or width >= 136, f"{expected!r} is not in\n{drawn(busy, width)}"
    if width >= 136:  # parts beside each other interleave their lines
        for word in (
            "1,008 generations/min",
            "queue_full 56",
            "93 %, memory 41 %",
            "18.1 of 22.0 budget",
            "81 °C of 83 °C",
        ):
            assert word in text


@pytest.mark.parametrize("width", [80, 100, 135, 136, 140])
def test_no_line_is_too_long_and_no_figure_cut_off(busy: Watch, width: int) -> None:
    """The tables fit: no ellipsis, no line wider than the terminal."""
    lines = drawn(busy, width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert not [line for line in lines if "…" in line]


def test_a_wide_page_is_lower(busy: Watch) -> None:
    """Parts stand beside each other where there is room."""
    assert len(drawn(busy, 140).splitlines()) < len(drawn(busy, 80).splitlines())


def test_80_by_24_has_the_headline_the_load_and_the_stages(busy: Watch) -> None:
    """What a small terminal shows without scrolling is what matters most."""
    first = "\n".join(drawn(busy, 80).splitlines()[:24])
    assert "serving" in first
    assert "in flight" in first
    assert "send  " in first


def test_what_is_absent_is_a_dash_and_never_0() -> None:
    """A server that says one thing: every other figure is a dash."""
    bare = Exposition().gauge("imagegen_requests_queued", 3, model="shapes")
    text = drawn(watching(bare, bare), 80)
    body = "\n".join(text.splitlines()[3:-1])
    assert "3 of –" in body  # noqa: RUF001 - the dash itself
    assert "0" not in body.replace("p50", "")
    assert "none" not in body


def test_a_page_without_colours_has_no_escape_codes(busy: Watch) -> None:
    """For pipes; with colours there are some."""
    assert "\x1b" not in drawn(busy, 80)
    assert "\x1b[" in drawn(busy, 80, colour=True)


def test_before_the_first_answer_it_waits() -> None:
    """The page is there at once."""
    assert "waiting for the first answer" in drawn(Watch(URL, window=60), 80)


def test_a_silence_is_told_with_its_beginning_and_the_last_figures_stay(busy: Watch) -> None:
    """The time is that of the first failure, not of the last."""
    busy.hear(ScrapeFailed("connection refused"), CLOCK)
    since = [line for line in drawn(busy, 80).splitlines() if "no answer since" in line]
    busy.hear(ScrapeFailed("connection refused"), CLOCK + 100)
    text = drawn(busy, 80)
    assert [line for line in text.splitlines() if "no answer since" in line] == since
    assert "connection refused; what follows is from before" in since[0]
    assert "2 of 64" in text
    busy.hear(parse(busy_server(9).text(), 30.0), CLOCK + 120)
    assert "no answer" not in drawn(busy, 80)


def test_a_restart_is_told(busy: Watch) -> None:
    """Totals that fell are explained."""
    busy.hear(parse(busy_server(1).text(), 20.0), CLOCK)
    assert "the server was restarted once while this ran" in drawn(busy, 80)


def test_a_broken_gpu_is_loud() -> None:
    """Lost, hot, with errors, and without the readings that it cannot give."""
    made = Exposition()
    made.gauge("imagegen_gpu_health", 0, gpu="0").gauge("imagegen_gpu_temperature_celsius", 95, gpu="0")
    made.counter("imagegen_gpu_xid_errors_total", 2, gpu="0", xid="79")
    made.counter("imagegen_gpu_ecc_errors_total", 1, gpu="0", type="uncorrected")
    made.counter("imagegen_gpu_collector_errors_total", 5, call="power", error="not_supported")
    text = drawn(watching(made, made), 80)
    assert "LOST OR BROKEN, ECC – corrected, 1 not, XID 79 (2)" in text  # noqa: RUF001 - the dash itself
    assert "failed reads power 5" in " ".join(text.split())
    assert "95 °C of –" in text  # noqa: RUF001 - the dash itself


@pytest.mark.parametrize(
    ("days", "expected"), [(30, "the certificate ends in 30 d"), (-1, "the certificate has ended")]
)
def test_a_certificates_end_is_told(days: int, expected: str) -> None:
    """If there is one."""
    made = Exposition().gauge("imagegen_tls_cert_expiry_timestamp_seconds", CLOCK + days * 86400)
    assert expected in drawn(watching(made), 80)
