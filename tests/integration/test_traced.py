"""Traces of UNets on a CPU: the same bits, where they hold, and what happens where they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen_server import models
from imagegen_server.core import Feature, Stage
from imagegen_server.models.evaluation.conditioning import join
from imagegen_server.models.evaluation.forward import Plain
from imagegen_server.models.evaluation.preparation import evaluators, example, pipelines, prepare
from imagegen_server.models.evaluation.traced import Traced, worth_tracing
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.sdxl_runner import SDXLRunner
from support.denoising import encode, jobs_of
from support.pairs import as_loaded, load_stock, request

STAGES = [Stage.BASE, Stage.REFINER]
KEYS = [(1, 8, 8), (2, 8, 8), (6, 8, 8), (32, 8, 8), (2, 16, 16), (3, 12, 20), (2, 32, 16)]
UNEVEN = [(2, 9, 8), (1, 8, 13)]


@pytest.fixture(scope="module")
def pair(shapes_directory: Path) -> LoadedPair:
    return as_loaded(load_stock(shapes_directory))


@pytest.fixture(scope="module")
def traced(pair: LoadedPair) -> dict[Stage, Traced]:
    """Both UNets, traced as a server traces them."""
    notes: list[Any] = []
    made = evaluators(pair, Tuning(), lambda *note: notes.append(note))
    prepare(pair, made, Tuning(), cache=None, note=lambda *note: notes.append(note))
    assert notes == []
    found = {stage: unet for stage, unet in made.items() if isinstance(unet, Traced)}
    assert set(found) == set(STAGES)
    return found


@pytest.fixture
def calls(pair: LoadedPair) -> Iterator[list[Any]]:
    """What the UNets were called with from Python."""
    seen: list[Any] = []
    handles = [p.unet.register_forward_pre_hook(lambda *call: seen.append(call)) for p in pipelines(pair).values()]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_a_trace_gives_the_bits_of_the_unet(
    pair: LoadedPair, traced: dict[Stage, Traced], calls: list[Any], stage: Stage, key: tuple[int, int, int]
) -> None:
    """For every number of rows and every size that halves evenly, without calling the UNet's modules."""
    inputs = example(pair, stage, key)
    with torch.inference_mode():
        got = traced[stage](*inputs)
        assert calls == []
        assert torch.equal(got, Plain(pipelines(pair)[stage].unet)(*inputs))
    assert len(calls) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_what_the_conditioning_alone_decides_is_computed_once(
    pair: LoadedPair, traced: dict[Stage, Traced], stage: Stage
) -> None:
    """A projected conditioning gives the same bits, and its projections are what the steps go by, in company too."""
    sample, timesteps, conditioning = example(pair, stage, (2, 8, 8))
    with torch.inference_mode():
        expected = Plain(pipelines(pair)[stage].unet)(sample, timesteps, conditioning)
        projected = traced[stage].project(conditioning)
        assert len(projected.projections) > 1
        assert traced[stage].project(projected) is projected
        assert torch.equal(traced[stage](sample, timesteps, projected), expected)
        other = example(pair, stage, (2, 8, 8))[2]
        assert torch.equal(
            traced[stage](sample, timesteps, dataclasses.replace(other, projections=projected.projections)), expected
        )
        joined = join([projected, traced[stage].project(other)])
        both = traced[stage](torch.cat([sample] * 2), torch.cat([timesteps] * 2), joined)
        assert (both[:2] - expected).abs().max() < 1e-4 * expected.abs().max()
        assert not torch.allclose(both[:2], both[2:], atol=1e-3)


def test_a_runner_projects_while_it_encodes(pair: LoadedPair) -> None:
    """Once for all images of a generation, and for each stage with its own UNet."""
    runner = SDXLRunner(pair)
    runner.prepare()
    jobs = jobs_of(request(num_images=2))
    encode(runner, jobs)
    first, second = (job.state.conditioning for job in jobs)
    for stage in STAGES:
        assert first[stage] is second[stage]
        bare = dataclasses.replace(first[stage], projections=())
        with torch.inference_mode():
            expected = runner._unets[stage].project(bare).projections
        assert len(expected) > 1
        assert all(map(torch.equal, first[stage].projections, expected))
    for job in jobs:
        runner.release(job)


