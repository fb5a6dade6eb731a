"""Running out of memory, rung by rung, in the real models; CUDA's own part is in tests/gpu."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import remove_hook_from_module

from imagegen_server import core
from imagegen_server.core import FallbackKind, Feature, Stage
from imagegen_server.errors import OutOfDeviceMemory
from imagegen_server.models import relief as relief_of
from imagegen_server.models.evaluation import compilation, tune
from imagegen_server.models.evaluation.forward import Evaluate, Key, Plain
from imagegen_server.models.evaluation.graphs import Graphed, GraphMemory
from imagegen_server.models.evaluation.preparation import evaluators, prepare
from imagegen_server.models.evaluation.traced import Traced
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.memory.plan import PlannedMemory
from imagegen_server.models.memory.residency import LAYOUTS
from imagegen_server.models.pair import LoadedPair, always_resident
from imagegen_server.models.relief import Relief
from imagegen_server.models.sdxl_runner import SDXLRunner
from imagegen_server.models.stages import steps
from imagegen_server.models.stages.decode import decode
from imagegen_server.warm_up import warm_up_request
from support.denoising import advance, finish_base, jobs_of, pixels_of, started, steps_of
from support.denoising import decode as decoded
from support.pairs import as_loaded, image_to_image, load_stock, request

DECODE = Stage.VAE_DECODE


@pytest.fixture(scope="module")
def pair(shapes_directory: Path) -> LoadedPair:
    return as_loaded(load_stock(shapes_directory))


@contextmanager
def too_small_for(vae: Any, side: int) -> Iterator[list[int]]:
    """Lets the VAE's decoder run out of memory for latents from a side on; gives the sides that it was asked for."""
    asked: list[int] = []

    def hook(_: Any, arguments: tuple[torch.Tensor]) -> None:
        asked.append(max(arguments[0].shape[-2:]))
        if asked[-1] >= side:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = vae.decoder.register_forward_pre_hook(hook)
    try:
        yield asked
    finally:
        handle.remove()


def ready(runner: SDXLRunner, **changes: Any) -> core.Job:
    """Returns a job whose base stage is over."""
    (job,) = started(runner, request(refiner=None, width=128, height=96, **changes))
    finish_base(runner, job)
    return job


def test_a_decode_that_does_not_fit_is_done_in_tiles(pair: LoadedPair) -> None:
    """With tiles that are smaller than the image, near to its pixels, declared, and without trying again next time."""
    runner = SDXLRunner(pair)
    job = ready(runner)
    whole = decode(pair.base, job.state.final[Stage.BASE])
    with too_small_for(pair.base.vae, 16) as asked:
        (result,) = runner.step(DECODE, [job])
        told = [(item.feature, item.message) for item in runner.adaptations()]
        assert told == [(Feature.FULL_DECODE, "128x96 images are decoded in tiles")]
        assert asked[0] == 16
        assert max(asked[1:]) < 16
        before = len(asked)
        other = ready(runner, seed=9)
        (again,) = runner.step(DECODE, [other])
        assert max(asked[before:]) < 16
    assert result.failure is None
    assert result.tiled
    assert again.tiled
    assert runner.adaptations() == []
    assert result.pixels is not None
    difference = np.abs(pixels(result.pixels).astype(int) - pixels(whole).astype(int))
    assert 0 < difference.mean() < 12, "seams are blended; what is far from them stays"


def pixels(image: core.Pixels) -> Any:
    return np.frombuffer(image.data, np.uint8)


def test_a_caller_that_does_not_allow_tiles_gets_none(pair: LoadedPair) -> None:
    """On a CPU nothing else can be given up, so the error says what is the matter; with room again it works."""
    runner = SDXLRunner(pair)
    job = ready(runner, allowed_fallbacks=frozenset({FallbackKind.REFINER_TO_BASE}))
    with too_small_for(pair.base.vae, 16), pytest.raises(OutOfDeviceMemory):
        runner.step(DECODE, [job])
    assert runner.adaptations() == []
    (result,) = runner.step(DECODE, [job])
    assert result.failure is None
    assert not result.tiled


