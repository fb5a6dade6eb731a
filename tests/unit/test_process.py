"""What the edge sees of the process."""

from __future__ import annotations

import dataclasses

from imagegen_server.core import LoadedModel, Residency
from imagegen_server.models.fake.runner import FakeRunner
from imagegen_server.models.profiles import bare_profile
from imagegen_server.process import Process
from support.engines import engine_of


class Swapping(FakeRunner):
    """Gives residency up when it is told to."""

    residency = Residency.BOTH

    def describe(self) -> LoadedModel:
        found = super().describe()
        plan = dataclasses.replace(found.memory_plan, residency=self.residency)
        return dataclasses.replace(found, memory_plan=plan)


def test_what_is_loaded_has_the_limits_it_was_served_with_and_the_memory_plan_in_force() -> None:
    """The first stay, the other is the runner's to change."""
    runner = Swapping(bare_profile("fake"))
    engine, process = engine_of(runner), Process(())
    assert process.loaded() is None
    profile = dataclasses.replace(runner.describe().profile, description="limited")
    served = dataclasses.replace(engine.loaded(), profile=profile)
    process.serve(engine, served)
    assert process.loaded() == served
    runner.residency = Residency.SWAP
    found = process.loaded()
    assert found is not None
    assert (found.memory_plan.residency, found.profile) == (Residency.SWAP, profile)
