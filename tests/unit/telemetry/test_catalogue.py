"""The catalogue: names, closed label sets, and series that exist from the start."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from imagegen_server import core
from imagegen_server.telemetry import CATALOGUE, Metrics, closed_sets, metrics, reference

Value = Callable[..., float | None]

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_names_follow_the_rules() -> None:
    """Names are unique, prefixed, in base units; counters end in _total and nothing else does."""
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))
    for metric in CATALOGUE:
        assert re.fullmatch(r"(imagegen|grpc_server|process)_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is metrics.Kind.COUNTER)
        assert not re.search(r"_(ms|milliseconds|mb|mib|kb|percent)(_|$)", metric.name)
        assert metric.help.endswith(".")


def test_histograms_have_ascending_buckets_and_others_none() -> None:
    """Buckets ascend strictly, and only histograms have them."""
    for metric in CATALOGUE:
        assert bool(metric.buckets) == (metric.kind is metrics.Kind.HISTOGRAM)
        assert all(low < high for low, high in itertools.pairwise(metric.buckets))


def test_every_instrument_reads_zero_at_the_start(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Every metric but the info gauges and what collectors read has series from the start, and all are 0."""
    assert metrics.registry is registry
    families = {family.name: family for family in registry.collect()}
    without = {"imagegen_model_info", "imagegen_build_info"}
    for metric in CATALOGUE:
        if metric.collected:
            assert metric.name.removesuffix("_total") not in families
            continue
        samples = [
            sample
            for sample in families[metric.name.removesuffix("_total")].samples
            if not sample.name.endswith("_created")
        ]
        assert bool(samples) == (metric.name not in without), metric.name
        for sample in samples:
            assert sample.value == 0, sample
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


def test_series_cover_the_closed_sets(metrics: Metrics, value: Value) -> None:
    """One series of each label set, of those that are told apart by stage, outcome and reason."""
    assert metrics.model("shapes") == "shapes"
    for outcome in core.Outcome:
        for model in ("shapes", "other"):
            assert value("imagegen_request_duration_seconds_count", model=model, outcome=outcome) == 0
    for stage in core.Stage:
        assert value("imagegen_cancelled_total", stage=stage) == 0
        assert value("imagegen_cancel_latency_seconds_count", stage=stage) == 0
        assert value("imagegen_stage_duration_seconds_count", model="shapes", stage=stage, outcome="ok") == 0
    for reason in core.FallbackReason:
        assert value("imagegen_fallbacks_total", **{"from": "refiner", "to": "base", "reason": reason}) == 0
    for code in ("OK", "Canceled", "InvalidArgument", "DeadlineExceeded", "ResourceExhausted", "Internal"):
        labels = {"grpc_type": "bidi_stream", "grpc_service": "_OTHER", "grpc_method": "_OTHER", "grpc_code": code}
        assert value("grpc_server_handled_total", **labels) == 0


def test_buckets_reach_as_far_as_the_work_takes(metrics: Metrics, value: Value) -> None:
    """Requests have a bucket of 300 s, steps one of a millisecond, and rows those up to 64."""
    assert metrics.model("shapes") == "shapes"
    assert value("imagegen_request_duration_seconds_bucket", model="shapes", outcome="ok", le="300.0") == 0
    assert value("imagegen_step_duration_seconds_bucket", model="shapes", stage="base", le="0.001") == 0
    assert value("imagegen_batch_rows_bucket", stage="refiner", le="64.0") == 0


def test_a_caller_cannot_mint_a_series(metrics: Metrics) -> None:
    """Unknown models and RPCs get one label value each."""
    assert metrics.model("x" * 1000) == "other"
    other = ("bidi_stream", "_OTHER", "_OTHER")
    assert metrics.rpc("unary", "evil", "Method") == other
    assert metrics.rpc("bidi_stream", "imagegen.v1.ImageGen", "GenerateImage") == other
    known = ("server_stream", "imagegen.v1.ImageGen", "GenerateImage")
    assert metrics.rpc(*known) == known