def test_tiles_are_for_the_size_that_did_not_fit_and_for_who_allows_them(pair: LoadedPair) -> None:
    """From then on; another caller's image of that size is decoded whole, or fails."""
    relief = Relief({})
    (allows,) = jobs_of(request())
    (refuses,) = jobs_of(request(allowed_fallbacks=frozenset({FallbackKind.REFINER_TO_BASE})))
    assert not relief.tiled(allows, (16, 12))
    assert relief.take(pair, DECODE, [allows], (16, 12))
    assert [relief.tiled(job, (16, 12)) for job in (allows, refuses)] == [True, False]
    assert not relief.tiled(allows, (12, 16))
    assert not relief.take(pair, DECODE, [allows], (16, 12)), "it is in tiles already"


def test_what_is_noted_twice_is_told_once() -> None:
    """Of one feature for one reason, until it was asked for."""
    relief = Relief({})
    for why in ("one", "one", "other"):
        relief.note(Feature.CUDA_GRAPHS, why)
    assert [item.message for item in relief.adaptations()] == ["one", "other"]
    relief.note(Feature.CUDA_GRAPHS, "one")
    assert [item.message for item in relief.adaptations()] == ["one"]


def test_a_warm_up_may_decode_in_tiles(pair: LoadedPair) -> None:
    """As every request may that asks for nothing else: no model is swapped, and no start refused, for that."""
    runner = SDXLRunner(pair)
    asked = dataclasses.replace(warm_up_request(pair.profile), width=128, height=128)
    with too_small_for(pair.base.vae, 16):
        pixels_of(runner, jobs_of(asked))
    assert [item.feature for item in runner.adaptations()] == [Feature.FULL_DECODE]


