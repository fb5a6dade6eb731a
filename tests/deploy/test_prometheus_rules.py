"""The rules hold together: promtool accepts them, each is tested, each alert has its entry, each name exists."""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from pathlib import Path

import pytest

import imagegen_server
from dashboards import rendered
from imagegen_server import settings
from support import promql, promtool, rules

SEVERITIES = {"page", "ticket", "info"}
BURN_RATES = [
    ("1h", "5m", "14.4", "page"),
    ("6h", "30m", "6", "page"),
    ("1d", "2h", "3", "ticket"),
    ("3d", "6h", "1", "ticket"),
]
"""Google's SRE Workbook, chapter 5: windows, factor, severity."""
ALL = rules.load_rules()
ALERTS = [rule for rule in ALL if rule.alert]
RECORDED = [rule for rule in ALL if not rule.alert]
TEXT = rules.RUNBOOK.read_text(encoding="utf-8")


def names(of: list[rules.Rule]) -> list[str]:
    """The names of rules, for the ids of tests."""
    return [rule.name for rule in of]


@pytest.fixture(scope="module")
def known() -> rules.Known:
    return rules.Known(rule.name for rule in RECORDED)


def problems(expr: str, known: rules.Known) -> list[str]:
    """What is wrong with the names in an expression."""
    return [problem for selector in promql.selectors(expr) if (problem := known.problem(selector))]


def test_promtool_accepts_the_configuration() -> None:
    """And with it every rule file and every file of targets."""
    printed = promtool.run("promtool", "check", "config", rules.PROMETHEUS / "prometheus.yml")
    for path in rules.RULES:
        assert f"Checking {path}" in printed


def test_promtool_finds_nothing_to_complain_about_in_the_rules() -> None:
    assert "FAILED" not in promtool.run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *rules.RULES)


@pytest.mark.parametrize("path", rules.PROMTOOL_TESTS, ids=lambda path: path.stem)
def test_promtool_agrees_with_every_expected_value(path: Path) -> None:
    assert "SUCCESS" in promtool.run("promtool", "test", "rules", path)


def test_amtool_accepts_where_alerts_go() -> None:
    assert "SUCCESS" in promtool.run("amtool", "check-config", rules.DEPLOY / "alertmanager" / "alertmanager.yml")


def test_both_directories_of_targets_have_the_same_files() -> None:
    """One is mounted in place of the other."""
    here, compose = (
        {path.name for path in (rules.PROMETHEUS / name).iterdir()} for name in ("targets", "targets-compose")
    )
    assert here == compose == {"imagegen-server.yml", "imagegen-http.yml", "alertmanager.yml"}


def test_no_name_is_used_twice() -> None:
    assert [name for name, count in Counter(names(ALL)).items() if count > 1] == []


def test_every_alert_has_two_cases_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, silent = rules.promtool_cases()
    assert {name: fires[name] for name in names(ALERTS) if fires[name] < 2} == {}
    assert [name for name in names(ALERTS) if not silent[name]] == []
    assert set(fires) | set(silent) == set(names(ALERTS))


def test_every_recorded_series_has_a_case_with_its_value() -> None:
    tested = {name for expr in rules.promtool_values() for name in promql.metric_names(expr)}
    assert [name for name in names(RECORDED) if name not in tested] == []


@pytest.mark.parametrize("rule", RECORDED, ids=names(RECORDED))
def test_a_recorded_name_is_level_metric_operations(rule: rules.Rule) -> None:
    """The level lists labels that the expression keeps."""
    assert re.fullmatch(
        r"(job|instance)(_(model|stage|reason|gpu))*:imagegen_[a-z_]+:(ratio|ratio_rate\w+|ratio_avg\w+|p\d+_rate\w+)",
        rule.name,
    )


@pytest.mark.parametrize("rule", ALL, ids=names(ALL))
def test_every_metric_label_and_value_of_an_expression_exists(rule: rules.Rule, known: rules.Known) -> None:
    """In the catalogue, among what is recorded, or made by Prometheus."""
    assert problems(rule.expr, known) == []


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("rate(imagegen_fallback_total[5m]) > 0", "imagegen_fallback_total is neither"),
        ("imagegen_request_duration_seconds > 1", "imagegen_request_duration_seconds is neither"),
        ("instance:imagegen_queue_saturation:ratio > 1", "instance:imagegen_queue_saturation:ratio is neither"),
        ('imagegen_degraded{what="refiner"} == 1', "has no label what"),
        ('instance_model:imagegen_queue_saturation:ratio{stage="base"} > 1', "has no label stage"),
        ('imagegen_degraded{feature="refinery"} == 1', "no series imagegen_degraded"),
        ('imagegen_request_duration_seconds_bucket{le="30"}', "no series imagegen_request_duration_seconds_bucket"),
        ('grpc_server_handled_total{grpc_code=~"Internal|UNAVAILABLE"}', "UNAVAILABLE"),
        ('imagegen_gpu_throttle_seconds_total{reason="heat"}', "no series imagegen_gpu_throttle_seconds_total"),
    ],
)
def test_a_wrong_name_label_or_value_is_found(expr: str, wrong: str, known: rules.Known) -> None:
    (problem,) = problems(expr, known)
    assert wrong in problem


