"""The calls beside GenerateImage, and a server that is not ready."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import ServerState, describe
from imagegen_server.core import Defaults, Limits, RefinerMode
from support.edge import Edge, drained, refusal, rich_status
from support.scripted_engine import PROFILE

REQUEST = pb.GenerateImageRequest(prompt="a cat", seed=3)


async def test_loading_server_is_unavailable(edge: Edge) -> None:
    """While models load, generations are refused with a time to retry; the other calls answer."""
    edge.backend.serving = ServerState.LOADING
    error = await refusal(drained(edge.stub.GenerateImage(REQUEST)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    _, details = rich_status(error)
    assert details["ErrorInfo"].reason == "LOADING"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000 * errors.RETRY_AFTER
    info = await edge.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.state, info.model, info.HasField("device")) == (pb.SERVER_STATE_LOADING, "", False)
    models = (await edge.stub.ListModels(pb.ListModelsRequest())).models
    assert [model.loaded for model in models] == [False, False]


async def test_server_info(edge: Edge) -> None:
    """GetServerInfo tells device, plan, versions and queue."""
    info = await edge.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.version, info.state, info.model, info.precision) == ("1.2.3", pb.SERVER_STATE_SERVING, "tiny", "fp32")
    assert info.start_time.seconds == 1_000_000_000
    assert (info.device.type, info.memory_plan.explanation) == ("cpu", "it fits")
    plan = info.memory_plan
    assert (plan.residency, plan.precision) == (pb.RESIDENCY_BOTH, "fp32")
    assert (plan.available_bytes, plan.weights_bytes, plan.working_bytes, plan.predicted_peak_bytes) == (5, 2, 1, 4)
    assert [(package.name, package.version) for package in info.packages] == [("diffusers", "1"), ("torch", "2")]
    assert (info.queue_capacity, info.queued, info.running) == (3, 1, 2)


async def test_models_are_listed_loaded_first(edge: Edge) -> None:
    """ListModels tells limits, defaults and schedulers of each profile."""
    first, second = (await edge.stub.ListModels(pb.ListModelsRequest())).models
    assert (first.name, first.loaded, first.refiner_loaded) == ("tiny", True, True)
    assert (second.name, second.loaded, second.refiner_loaded) == ("other", False, False)
    assert (first.limits.min_steps, second.limits.max_steps) == (20, 40)
    assert (first.defaults.size.width, first.defaults.refiner_mode) == (128, pb.REFINER_MODE_IMAGE_TO_IMAGE)
    assert list(first.schedulers) == ["DDIMScheduler", "EulerDiscreteScheduler"]


async def test_cancel_by_id(edge: Edge) -> None:
    """CancelGeneration reaches the engine and echoes the id."""
    call = edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="mine"))
    assert (await call).state == pb.GENERATION_STATE_CANCELLED
    assert dict(tuple(await call.trailing_metadata()))["x-request-id"] == "mine"
    assert edge.engine.asked == [("", "mine")]


@pytest.mark.parametrize(
    ("request_id", "raises", "code", "detail"),
    [
        ("", None, grpc.StatusCode.INVALID_ARGUMENT, "BadRequest"),
        ("a b", None, grpc.StatusCode.INVALID_ARGUMENT, "BadRequest"),
        ("x", errors.NotFound("generation", "x", "not known"), grpc.StatusCode.NOT_FOUND, "ResourceInfo"),
        ("x", RuntimeError("bug"), grpc.StatusCode.INTERNAL, "RequestInfo"),
    ],
)
async def test_cancel_refusals(
    edge: Edge, request_id: str, raises: Exception | None, code: grpc.StatusCode, detail: str
) -> None:
    """Ids that cannot exist are invalid; those that do not are not found."""
    edge.engine.raises = raises
    error = await refusal(edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id=request_id)))
    assert error.code() is code
    assert detail in rich_status(error)[1]


def test_every_limit_and_default_is_listed_as_it_is() -> None:
    """Numbers that are all different do not take each other's place."""
    numbers, defaults = _numbered(Limits), _numbered(Defaults)
    words = {"scheduler": "DDIMScheduler", "refiner_mode": RefinerMode.ENSEMBLE}
    profile = replace(PROFILE, limits=Limits(**numbers), defaults=Defaults(**(defaults | words)))
    listed = describe.model(profile, None)
    assert {field.name: value for field, value in listed.limits.ListFields()} == numbers
    found = {field.name: value for field, value in listed.defaults.ListFields()}
    assert found.pop("size") == pb.Size(width=defaults.pop("width"), height=defaults.pop("height"))
    assert found == defaults | words | {"refiner_mode": pb.REFINER_MODE_ENSEMBLE}


def _numbered(kind: Any) -> dict[str, Any]:
    """Returns another number for each field."""
    return {field.name: number for number, field in enumerate(fields(kind), start=1)}
