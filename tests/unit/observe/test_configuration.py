"""The configuration that Prometheus is given: the shipped one, for other targets and at another interval."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from imagegen_server.observe.prometheus import (
    SOURCE,
    Prometheus,
    PrometheusDidNotStart,
    configure,
    prometheus,
)
from support import promtool


def test_only_targets_and_intervals_are_replaced(tmp_path: Path) -> None:
    """Jobs, relabelling and rules are the shipped ones; Alertmanager is nowhere."""
    config = configure(tmp_path / "config", ["127.0.0.1:1", "127.0.0.1:2"], interval="3s")
    made, shipped = yaml.safe_load(config.read_text()), yaml.safe_load((SOURCE / "prometheus.yml").read_text())
    assert made["global"].pop("scrape_interval") == "3s"
    assert made["global"].pop("evaluation_interval") == "3s"
    del shipped["global"]["scrape_interval"], shipped["global"]["evaluation_interval"]
    assert made == shipped
    files = [
        path
        for job in made["scrape_configs"]
        for found in job["file_sd_configs"]
        for pattern in found["files"]
        for path in config.parent.glob(pattern)
    ]
    assert [yaml.safe_load(path.read_text()) for path in files] == [[{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]]
    for alertmanager in made["alerting"]["alertmanagers"]:
        for found in alertmanager["file_sd_configs"]:
            assert not [path for pattern in found["files"] for path in config.parent.glob(pattern)]
    rules = {path.name: path.read_text() for path in (config.parent / "rules").iterdir()}
    assert rules == {path.name: path.read_text() for path in (SOURCE / "rules").iterdir()}


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    """The whole of it, rules included."""
    promtool.run("promtool", "check", "config", configure(tmp_path / "config", ["127.0.0.1:1"], interval="1s"))


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    """Where the package is installed without its repository."""
    with pytest.raises(PrometheusDidNotStart, match="checkout"):
        configure(tmp_path / "config", [], interval="1s", source=tmp_path / "nowhere")


def test_a_source_of_another_shape_is_told(tmp_path: Path) -> None:
    """Rather than scraping at the wrong interval, or somebody else's server."""
    source = tmp_path / "source"
    (source / "targets").mkdir(parents=True)
    (source / "targets" / "imagegen-server.yml").write_text("[]")
    (source / "prometheus.yml").write_text("global: {}\n")
    with pytest.raises(PrometheusDidNotStart, match="lacks an interval"):
        configure(tmp_path / "config", [], interval="1s", source=source)


def test_a_missing_prometheus_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrometheusDidNotStart, match="apt-get install prometheus"), prometheus(["127.0.0.1:1"]):
        pytest.fail("there is no Prometheus")


def test_a_prometheus_that_ends_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it says."""
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(PrometheusDidNotStart, match="no space left"), prometheus(["127.0.0.1:1"]):
        pytest.fail("it has ended")


def test_a_graphs_address_holds_the_expression() -> None:
    """Escaped."""
    assert Prometheus(url="http://h:1").graph("sum(a[1m]) > 2", "1h") == (
        "http://h:1/graph?g0.expr=sum%28a%5B1m%5D%29+%3E+2&g0.tab=0&g0.range_input=1h"
    )
