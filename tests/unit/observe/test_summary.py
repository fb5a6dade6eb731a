"""What is said of what Prometheus saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imagegen_server.observe.prometheus import Prometheus, Series
from imagegen_server.observe.summary import STAGE_P95, what_was_seen


@dataclass(kw_only=True, frozen=True, slots=True)
class Answering(Prometheus):
    """A Prometheus with these p95 of stages, by model and stage, and nothing else."""

    p95: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def instant(self, expression: str, at: float | None = None) -> list[Series]:
        """Answers one expression."""
        found = self.p95 if expression == STAGE_P95 else {}
        return [
            Series(labels={"model": model, "stage": stage}, points=[(0.0, value)])
            for (model, stage), value in found.items()
        ]

    def alerts(self) -> list[dict[str, str]]:
        """Has none."""
        return []


def test_a_quantile_is_told_as_far_as_the_buckets_tell_it() -> None:
    """In the first bucket of a stage's histogram only its bound is known, beyond the last one likewise."""
    p95 = {("shapes", "image_encode"): 0.0475, ("shapes", "base"): 2.884, ("fake", "base"): 120.0}
    lines = what_was_seen(Answering(url="http://127.0.0.1:1", p95=p95)).splitlines()
    stages = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("  ") and line.split()}
    assert stages["image_encode"] == "\N{EN DASH} < 0.05"
    assert stages["base"] == "> 120 2.88"