@pytest.mark.parametrize("begins", ["begin_base_stage", "begin_refiner_stage"])
def test_a_stage_that_did_not_fit_when_it_began_can_begin_again(
    pair: LoadedPair, monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    """With the same noise, in the company it had: what ran out of memory is not held against the job."""
    runner = SDXLRunner(pair)
    asked = request(refiner=image_to_image())
    (expected,) = pixels_of(runner, jobs_of(asked))
    begin, failures = getattr(steps, begins), [torch.OutOfMemoryError("CUDA out of memory.")]

    def crowded(*arguments: Any) -> Any:
        begun = begin(*arguments)
        if failures:
            raise failures.pop()
        return begun

    monkeypatch.setattr(steps, begins, crowded)
    (job,) = started(runner, asked)
    refused = 0
    for stage in steps_of(runner, job):
        try:
            advance(runner, stage, [job])
        except OutOfDeviceMemory:
            refused += 1
            advance(runner, stage, [job])
    assert refused == 1
    assert np.array_equal(decoded(runner, job), expected)


def test_the_memory_plan_is_the_one_in_force(pair: LoadedPair) -> None:
    """When residency is given up, the runner tells it and makes the same image."""
    plan = dataclasses.replace(pair.memory_plan, residency=core.Residency.SWAP, explanation="memory ran out")
    runner = SDXLRunner(dataclasses.replace(pair, smaller=(PlannedMemory(plan=plan, layout=LAYOUTS[1], most_rows=2),)))
    asked = request(refiner=image_to_image())
    (expected,) = pixels_of(runner, jobs_of(asked))
    assert runner.describe().memory_plan is pair.memory_plan
    failures = [torch.OutOfMemoryError("CUDA out of memory.")]

    def hook(_: Any, __: Any) -> None:
        if failures:
            raise failures.pop()

    handle = pair.base.unet.register_forward_pre_hook(hook)
    try:
        (image,) = pixels_of(runner, jobs_of(asked))
        failures.append(torch.OutOfMemoryError("CUDA out of memory."))
        with pytest.raises(OutOfDeviceMemory):
            pixels_of(runner, jobs_of(asked))
    finally:
        handle.remove()
        for module in pair.modules().values():
            remove_hook_from_module(module)
    assert np.array_equal(image, expected)
    assert runner.describe() == dataclasses.replace(SDXLRunner(pair).describe(), memory_plan=plan)
    assert [(item.feature, item.message) for item in runner.adaptations()] == [(Feature.RESIDENCY, LAYOUTS[1].summary)]


class Captured(Graphed):
    """Stands for a UNet with a graph, which needs a GPU; it is captured as soon as it is asked for."""

    captured = False

    def __call__(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Evaluates it as it is."""
        self.captured = True
        return Plain(self._module)(*arguments, **named)

    def captured_keys(self) -> tuple[Key, ...]:
        """One graph, if any."""
        return ((2, 8, 8),) if self.captured else ()

    def clear(self) -> None:
        """Frees it."""
        self.captured = False


@pytest.mark.parametrize(("side", "kept"), [(8, False), (16, False), (32, True)])
def test_a_large_image_does_not_cost_the_others_their_graphs(pair: LoadedPair, side: int, kept: bool) -> None:
    """They are freed while it needs the room; what does not fit at the native size gives them up for good."""
    taken = Captured(pair.base.unet, memory=GraphMemory(), on_failure=lambda _: None)
    unets: dict[Stage, Evaluate] = {Stage.BASE: taken}
    relief = Relief(unets)
    taken.captured = True
    jobs = jobs_of(request(refiner=None))
    assert relief.take(pair, Stage.BASE, jobs, (side, side))
    assert not taken.captured
    assert (unets[Stage.BASE] is taken) is kept
    assert [item.feature for item in relief.adaptations()] == ([] if kept else [Feature.CUDA_GRAPHS])
    assert not relief.take(pair, Stage.BASE, jobs, (side, side)), "there is nothing left to give up"


def test_no_graph_survives_that_the_weights_take_turns(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would read them where they were: also the graphs that a large image had cost for the moment only."""
    monkeypatch.setattr(relief_of, "Swapper", lambda *_: SimpleNamespace(activate=always_resident))
    smaller = (PlannedMemory(plan=pair.memory_plan, layout=LAYOUTS[1], most_rows=2),)
    small = dataclasses.replace(pair, smaller=smaller)
    taken = Captured(pair.base.unet, memory=GraphMemory(), on_failure=lambda _: None)
    unets: dict[Stage, Evaluate] = {Stage.BASE: taken}
    relief, jobs = Relief(unets), jobs_of(request(refiner=None))
    taken.captured = True
    for _ in range(2):
        assert relief.take(small, Stage.BASE, jobs, (32, 32))
    assert small.layout is LAYOUTS[1]
    assert isinstance(unets[Stage.BASE], Plain)
    assert [item.feature for item in relief.adaptations()] == [Feature.CUDA_GRAPHS, Feature.RESIDENCY]


def test_a_batch_that_does_not_fit_is_left_to_the_engine(pair: LoadedPair) -> None:
    """Fewer jobs come first; the runner gives nothing up for a batch of several."""
    runner = SDXLRunner(pair)
    jobs = started(runner, request(refiner=None), request(seed=8, refiner=None))

    def hook(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = pair.base.unet.register_forward_pre_hook(hook)
    try:
        with pytest.raises(OutOfDeviceMemory):
            runner.step(Stage.BASE, jobs)
        for job in jobs:
            advance(runner, Stage.BASE, [job])
    finally:
        handle.remove()
    assert runner.adaptations() == []


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was compiled, which runs as it is; nothing of it is left behind but in the pair."""
    found: list[Any] = []

    def backend(module: Any, _: Any) -> Any:
        found.append(module)
        return module.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    yield found
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("compiled", ["regional", "full"])
def test_compiled_code_runs_for_what_it_was_compiled_for_only(
    pair: LoadedPair, compiled: Any, compilations: list[Any]
) -> None:
    """After the warm-up a batch of another size runs as it is: nothing is compiled on a request's path."""
    base = dataclasses.replace(pair, refiner=None)  # its UNet says enough, and to trace one takes seconds
    tuning = Tuning(compile=compiled, warm=((2, 8, 8),))
    plain = SDXLRunner(base)
    (reference,) = started(plain, request(refiner=None, width=64, height=64))
    advance(plain, Stage.BASE, [reference])
    notes: list[str] = []
    try:
        prepare(base, evaluators(base, tuning, notes_to(notes)), tuning, cache=None, note=notes_to(notes))
        assert notes == []
        before = len(compilations)
        assert before > 0
        runner = SDXLRunner(base, tuning)
        (same,) = started(runner, request(refiner=None, width=64, height=64))
        (other,) = started(runner, request(refiner=None, width=96, height=64))
        advance(runner, Stage.BASE, [same])
        advance(runner, Stage.BASE, [other])
        assert len(compilations) == before
    finally:
        compilation.undo((pair.base.unet,))
    torch.testing.assert_close(same.state.running.latents, reference.state.running.latents, atol=1e-4, rtol=1e-4)


def test_a_compiled_decoder_decodes_the_size_it_was_compiled_for(pair: LoadedPair, compilations: list[Any]) -> None:
    """To the same pixels but for rounding; another size, in the same layout, compiles nothing. Undone, to the bit."""
    sides = (pair.profile.defaults.width, 64)
    latents = [torch.randn(1, 4, side // 8, side // 8) for side in sides]
    plain = [decode(pair.base, one) for one in latents]
    notes: list[str] = []
    try:
        prepare(pair, {}, Tuning(compile_vae=True), cache=None, note=notes_to(notes))
        assert notes == []
        assert len(compilations) == 1
        found = [decode(pair.base, one) for one in latents]
    finally:
        compilation.undo((pair.base.vae,))
    assert len(compilations) == 1
    for before, after in zip(plain, found, strict=True):
        difference = np.frombuffer(after.data, np.uint8).astype(int) - np.frombuffer(before.data, np.uint8)
        assert np.abs(difference).max() <= 1
    assert [decode(pair.base, one) for one in latents] == plain


def notes_to(notes: list[str]) -> Any:
    return lambda feature, why: notes.append(f"{feature}: {why}")


def test_a_compiler_that_fails_leaves_everything_as_it_was(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts without, says so once, and makes the same images."""

    def backend(_: Any, __: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compilation, "BACKEND", backend)
    runner = SDXLRunner(pair, Tuning(compile="regional", warm=((2, 8, 8),)))
    runner.prepare()
    (noted,) = runner.adaptations()
    assert noted.feature is Feature.COMPILE
    assert "no compiler here" in noted.message
    (job,) = started(runner, request(refiner=None, width=64, height=64))
    advance(runner, Stage.BASE, [job])
    torch.compiler.set_stance("default")


@pytest.mark.parametrize(("height", "width"), [(18, 18), (26, 18), (17, 31), (20, 8)])
def test_an_image_in_tiles_has_the_size_and_the_place_of_the_whole_one(
    pair: LoadedPair, height: int, width: int
) -> None:
    """Whatever its sides, of which a tile is not always a whole part."""
    latents = torch.nn.functional.interpolate(
        torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(height)), (height, width), mode="bicubic"
    )
    sizes = pair.base.vae.tile_latent_min_size, pair.base.vae.tile_sample_min_size
    with torch.inference_mode():
        whole, tiled = (decode(pair.base, latents, tiled=how) for how in (False, True))
    assert (pair.base.vae.tile_latent_min_size, pair.base.vae.tile_sample_min_size) == sizes, "it is shared"
    assert (tiled.width, tiled.height) == (whole.width, whole.height) == (8 * width, 8 * height)
    difference = np.abs(pixels(tiled).astype(int) - pixels(whole).astype(int))
    assert difference.mean() < 4


def test_parts_that_take_turns_are_there_when_they_are_prepared(pair: LoadedPair, compilations: list[Any]) -> None:
    """Compiling, warming up and measuring bring what they evaluate to the device, as steps do."""
    there: list[Stage] = []
    swapped = dataclasses.replace(pair, activate=there.append)
    modules = {Stage.BASE: pair.base.unet, Stage.REFINER: pair.refiner.unet, Stage.VAE_DECODE: pair.base.vae.decoder}
    met: list[tuple[Stage, Stage]] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, stage=stage: met.append((there[-1], stage)))
        for stage, module in modules.items()
    ]
    try:
        tuning = Tuning(compile="regional", warm=((2, 8, 8),), compile_vae=True)
        unets = evaluators(swapped, tuning, note=notes_to([]))
        prepare(swapped, unets, tuning, cache=None, note=notes_to([]))
        tune.seconds_of(swapped, unets, Stage.BASE, (2, 8, 8))
    finally:
        for handle in handles:
            handle.remove()
        compilation.undo(tuple(modules.values()))
    assert compilations
    assert {stage for _, stage in met} == set(modules)
    assert all(stage is active for active, stage in met)
    assert there[-1] is Stage.BASE


def test_a_start_goes_on_without_the_graphs_that_do_not_fit(pair: LoadedPair) -> None:
    """What was measured when the GPU was empty may not fit beside others."""

    class Full(Graphed):
        def __call__(self, *_: Any, **__: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    notes: list[str] = []
    full = Full(pair.base.unet, memory=GraphMemory(), on_failure=notes.append)
    tuning = Tuning(warm=((2, 8, 8), (4, 8, 8)))
    unets: dict[Stage, Evaluate] = {Stage.BASE: full}
    prepare(pair, unets, tuning, cache=None, note=notes_to(notes))
    assert notes == ["cuda_graphs: no memory for 2 rows of 8x8 latents"]


def test_a_start_captures_no_more_once_a_graph_does_not_fit(pair: LoadedPair) -> None:
    """The evaluation itself does, so that nothing else is given up."""

    class Unrecorded(Graphed):
        def _record(self, *_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    notes: list[str] = []
    unets: dict[Stage, Evaluate] = {
        Stage.BASE: Unrecorded(pair.base.unet, memory=GraphMemory(), on_failure=notes.append)
    }
    prepare(pair, unets, Tuning(warm=((2, 8, 8), (4, 8, 8))), cache=None, note=notes_to(notes))
    assert notes == ["2 rows of 8x8 latents cannot be captured: CUDA out of memory."]


def test_row_knees_are_timed_with_the_traces_that_will_serve(pair: LoadedPair) -> None:
    """On a CPU: what was timed before them leaves the traces as they are."""
    notes: list[str] = []
    unets = evaluators(pair, Tuning(), notes_to(notes))
    prepare(pair, unets, Tuning(), cache=None, note=notes_to(notes))
    tune._free(pair, unets)
    assert notes == []
    assert all(isinstance(unet, Traced) and unet.active for unet in unets.values())


def test_measured_rows_are_fewer_where_there_is_no_memory_for_them(pair: LoadedPair) -> None:
    """Scaled by the size; told, since a tuning is measured with nothing else on the device."""
    tuning = Tuning(rows={(8, 8): 16, (16, 16): 8, (32, 32): 2})
    assert SDXLRunner(pair, tuning).describe().row_knees == tuning.rows
    small = dataclasses.replace(pair, most_rows=6)
    native = pair.profile.defaults
    assert (native.height, native.width) == (128, 128)
    runner = SDXLRunner(small, tuning)
    assert runner.describe().row_knees == {(8, 8): 16, (16, 16): 6, (32, 32): 2}
    (told,) = runner.adaptations()
    assert (told.feature, told.message) == (
        Feature.BATCH_ROWS,
        "6 rows of 16x16 latents, not the 8 of the tuning",
    )
