"""Every query of every panel, variable, rule and alert, against a real Prometheus after a scenario with every fault."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trustme

from dashboards import rendered
from imagegen.v1.imagegen_pb2_grpc import ImageGenStub
from imagegen_server.core import Outcome
from imagegen_server.observe.kinds import FAKE_ARGUMENTS
from imagegen_server.observe.load import drive
from imagegen_server.observe.prometheus import Prometheus, Series
from support import promql
from support.certificates import write
from support.http import fetch
from support.http_edge import in_front_of
from support.live_server import LiveServer, live_server, open_channel
from support.load import NARROW, generate, read_slowly, request
from support.prometheus import JOB, prometheus
from support.promtool import program
from support.rules import Rule, load_rules
from support.waiting import eventually

SECONDS: Final = 20
GPU: Final = {
    "memory_total": 34e9,
    "memory_used": 33e9,
    "temperature": 93,
    "throttle": {"thermal": 0.5, "power": 0.1},
    "ecc": {"corrected": [[0, 0], [20, 2]], "uncorrected": [[0, 0], [20, 1]]},
    "xids": [[20, 79]],
    "errors": {"clock": "not_supported", "processes": "no_permission"},
    "allocator": {
        "allocated_bytes": 2.0e10,
        "reserved_bytes": 2.4e10,
        "allocated_peak_bytes": 2.2e10,
        "inactive_split_bytes": 1e9,
        "alloc_retries": 3,
        "ooms": 1,
    },
}
"""A GPU with every trouble, some of it after the first scrapes, so that it shows as an increase."""
_CALM: Final = json.dumps({key: value for key, value in GPU.items() if key in {"memory_total", "allocator"}})

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(kw_only=True, frozen=True)
class Scenario:
    """What ran, and the Prometheus that watched it."""

    prometheus: Prometheus
    start: float
    end: float
    """Unix time."""
    outcomes: dict[Outcome, int]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """A server under a mixed load, one idle with TLS and without a refiner, one that crashed behind an Envoy."""
    program("prometheus")  # or the test is skipped
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> LiveServer:
            return stack.enter_context(live_server(tmp_path_factory.mktemp(name), *arguments))

        busy = start("busy", *FAKE_ARGUMENTS, f"--gpu-script={json.dumps(GPU)}")
        idle = start("idle", "--no-use-refiner", f"--gpu-script={_CALM}", *_certificate(tmp_path_factory.mktemp("tls")))
        doomed = start("doomed")
        edge = stack.enter_context(in_front_of(doomed))
        ports = [server.metrics_port for server in (busy, idle, doomed)]
        directory = tmp_path_factory.mktemp("prometheus")
        own = [f"127.0.0.1:{edge.metrics_port}"]
        watching = stack.enter_context(prometheus(directory, *(f"127.0.0.1:{port}" for port in ports), edges=own))
        began = time.time()
        eventually(lambda: len(watching.instant("up == 1")) == 4, "not every server is scraped, nor Envoy")
        with open_channel(doomed.address) as channel:
            generate(channel, request("a cat {base:crash@2}"))
        assert fetch(f"{edge.url}/api/media/models").status == 503
        with open_channel(busy.address, *NARROW) as channel:  # the load's slow reader may find a wide one
            large = request("a cat {noise}", width=1024, height=1024)
            assert [*read_slowly(ImageGenStub(channel).GenerateImage(large))]
        outcomes = asyncio.run(drive(busy.address, busy.address, SECONDS))
        eventually(busy.idle, "generations are left in flight")
        eventually(lambda: len(watching.instant("up == 0")) == 1, "the crash was not seen")
        errors = ("imagegen_gpu_xid_errors_total", "imagegen_gpu_ecc_errors_total")  # after the first readings
        eventually(lambda: all(map(busy.metrics().total, errors)), "the GPU's errors never came")
        for names in (("up",), ("ALERTS", *(rule.name for rule in RECORDING))):  # the last samples, and what rules make
            eventually(partial(_are_newer, watching, names, time.time()), f"no new samples of {names}")
        yield Scenario(prometheus=watching, start=began, end=time.time(), outcomes=dict(outcomes))


def _are_newer(watching: Prometheus, names: Sequence[str], when: float) -> bool:
    """Returns whether there are series of each name, and each has a sample from after a Unix time."""
    oldest = [watching.instant(f"min(timestamp({name}))") for name in names]
    return all(found and found[0].points[0][1] > when for found in oldest)


def _certificate(directory: Path) -> tuple[str, ...]:
    """Returns the arguments of a server with TLS."""
    certificate, key = write(trustme.CA().issue_cert("localhost"), directory)
    return f"--tls-certificate={certificate}", f"--tls-key={key}"


RECORDING: Final = [rule for rule in load_rules() if not rule.alert]
ALERTS: Final = [rule for rule in load_rules() if rule.alert]
QUERIES: Final = [query for dashboard in rendered.dashboards() for query in rendered.queries(dashboard)]


def _check(series: list[Series], what: str) -> None:
    """Checks that an answer has series, and only numbers."""
    assert series, f"{what}: empty"
    for one in series:
        assert not any(math.isnan(value) for _, value in one.points), f"{what}: NaN in {one.labels}"


def test_the_scenario_has_every_outcome(scenario: Scenario) -> None:
    """Without a fault of each kind, the queries below would prove little."""
    assert all(scenario.outcomes[outcome] > 0 for outcome in Outcome), scenario.outcomes


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.dashboard}-{q.title}-{q.ref_id}")
def test_every_panel_and_variable_has_data(scenario: Scenario, query: rendered.PanelQuery) -> None:
    """As Grafana would ask at the end of the scenario: not empty, and no NaN."""
    expr = rendered.bound(query.expr, job=JOB, rate_interval="2m", range_="2m")
    _check(scenario.prometheus.instant(expr, at=scenario.end), f"{query.title}: {expr}")


@pytest.mark.parametrize("rule", RECORDING, ids=lambda rule: rule.name)
def test_every_recording_rule_has_data(scenario: Scenario, rule: Rule) -> None:
    """What it recorded, and what its expression gives: not empty, and no NaN."""
    for expr in (rule.name, rule.expr):
        _check(scenario.prometheus.instant(expr, at=scenario.end), expr)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_reads_series_that_exist(scenario: Scenario, rule: Rule) -> None:
    """The whole is accepted, with no NaN; each selection of series in it has data, whether or not it fires."""
    for one in scenario.prometheus.instant(rule.expr, at=scenario.end):
        assert not any(math.isnan(value) for _, value in one.points), rule.expr
    for selector in promql.selectors(rule.expr):
        matchers = [f'{label}="{value}"' for label, value in selector.equal]
        matchers += [f'{label}=~"{value}"' for label, value in selector.matches]
        expr = f"{selector.name}{{{','.join(matchers)}}}"
        _check(scenario.prometheus.instant(expr, at=scenario.end), f"{rule.name}: {expr}")


def test_the_troubles_of_the_scenario_raise_their_alerts(scenario: Scenario) -> None:
    """A crashed server, an unhealthy GPU and their like are pending or firing; what is well is silent."""
    raised = {series.labels["alertname"] for series in scenario.prometheus.instant("ALERTS", at=scenario.end)}
    expected = {"ImageGenDown", "ImageGenGpuXid", "ImageGenGpuEccUncorrected", "ImageGenGpuUnhealthy", "ImageGenGpuHot"}
    assert expected <= raised, raised
    assert not {"ImageGenCertExpiry", "ImageGenAuthFailureSpike", "ImageGenDrainingTooLong"} & raised


def test_what_was_accepted_ended(scenario: Scenario) -> None:
    """Conservation, in Prometheus' own words: nothing is in flight, and calls that started were handled."""
    at = scenario.end
    for expr in (
        "sum(imagegen_requests_in_flight)",
        "sum(imagegen_requests_queued)",
        'sum(grpc_server_started_total{grpc_service="imagegen.v1.ImageGen"})'
        ' - sum(grpc_server_handled_total{grpc_service="imagegen.v1.ImageGen"})',
    ):
        (series,) = scenario.prometheus.instant(expr, at=at)
        assert series.points[0][1] == 0, expr
