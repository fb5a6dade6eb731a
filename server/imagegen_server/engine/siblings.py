"""How long the images of one generation take together, with nobody else on the device. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imagegen_server.core import STEP_STAGES, GenerationRequest, Plan, Stage, StagePlan
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.rows import RowBudget
from imagegen_server.engine.settings import EngineSettings


def run_apart(request: GenerationRequest, settings: EngineSettings) -> bool:
    """Returns whether the images of a generation that is alone make their steps one by one, instead of in batches."""
    return settings.siblings_apart or request.isolate_batch


def seconds_together(
    plan: Plan, left: Callable[[StagePlan], Sequence[int]], cost: CostModel, rows: RowBudget, *, apart: bool
) -> float:
    """Returns the predicted device seconds of the evaluations that are left.

    Args:
        plan: what each image executes.
        left: the evaluations that are left in a stage, of each image that is or will be there.
        cost: what evaluations take.
        rows: most rows of a batch.
        apart: whether the images make their steps one by one, instead of in batches.
    """
    total = 0.0
    for planned in plan.stages:
        evaluations = sorted(left(planned), reverse=True)
        shared = planned.stage in STEP_STAGES and not apart
        together = max(rows(planned.stage, plan.latent_shape) // planned.rows, 1) if shared else 1
        for first in range(0, len(evaluations), together):
            group = evaluations[first : first + together]
            total += group[0] * cost.seconds(planned.stage, plan.latent_shape, len(group) * planned.rows)
    return total


def evaluations_of(planned: StagePlan, images: int, *, without: Stage | None) -> Sequence[int]:
    """Returns the evaluations of a stage that are left of images that have not begun; text is encoded once for all."""
    if planned.stage is without:
        return ()
    return [planned.evaluations] * (1 if planned.stage is Stage.TEXT_ENCODE else images)
