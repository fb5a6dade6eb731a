"""When an image is previewed. Pure."""

from __future__ import annotations

from imagegen_server.core import STEP_STAGES, Plan, Stage


def preview_evaluations(plan: Plan, count: int) -> frozenset[tuple[Stage, int]]:
    """Returns after which evaluations of which stage (counted from 1) an image is previewed.

    Evenly spread over the steps of both step stages, with the same distance before the first as after the last: right
    after the last step the image itself follows. Fewer than `count` if there are fewer steps. A second-order step is
    over with its second evaluation.
    """
    steps = [
        (planned.stage, -(-planned.evaluations * step // planned.steps))
        for planned in plan.stages
        if planned.stage in STEP_STAGES
        for step in range(1, planned.steps + 1)
    ]
    after = {max(1, len(steps) * number // (count + 1)) for number in range(1, count + 1)} if steps else set()
    return frozenset(steps[step - 1] for step in after)
