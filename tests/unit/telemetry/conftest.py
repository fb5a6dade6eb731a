"""A registry, its metrics and a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from imagegen_server import core
from imagegen_server.telemetry import Metrics
from support import generations

METHODS = (
    ("server_stream", "imagegen.v1.ImageGen", "GenerateImage"),
    ("unary", "imagegen.v1.ImageGen", "CancelGeneration"),
)

PLAIN = dataclasses.replace(
    generations.REQUEST,
    prompt="a secret castle",
    negative_prompt="fog and rain",
    num_inference_steps=20,
    width=128,
    height=128,
    use_refinement=False,
    refiner=None,
    min_progress_interval=0.1,
)

MakeRequest = Callable[..., core.GenerationRequest]
Value = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of the test's own."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Metrics of a server that serves the model `shapes`."""
    return Metrics(registry, models=("shapes",), methods=METHODS)


@pytest.fixture
def value(registry: CollectorRegistry) -> Value:
    """Reads a sample by name and labels; None if the series does not exist."""

    def read(name: str, /, **labels: str) -> float | None:
        families = registry.restricted_registry([name]).collect()  # a hundred times as fast as all of them
        samples = (sample for family in families for sample in family.samples)
        return next((sample.value for sample in samples if sample.labels == labels), None)

    return read


@pytest.fixture
def make_request() -> MakeRequest:
    """Returns a maker of requests, by fields that differ from a plain one."""

    def make(**changes: Any) -> core.GenerationRequest:
        return dataclasses.replace(PLAIN, **changes)

    return make


@pytest.fixture
def plan() -> core.Plan:
    """A plan of 20 base steps."""
    stages = tuple(
        core.StagePlan(stage=stage, steps=steps, evaluations=max(steps, 1), guidance_scale=8.0 if steps else 0.0)
        for stage, steps in ((core.Stage.TEXT_ENCODE, 0), (core.Stage.BASE, 20), (core.Stage.VAE_DECODE, 0))
    )
    return core.Plan(stages=stages, latent_shape=(16, 16), precision=core.Precision.FP32, refiner_mode=None)