def test_metric_names_are_found_wherever_an_expression_may_have_them() -> None:
    expr = (
        'sum by (le) (rate(a_bucket{x="in_a_string"}[5m] offset 1d)) / on (b) group_left (c) clamp_min(l:d:m, 1) '
        'or {__name__="e"} unless max_over_time(rate(f[1m])[1h:1m]) and topk(scalar(g), absent(h)) # in_a_comment'
    )
    assert promql.metric_names(expr) == {"a_bucket", "l:d:m", "e", "f", "g", "h"}
    for unnamed in ('{job="x"}', '{__name__=~"a.*"}', "a{", "rate(a[$__rate_interval])"):
        with pytest.raises(ValueError, match=r"."):
            promql.metric_names(unnamed)


@pytest.mark.parametrize("rule", ALERTS, ids=names(ALERTS))
def test_every_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(rule: rules.Rule) -> None:
    """The entry in the runbook begins with the severity."""
    assert rule.name.startswith("ImageGen")
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "runbook_url"}
    assert rule.annotations["summary"].endswith(".")
    assert "{{ $labels.job }}" in rule.annotations["description"]
    base, _, anchor = rule.annotations["runbook_url"].partition("#")
    assert anchor == rule.name.lower()
    assert rules.headings(TEXT)[anchor] == rule.name
    assert f"`{base}`" in TEXT, "the runbook does not say what to replace"
    assert rules.entries(TEXT)[rule.name].strip().startswith(f"**{rule.labels['severity'].capitalize()}.**")


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    assert list(rules.entries(TEXT)) != []
    assert [name for name in rules.entries(TEXT) if name not in names(ALERTS)] == []


def test_every_link_in_the_runbook_leads_somewhere() -> None:
    anchors = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert anchors - set(rules.headings(TEXT)) == set()


def test_the_runbook_names_flags_events_panels_and_metrics_that_exist(known: rules.Known) -> None:
    """What somebody types or looks for at night is there."""
    flags = {"--" + name.replace("_", "-") for group in settings.GROUPS for name in group.model_fields}
    edge = {"--metrics", "--images"}  # of http_edge.configure
    others = {
        "--no-log-prefix",
        "--since",
        "--rm",
        "--field-selector",
        "--force",
        "--mode",
    }  # docker's, kubectl's, Envoy's
    used = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", TEXT))
    assert used - flags - edge - others - {"--no-use-refiner", "--help"} == set()
    server = Path(imagegen_server.__file__).parent
    telemetry = ("log_observer.py", "logs.py", "store_observer.py", "gpu_faults.py")
    files = (server / "app.py", *(server / "telemetry" / name for name in telemetry))
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    events = set(re.findall(r'\.event == "([^"]+)"', TEXT))
    assert {event for event in events if f'"{event}"' not in source} == set()
    shown = [rendered.load(path)["title"] for path in rendered.dashboards()]
    shown += [
        title
        for path in rendered.dashboards()
        for row, panel in rendered.panels(path)
        for title in (row, panel["title"])
    ]
    others = {"XID Errors", "row remapping failure", "version mismatch"}  # NVIDIA's words
    prose = " ".join(re.sub(r"```.*?```|`[^`]*`|\*\*", "", TEXT, flags=re.DOTALL).split())
    assert set(re.findall(r"\*([^*]+)\*", prose)) - set(shown) - others == set()
    for query in re.findall(r"```promql\n(.*?)```", TEXT, flags=re.DOTALL):
        assert problems(query, known) == []


@pytest.mark.parametrize("window", BURN_RATES, ids=[window[0] for window in BURN_RATES])
@pytest.mark.parametrize(
    ("objective", "series", "budget"),
    [
        ("Availability", "job:imagegen_failed_calls_per_calls:ratio_rate", "0.005"),
        ("Latency", "job_model:imagegen_slow_generations_per_generations:ratio_rate", "0.05"),
        ("Saturation", "job:imagegen_refused_calls_per_calls:ratio_rate", "0.05"),
    ],
)
def test_a_burn_rate_compares_both_windows_with_its_share_of_the_budget(
    objective: str, series: str, budget: str, window: tuple[str, str, str, str]
) -> None:
    """Saturation has tickets only."""
    long, short, factor, severity = window
    found = [rule for rule in ALERTS if rule.name == f"ImageGen{objective}Burn{long}"]
    if objective == "Saturation" and severity == "page":
        assert found == []
        return
    (rule,) = found
    limit = f"> ({factor} * {budget})"
    assert rule.expr.split() == f"{series}{long} {limit} and {series}{short} {limit}".split()
    assert rule.labels == {"severity": severity, "slo": objective.lower(), "window": long}


def test_the_runbook_address_is_one_and_a_web_address() -> None:
    (base,) = {rule.annotations["runbook_url"].partition("#")[0] for rule in ALERTS}
    assert urllib.parse.urlsplit(base).scheme == "https"
