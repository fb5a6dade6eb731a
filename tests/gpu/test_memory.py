"""The memory plan against what is measured, swapping, and running out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from gpu.drive import crowd, generate, psnr
from gpu.figures import Figures
from gpu.site import Site, asked, load, load_or_skip, memory, running
from imagegen_server.core import Feature, Precision, Residency, Stage
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
        predicted_gb=plan.predicted_peak_bytes / 1e9,
        peak_gb="not measured" if peak is None else peak / 1e9,
    )
    assert (peak is not None) == site.has_own_memory
    if peak is not None:
        assert plan.weights_bytes <= peak * 1.02, "the plan counts weights that are not there"
        assert peak <= planned
        assert abs(plan.predicted_peak_bytes - peak) <= 0.1 * peak


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
    measured.add(
        "memory while swapping",
        budget_gb=budget / 1e9,
        predicted_gb=plan.predicted_peak_bytes / 1e9,
        peak_gb=peak / 1e9,
    )
    assert plan.residency is Residency.SWAP
    assert swapped.pixels == whole.pixels
    assert again.pixels == whole.pixels
    assert peak <= budget
    assert abs(plan.predicted_peak_bytes - peak) <= 0.1 * peak


def test_memory_is_given_up_step_by_step_and_no_request_fails_that_could_fit(site: Site, measured: Figures) -> None:
    """With less and less memory: graphs, then whole decodes, then both UNets resident; every image is delivered."""
    if not site.has_own_memory:
        pytest.skip("a CPU's memory cannot be limited without harm to others")
    request = asked(site, num_inference_steps=4)
    request = replace(request, refiner=replace(request.refiner, num_inference_steps=3))
    with running(load(site, site.half)) as runner:
        whole = generate(site, runner, request)
        plan = runner.describe().memory_plan
        weights = {part.name: part.bytes for part in plan.components}
        given_up: list[str] = []
        # Room for a decode in tiles but not for a whole one, then for one UNet but not for two.
        for room in (plan.weights_bytes + 1200 * 2**20, plan.weights_bytes - weights["base.unet"] // 2):
            with _limited(room):
                finished = generate(site, runner, request)
            taken = [str(item.feature) for item in runner.adaptations()]
            given_up += taken
            held = memory(site)
            measured.add(
                "out of memory",
                room_gb=room / 1e9,
                gave_up=" ".join(taken),
                held_gb=held / 1e9,
                psnr_db=psnr(whole.pixels, finished.pixels),
                seconds=sum(finished.seconds.values()),
            )
    assert given_up == [Feature.CUDA_GRAPHS, Feature.FULL_DECODE, Feature.RESIDENCY]


def test_a_batch_that_does_not_fit_has_its_own_error_and_passes(site: Site) -> None:
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
def _limited(most_bytes: int) -> Iterator[None]:
    """Lets this process have that much device memory, as a smaller card would."""
    import torch

    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, most_bytes / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


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
