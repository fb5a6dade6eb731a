"""One generation outside the books, before anybody is served."""

from __future__ import annotations

from collections.abc import Callable

from imagegen_server.core import GenerationRequest, Job
from imagegen_server.engine.estimate import PREPARING, CostModel
from imagegen_server.engine.runner import Runner


def rehearse(runner: Runner, request: GenerationRequest, cost: CostModel, clock: Callable[[], float]) -> None:
    """Runs one job through its plan and learns the costs. Raises what the runner raises."""
    plan = runner.plan(request)
    job = Job(request, 0)
    try:
        for planned in plan.stages:
            for evaluation in range(planned.evaluations):
                # the first pays for what is lazy, the second for the capture of a graph
                measured = evaluation == planned.evaluations - 1
                if measured:
                    runner.settle()
                started = clock()
                result = runner.step(planned.stage, [job])[0]
                if result.failure is not None:
                    raise result.failure
                if measured:
                    runner.settle()
                    now, shape = clock(), plan.latent_shape
                    paid = planned.evaluations > PREPARING
                    cost.observe(planned.stage, shape, planned.rows, now - started, now, prepared=paid)
    finally:
        runner.release(job)
