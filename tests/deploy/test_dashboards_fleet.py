"""What the dashboards say of several servers, of which one is in trouble: promtool computes the panels' own queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from dashboards import rendered
from support import promtool, rules

_A: Final = 'job="imagegen-server",instance="a"'
_B: Final = 'job="imagegen-server",instance="b"'
_ONE_IS_DOWN: Final = {
    f"up{{{_A}}}": "1x180",
    f"up{{{_B}}}": "1x60 0x120",
    f"imagegen_serving{{{_A}}}": "1x180",
    f"imagegen_serving{{{_B}}}": "1x60 stale",
    f'imagegen_gpu_health{{{_A},gpu="0"}}': "1x180",
    f'imagegen_gpu_health{{{_B},gpu="0"}}': "1x60 stale",
}
_ONE_IS_ON_A_CPU: Final = {
    f"up{{{_A}}}": "1x180",
    f"up{{{_B}}}": "1x180",
    f"imagegen_gpu_collector_up{{{_A}}}": "1x120 0x60",
    f"imagegen_gpu_collector_up{{{_B}}}": "0x180",
    f'imagegen_gpu_health{{{_A},gpu="0"}}': "1x180",
}
_ONE_IS_FULL: Final = {
    f'imagegen_requests_queued{{{_A},model="sdxl"}}': "64x180",
    f'imagegen_queue_capacity{{{_A},model="sdxl"}}': "64x180",
    f'imagegen_requests_queued{{{_B},model="sdxl"}}': "0x180",
    f'imagegen_queue_capacity{{{_B},model="sdxl"}}': "16x180",
}
_ONE_IS_READ_SLOWLY: Final = {
    f'imagegen_requests_in_flight{{{_A},model="sdxl"}}': "0x60 1x120",
    f'imagegen_requests_delivering{{{_A},model="sdxl"}}': "0x60 1x20 0x100",
    f'imagegen_stage_steps_total{{{_A},model="sdxl",stage="base"}}': "50x180",
}
_ONE_DIED: Final = {
    f"process_start_time_seconds{{{_A}}}": "0x180",
    f"process_start_time_seconds{{{_B}}}": "0x100 6000x9 6600x70",
}


@pytest.mark.parametrize(
    ("title", "series", "values"),
    [
        ("All serving", _ONE_IS_DOWN, {"50m": {"": 1}, "100m": {"": 0}}),
        ("Healthy", _ONE_IS_DOWN, {"50m": {"": 1}, "100m": {"": 0}}),
        ("Healthy", _ONE_IS_ON_A_CPU, {"50m": {"": 1}}),
        ("Readings", _ONE_IS_ON_A_CPU, {"50m": {"": 1}, "150m": {"": 0}}),
        ("Queue taken", _ONE_IS_FULL, {"50m": {"": 1}}),
        ("Waiting", _ONE_IS_FULL, {"50m": {"a": 64, "b": 16}}),
        ("Stuck", _ONE_IS_READ_SLOWLY, {"50m": {"": 0}, "75m": {"": 0}, "100m": {"": 1}}),
        ("Restarts", _ONE_DIED, {"50m": {"a": 0, "b": 0}, "120m": {"a": 0, "b": 2}}),
    ],
)
def test_a_panel_tells_of_the_one_server_in_trouble(
    tmp_path: Path, title: str, series: dict[str, str], values: dict[str, dict[str, float]]
) -> None:
    """`values` are those of the panel's last query by time and instance; without an instance it is over all."""
    expr = next(
        rendered.bound(query.expr)
        for dashboard in rendered.dashboards()
        for query in reversed(rendered.queries(dashboard))
        if query.title == title and (query.type == "stat" or len(next(iter(values.values()))) > 1)
    )
    cases = [
        {
            "eval_time": time,
            "expr": expr,
            "exp_samples": [
                {"labels": f'{{instance="{instance}"}}' if instance else "{}", "value": value}
                for instance, value in expected.items()
            ],
        }
        for time, expected in values.items()
    ]
    assert "SUCCESS" in promtool.run("promtool", "test", "rules", _written(tmp_path, series, cases))


def _written(directory: Path, series: dict[str, str], cases: list[dict[str, Any]]) -> Path:
    """Returns a promtool test, in JSON, which is YAML."""
    test = {
        "rule_files": [str(rules.PROMETHEUS / "rules" / "recording.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": cases,
            }
        ],
    }
    path = directory / "fleet.yml"
    path.write_text(json.dumps(test), encoding="utf-8")
    return path
