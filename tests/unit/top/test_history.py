"""Growth between scrapes: rates, the moving window, restarts of the server, and what is absent."""

from __future__ import annotations

import pytest

from imagegen_server.top.history import Growth, History
from imagegen_server.top.snapshot import Snapshot, parse
from support.exposition import Exposition


def scrape(at: float, images: float, *, refused: float | None = None, joules: float | None = None) -> Snapshot:
    """A scrape with one counter, one gauge and, if wanted, a second counter and a GPU's energy."""
    made = Exposition().counter("imagegen_images_total", images, format="png").gauge("imagegen_requests_queued", images)
    if refused is not None:
        made.counter("imagegen_rejected_total", refused, reason="queue_full")
    if joules is not None:
        made.counter("imagegen_gpu_energy_joules_total", joules, gpu="0")
    return parse(made.text(), at)


def after(*scrapes: Snapshot, window: float = 60.0) -> History:
    history = History(window)
    for each in scrapes:
        history.add(each)
    return history


def recent(history: History) -> Growth:
    growth = history.recent()
    assert growth is not None
    return growth


def test_a_rate_is_the_growth_by_the_time_between_the_scrapes() -> None:
    """30 images in 10 seconds are 3 in a second."""
    growth = recent(after(scrape(100, 5), scrape(104, 9), scrape(110, 35)))
    assert (growth.increase("imagegen_images_total"), growth.seconds) == (30, 10)
    assert growth.rate("imagegen_images_total", format="png") == 3


def test_one_scrape_tells_no_rate_but_totals() -> None:
    """Growth over time needs two; growth since the start is there at once and has no time."""
    history = after(scrape(100, 5))
    assert history.recent() is None
    lifetime = history.lifetime()
    assert lifetime is not None
    assert (lifetime.increase("imagegen_images_total"), lifetime.rate("imagegen_images_total")) == (5, None)


def test_nothing_is_known_before_the_first_scrape() -> None:
    """An empty history has no totals either."""
    history = History(60)
    assert (history.newest, history.lifetime(), history.recent(), history.peak("imagegen_requests_queued")) == (
        None,
        None,
        None,
        None,
    )


def test_what_has_left_the_window_does_not_count() -> None:
    """The oldest scrape that counts is not older than the window."""
    growth = recent(after(scrape(0, 1000), scrape(50, 1010), scrape(100, 1030), window=60))
    assert (growth.increase("imagegen_images_total"), growth.seconds) == (20, 50)


def test_after_a_silence_longer_than_the_window_growth_begins_anew() -> None:
    """What happened in the silence is not spread over the window."""
    assert after(scrape(0, 10), scrape(500, 900), window=60).recent() is None


def test_a_restarted_server_counts_from_nothing() -> None:
    """10 before the restart, and the 4 of the new process."""
    history = after(scrape(0, 100), scrape(10, 110), scrape(20, 4))
    assert recent(history).increase("imagegen_images_total") == 14
    assert history.restarts == 1
    lifetime = history.lifetime()
    assert lifetime is not None
    assert lifetime.increase("imagegen_images_total") == 4


def test_a_restart_that_one_counter_caught_up_with_is_seen_by_another() -> None:
    """A counter that grew beyond its old value does not hide that the process is another one."""
    history = after(scrape(0, 10, refused=5), scrape(10, 12, refused=1), scrape(20, 15, refused=1))
    assert recent(history).increase("imagegen_images_total") == 15
    assert history.restarts == 1


def test_a_gpu_that_begins_to_count_anew_is_no_restart() -> None:
    """The driver's counters may fall back; only they count from nothing then."""
    history = after(scrape(0, 10, joules=5000), scrape(10, 12, joules=300))
    growth = recent(history)
    assert (growth.increase("imagegen_images_total"), growth.increase("imagegen_gpu_energy_joules_total")) == (2, 300)
    assert history.restarts == 0


def test_a_series_that_is_new_grew_from_nothing() -> None:
    """It was not there because nothing had happened."""
    growth = recent(after(scrape(0, 10), scrape(10, 10, joules=7)))
    assert growth.increase("imagegen_gpu_energy_joules_total") == 7


def test_what_is_absent_is_not_0() -> None:
    """There is no increase of a series that the server does not have."""
    growth = recent(after(scrape(0, 10), scrape(10, 10)))
    assert growth.increase("imagegen_images_total") == 0
    assert growth.increase("imagegen_images_total", format="webp") is None
    assert growth.increase("imagegen_rejected_total") is None
    assert growth.rate("imagegen_rejected_total") is None
    assert growth.by("imagegen_rejected_total", "reason") == {}
    assert growth.distribution("imagegen_image_bytes") is None


def test_the_peak_is_that_of_the_window() -> None:
    """A gauge's greatest value is forgotten with its scrape."""
    history = after(scrape(0, 50), scrape(50, 7), scrape(100, 3), window=60)
    assert history.peak("imagegen_requests_queued") == 7


@pytest.mark.parametrize("text", ["", "<html>not here</html>", "imagegen_images_total{format= 1\n", "{}"])
def test_what_is_no_exposition_is_refused(text: str) -> None:
    """Whatever answers at the address is not taken for a server without metrics."""
    with pytest.raises(ValueError, match="answer"):
        parse(text, 0.0)
