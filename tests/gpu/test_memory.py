"""The memory plan against what is measured, swapping, and running out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpu.drive import crowd, generate
from gpu.figures import Figures
from gpu.site import Site, asked, load, load_or_skip, running
from imagegen_server.core import Precision, Residency, Stage
from imagegen_server.errors import DoesNotFit, OutOfDeviceMemory


def test_the_plan_covers_the_measured_peak(site: Site, measured: Figures) -> None:
    """A full batch of the native size through every stage stays within what the memory plan set aside."""
    with running(load(site, site.half)) as runner:
        loaded = runner.describe()
        plan, rows = loaded.memory_plan, loaded.profile.row_budget
        runner.reset_peak_memory()
        generate(site, runner, asked(site, num_inference_steps=2))
        for stage in (Stage.BASE, Stage.REFINER):
            with crowd(site, runner, rows=rows, side=site.native, stage=stage) as jobs:
                results = runner.step(stage, jobs)
                assert [result.failure for result in results] == [None] * len(jobs)
        peak = runner.peak_memory_bytes()
    planned = plan.weights_bytes + plan.working_bytes
    measured.add(
        "memory of a full batch",
        precision=str(plan.precision),
        residency=str(plan.residency),
        rows=rows,
        weights_gb=plan.weights_bytes / 1e9,
        planned_gb=planned / 1e9,
        peak_gb="not measured" if peak is None else peak / 1e9,
    )
    assert (peak is not None) == site.has_own_memory
    if peak is not None:
        assert plan.weights_bytes <= peak * 1.02, "the plan counts weights that are not there"
        assert peak <= planned


def test_swapping_makes_the_same_image_in_less_memory(site: Site, measured: Figures) -> None:
    """With a budget too small for both UNets they take turns on the device, and the image stays the same."""
    request = asked(site, num_inference_steps=3)
    with running(load(site, site.half)) as runner:
        both = runner.describe().memory_plan
        whole = generate(site, runner, request)
    budget = both.weights_bytes + both.working_bytes - 1
    if not site.has_own_memory:
        with pytest.raises(DoesNotFit):  # a CPU has nowhere to swap to
            load(site, site.half, budget=budget)
        return
    with running(load(site, site.half, budget=budget)) as runner:
        plan = runner.describe().memory_plan
        runner.reset_peak_memory()
        swapped = generate(site, runner, request)
        again = generate(site, runner, request)
        peak = runner.peak_memory_bytes() or 0
    for name, run in (("both", whole), ("swap", again)):
        seconds = {f"{stage}_s": duration for stage, duration in run.seconds.items()}
        measured.add("residency, 3 base steps", residency=name, **seconds)
    measured.add("memory while swapping", budget_gb=budget / 1e9, peak_gb=peak / 1e9)
    assert plan.residency is Residency.SWAP
    assert swapped.pixels == whole.pixels
    assert again.pixels == whole.pixels
    assert peak <= budget


def test_running_out_of_memory_has_its_own_error_and_passes(site: Site) -> None:
    """A step that does not fit raises OutOfDeviceMemory, advances no job, and works once there is room."""
    if not site.has_own_memory:
        pytest.skip("a CPU's memory cannot be filled without harm to others")
    with (
        running(load(site, site.half)) as runner,
        crowd(site, runner, rows=8, side=site.native, stage=Stage.BASE) as jobs,
    ):
        runner.step(Stage.BASE, jobs)  # the libraries get their handles and workspaces
        with _filled(leave_bytes=64 * 2**20), pytest.raises(OutOfDeviceMemory):
            runner.step(Stage.BASE, jobs)
        results = runner.step(Stage.BASE, jobs)
    assert [result.failure for result in results] == [None] * len(jobs)


@contextmanager
def _filled(leave_bytes: int) -> Iterator[None]:
    """Takes nearly all free device memory for the time of the context."""
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(free - leave_bytes, 1), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()


def test_precisions_are_planned_before_loading(site: Site, measured: Figures) -> None:
    """The plan of each precision holds for the weights that are then loaded: their bytes are equal."""
    for precision in (site.half, Precision.FP32):
        pair = load_or_skip(site, precision)
        planned = {component.name: component.bytes for component in pair.memory_plan.components}
        modules = {"base.unet": pair.base.unet, "refiner.unet": pair.refiner.unet, "vae": pair.base.vae}
        modules |= {"text_encoder": pair.base.text_encoder, "text_encoder_2": pair.base.text_encoder_2}
        loaded = {
            name: sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
            for name, module in modules.items()
        }
        measured.add("weights", precision=str(precision), gb=sum(loaded.values()) / 1e9)
        assert loaded == planned
        with running(pair):
            del pair, modules