def test_registries_do_not_share(metrics: Metrics, value: Value) -> None:
    """Metrics in two registries count apart; twice in one is refused."""
    other = Metrics(CollectorRegistry(), models=("shapes",))
    other.set_draining(True)
    assert other.registry.get_sample_value("imagegen_draining") == 1
    assert value("imagegen_draining") == 0
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(metrics.registry, models=("shapes",))


def test_asking_for_the_wrong_kind_is_an_error(metrics: Metrics) -> None:
    """A counter is not had as a gauge."""
    from imagegen_server.telemetry.metrics import DRAINING, REJECTED

    with pytest.raises(TypeError, match="imagegen_rejected_total is a counter"):
        metrics.gauge(REJECTED, "quota")
    with pytest.raises(TypeError, match="imagegen_draining is a gauge"):
        metrics.histogram(DRAINING)


def test_what_the_server_tells_about_itself(metrics: Metrics, value: Value) -> None:
    """Model, build, draining, slow readers and GPU errors reach their series."""
    metrics.describe_model(
        "shapes",
        revision="abc",
        dtype="fp32",
        residency="both",
        load_seconds={core.Stage.BASE: 1.5, core.Stage.REFINER: 2.5},
        budget_bytes=1000,
        planned_bytes=800,
    )
    metrics.describe_build("0.1.0")
    metrics.set_draining(True)
    metrics.write_stalled(0.3)
    metrics.count_gpu_error("memory", "lost")
    assert value("imagegen_model_info", model="shapes", revision="abc", dtype="fp32", residency="both") == 1
    assert value("imagegen_build_info", version="0.1.0") == 1
    assert value("imagegen_model_loaded", model="shapes", stage="refiner") == 1
    assert value("imagegen_model_load_seconds", model="shapes", stage="base") == 1.5
    assert value("imagegen_memory_budget_bytes", model="shapes") == 1000
    assert value("imagegen_memory_planned_bytes", model="shapes") == 800
    assert value("imagegen_degraded", feature="refiner") == 0
    assert value("imagegen_draining") == 1
    assert value("imagegen_stream_write_stall_seconds_sum") == 0.3
    assert value("imagegen_stream_write_stall_seconds_bucket", le="0.25") == 0
    assert value("imagegen_gpu_collector_errors_total", call="memory", error="lost") == 1
    metrics.set_serving(True)
    metrics.auth_failed("expired")
    assert value("imagegen_serving") == 1
    assert value("imagegen_auth_failures_total", reason="expired") == 1
    metrics.set_draining(False)
    assert value("imagegen_draining") == 0


def test_the_documentation_is_the_catalogue() -> None:
    """docs/metrics.md is what `make metrics-reference` writes."""
    assert DOCS.read_text(encoding="utf-8") == reference.markdown()


def test_the_documentation_has_every_label_and_every_feature() -> None:
    """Every label of the catalogue has a row, and so have the metrics whose values of a shared label are their own."""
    labels = reference.markdown().partition("## Labels")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in labels.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row.partition(" of ")[0])}
    assert told == {label for metric in CATALOGUE for label in metric.labels}
    several = {f"{metric.name.removeprefix('imagegen_')}" for metric in CATALOGUE if "reason" in metric.labels}
    assert {name for row in rows for name in re.findall(r"`reason` of `([a-z_]+)`", row)} == several
    assert set(closed_sets.DEGRADED_FEATURES) == set(core.Feature)


def test_the_documentation_has_every_metric_and_bucket() -> None:
    """Every metric is in one row with its kind, labels and meaning, and every histogram's bounds are listed."""
    page = reference.markdown()
    for metric in CATALOGUE:
        row = f"| `{metric.name}` | {metric.kind.value} | {', '.join(metric.labels)} | {metric.help} |"
        assert page.count(row) == 1, metric.name
        bounds = f"| `{' '.join(f'{bound:.12g}' for bound in metric.buckets)}` |"
        assert not metric.buckets or any(
            line.startswith(bounds) and f"`{metric.name}`" in line for line in page.splitlines()
        )
