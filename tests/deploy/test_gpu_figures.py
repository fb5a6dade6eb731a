"""What is deployed on GPUs keeps to what was measured on one: the precision, the objective for latency, the drains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagegen_server import models, settings
from support.manifests import built

ROOT = Path(__file__).resolve().parents[2]
TABLES: dict[str, Any] = json.loads((ROOT / "docs" / "benchmarks-gpu.json").read_text(encoding="utf-8"))["tables"]
LADDER = {row["precision"]: row for row in TABLES["precision ladder, 1024x1024, random weights"]}
RULES = (ROOT / "deploy" / "prometheus" / "rules" / "recording-slo.yml").read_text(encoding="utf-8")
SDXL = next(profile for profile in models.model_profiles() if profile.name == "sdxl")
SLOWER = 4
"""By how much a GPU may be slower than the one that was measured."""


def _compose() -> dict[str, str]:
    """Returns the variables of the compose file for GPUs, with compose's ${NAME:-default} replaced by the default."""
    read = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yaml").read_text(encoding="utf-8"))
    given: dict[str, str] = read["services"]["imagegen-server"]["environment"]
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in given.items()}


VARIABLES = {"compose": _compose(), "kubernetes": built("gpu").variables}
every_deployment = pytest.mark.parametrize("where", sorted(VARIABLES))


def _one_image(precision: str) -> float:
    """Returns the seconds of one image with the profile's defaults."""
    row, steps = LADDER[precision], SDXL.defaults
    base = steps.num_inference_steps * row["base_step_ms"]
    refined = steps.refiner_num_inference_steps * row["refiner_step_ms"]
    return float(base + refined + row["vae_ms"]) / 1000


def _step(table: str, rows: int) -> float:
    """Returns the milliseconds of a step at 1024x1024, in bf16."""
    return next(float(row["ms"]) for row in TABLES[table] if (row["side"], row["rows"]) == (1024, rows))


@every_deployment
def test_the_objective_can_be_met(where: str) -> None:
    """An image takes less than half of the threshold, on a slower GPU as well; in what `auto` chooses it would not."""
    (threshold,) = {float(bound) for bound in re.findall(r'le="([\d.]+)"', re.sub(r"#.*", "", RULES))}
    chosen = settings.parse([], VARIABLES[where])
    assert SLOWER * _one_image(chosen.precision) < threshold / 2
    assert _one_image("fp32") > threshold, "the comments beside the rule and the settings say so"


@every_deployment
def test_a_full_device_ends_in_the_grace_period(where: str) -> None:
    """As many single images as run at one time, in batches of the profile's rows, on a slower GPU as well."""
    chosen = settings.parse([], VARIABLES[where])
    assert chosen.precision == "bf16", "what was measured with several rows"
    assert chosen.row_budget is None
    batches = chosen.max_running / (SDXL.row_budget / 2)
    base = SDXL.defaults.num_inference_steps * _step("steps of the base", SDXL.row_budget)
    refined = SDXL.defaults.refiner_num_inference_steps * _step("steps of the refiner", SDXL.row_budget)
    decoded = chosen.max_running * LADDER["bf16"]["vae_ms"]
    seconds = (batches * (base + refined) + decoded) / 1000
    assert SLOWER * seconds < chosen.grace_period
    assert f"take {seconds:.0f} s on an H200" in " ".join(_text(where).replace("#", "").split())


def _text(where: str) -> str:
    """Returns the file that sets the grace period, whose comment has the figure."""
    files = {"compose": "compose.gpu.yaml", "kubernetes": "kubernetes/overlays/gpu/settings.env"}
    return (ROOT / "deploy" / files[where]).read_text(encoding="utf-8")
