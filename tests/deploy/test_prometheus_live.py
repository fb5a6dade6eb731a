"""The rules against a real server in a real Prometheus: the labels and values that they expect are there."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from imagegen import Client
from imagegen_server.observe.prometheus import Prometheus, Series
from support import promtool, rules
from support.live_server import LiveServer, live_server
from support.prometheus import prometheus
from support.waiting import eventually

RECORDED = [rule.name for rule in rules.load_rules() if not rule.alert]
QUANTILES = {name for name in RECORDED if ":p" in name}
WITHOUT_TRAFFIC = [name for name in RECORDED if name not in QUANTILES]
"""What has a value from the first scrapes on: shares are 0."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("server"), "--gpu-script", "{}") as running:
        yield running


@pytest.fixture(scope="module")
def seen(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    promtool.program("prometheus")
    with prometheus(tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{server.metrics_port}") as running:
        yield running


def absent(seen: Prometheus, names: list[str]) -> list[str]:
    """The names that have no series."""
    return [name for name in names if not seen.instant(name)]


def values(found: list[Series]) -> list[float]:
    return [value for series in found for _, value in series.points]


def test_an_idle_server_has_every_share_and_no_alert(seen: Prometheus) -> None:
    """Dashboards show 0 then, not an empty panel. Before the test that sends requests."""
    eventually(lambda: not absent(seen, WITHOUT_TRAFFIC), lambda: f"absent: {absent(seen, WITHOUT_TRAFFIC)}")
    for name in WITHOUT_TRAFFIC:
        assert all(math.isfinite(value) for value in values(seen.instant(name))), name
    shares = [name for name in WITHOUT_TRAFFIC if "_per_" in name and "joule" not in name]
    assert {name: values(seen.instant(name)) for name in shares if any(values(seen.instant(name)))} == {}
    assert [series.labels["alertname"] for series in seen.instant("ALERTS")] == []


def test_traffic_gives_every_recorded_series_a_value(seen: Prometheus, server: LiveServer) -> None:
    """Quantiles as well; generations and a cancelled one are enough for all of them."""
    with Client(server.address) as client:
        for seed in range(3):
            client.generate_image("a red circle", seed=seed)
        events = client.generate("a blue square", num_inference_steps=100)
        next(iter(events))
        events.close()
    eventually(lambda: not absent(seen, RECORDED), lambda: f"absent: {absent(seen, RECORDED)}")
    for name in RECORDED:
        assert all(math.isfinite(value) for value in values(seen.instant(name))), name
    per_joule = "instance:imagegen_images_per_joule:ratio_rate5m"  # 0 until a scrape after the images
    eventually(lambda: max(values(seen.instant(per_joule))) > 0, f"{per_joule} stays 0")