@pytest.mark.parametrize("key", UNEVEN, ids=str)
def test_sizes_that_do_not_halve_evenly_run_as_they_are(
    pair: LoadedPair, traced: dict[Stage, Traced], calls: list[Any], key: tuple[int, int, int]
) -> None:
    """There diffusers tells each upsampler its size, which a trace would keep."""
    inputs = example(pair, Stage.BASE, key)
    with torch.inference_mode():
        got = traced[Stage.BASE](*inputs)
        assert len(calls) == 1
        assert torch.equal(got, Plain(pair.base.unet)(*inputs))


def test_tracing_leaves_the_weights_alone(pair: LoadedPair, traced: dict[Stage, Traced]) -> None:
    """The modules hold the parameters that were loaded, and the trace sees what becomes of them."""
    parameter = next(pair.base.unet.parameters())
    assert isinstance(parameter, torch.nn.Parameter)
    inputs = example(pair, Stage.BASE, (2, 8, 8))
    with torch.inference_mode():
        before = traced[Stage.BASE](*inputs)
    with torch.no_grad():
        kept = parameter.clone()
        parameter.mul_(1.5)
    try:
        with torch.inference_mode():
            after = traced[Stage.BASE](*inputs)
            assert not torch.equal(before, after)
            assert torch.equal(after, Plain(pair.base.unet)(*inputs))
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_what_a_server_loads_is_traced() -> None:
    """The embedded pair is evaluated from traces, and nothing was given up."""
    runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
    assert isinstance(runner, SDXLRunner)
    assert runner.adaptations() == []
    assert all(isinstance(unet, Traced) and unet.active for unet in runner._unets.values())
    runner.close()


def given_up(pair: LoadedPair) -> tuple[Traced, list[str]]:
    """Returns the base as an evaluator that is to be traced, and what it says when it gives up."""
    notes: list[str] = []
    return Traced(pair.base.unet, on_failure=notes.append), notes


def test_a_trace_with_other_bits_is_not_used(pair: LoadedPair) -> None:
    """A UNet whose Python depends on its input gives what it gives, and the reason is told once."""

    def hook(_: Any, __: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (output[0] + float(output[0].abs().max()),)

    unet, notes = given_up(pair)
    handle = pair.base.unet.register_forward_hook(hook)
    try:
        with torch.inference_mode():
            unet.trace(*(example(pair, Stage.BASE, key) for key in KEYS[:2]))
            inputs = example(pair, Stage.BASE, (2, 8, 8))
            assert torch.equal(unet(*inputs), Plain(pair.base.unet)(*inputs))
    finally:
        handle.remove()
    assert not unet.active
    assert len(notes) == 1
    assert "other bits" in notes[0]


def test_a_trace_that_fails_is_given_up(pair: LoadedPair) -> None:
    """The evaluation is done by the UNet, and so are those after it."""

    unet, notes = given_up(pair)

    def fails(*_: Any) -> torch.Tensor:
        raise RuntimeError("shape '[2, 4, 8, 8]' is invalid")

    with torch.inference_mode():
        unet.trace(example(pair, Stage.BASE, (2, 8, 8)))
        assert unet.active
        inputs = example(pair, Stage.BASE, (2, 16, 16))
        unet._function = fails
        assert torch.equal(unet(*inputs), Plain(pair.base.unet)(*inputs))
    assert not unet.active
    assert notes == ["2 rows of 16x16 latents: shape '[2, 4, 8, 8]' is invalid"]


def test_without_torchscript_the_unet_is_called(pair: LoadedPair) -> None:
    """As with PYTORCH_JIT=0."""
    unet, notes = given_up(pair)
    torch.jit._state.disable()
    try:
        unet.trace(example(pair, Stage.BASE, (2, 8, 8)))
    finally:
        torch.jit._state.enable()
    assert not unet.active
    assert notes == ["TorchScript is switched off in this process (PYTORCH_JIT=0)"]


def test_what_was_given_up_is_told(pair: LoadedPair) -> None:
    """A runner that cannot trace still works, and says which feature it lacks."""
    runner = SDXLRunner(pair)
    torch.jit._state.disable()
    try:
        runner.prepare()
    finally:
        torch.jit._state.enable()
    assert {adaptation.feature for adaptation in runner.adaptations()} == {Feature.TORCHSCRIPT}


def test_only_small_unets_are_traced() -> None:
    """In a large one Python is a small part of the time."""

    class Sized(torch.nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(count, device="meta"))

    assert worth_tracing(Sized(3_000_000))
    assert not worth_tracing(Sized(2_567_463_684))
