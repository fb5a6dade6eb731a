"""A real gRPC server on loopback whose answers a test scripts, right or wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc
from support import messages

WAIT = 60.0
"""Seconds after which something that should happen soon has not happened."""

Script = Callable[[pb.GenerateImageRequest, grpc.ServicerContext], Iterator[pb.GenerateImageResponse]]


def details(*parts: Message, code: grpc.StatusCode = grpc.StatusCode.INTERNAL) -> bytes:
    """Returns a serialized google.rpc.Status with these details."""
    status = status_pb2.Status(code=code.value[0], message="scripted")
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized


def error_info(reason: str, metadata: Mapping[str, str] | None = None) -> error_details_pb2.ErrorInfo:
    """Returns the detail that every error of the service carries."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="imagegen.v1", metadata=metadata or {})


def retry_info(milliseconds: int) -> error_details_pb2.RetryInfo:
    """Returns the detail of an error that advises a retry."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(milliseconds)
    return info


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    *parts: Message,
    pushback: int | None = None,
) -> NoReturn:
    """Ends a call with a status, details and the milliseconds after which gRPC may retry (negative: never)."""
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", details(*parts, code=code))]
    if pushback is not None:
        trailers.append(("grpc-retry-pushback-ms", str(pushback)))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code, message)
    raise AssertionError("abort returned")


class Endless:
    """A script that accepts and then waits for the call to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        """Set when the server has the call."""
        self.ended = threading.Event()
        """Set when the server knows that the call has ended."""

    def __call__(
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        """Plays it."""
        context.add_callback(self.ended.set)
        self.begun.set()
        yield messages.accepted(request)
        self.ended.wait(WAIT)


class Refusing:
    """A script that refuses a number of times before it serves."""

    def __init__(self, times: int, code: grpc.StatusCode, reason: str, pushback: int | None) -> None:
        self.times = times
        self.code = code
        self.reason = reason
        self.pushback = pushback

    def __call__(
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        """Plays it."""
        if self.times:
            self.times -= 1
            refuse(context, self.code, "not now", error_info(self.reason), pushback=self.pushback)
        yield from messages.generation(request)


class ScriptedService(imagegen_pb2_grpc.ImageGenServicer):
    """Answers as `script` says and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: Script = lambda request, _: messages.generation(request)
        self.requests: list[pb.GenerateImageRequest] = []
        self.metadata: list[Mapping[str, Any]] = []
        self.remaining: list[float | None] = []
        self.cancelled_ids: list[str] = []
        self.ended = threading.Event()
        """Set when a call's context has ended, for whatever reason."""
        self.health = health.HealthServicer()
        self.target = ""

    def GenerateImage(  # noqa: N802 (the contract's name)
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        """Plays the script."""
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        context.add_callback(self.ended.set)
        yield from self.script(request, context)

    def CancelGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.CancelGenerationRequest, context: grpc.ServicerContext
    ) -> pb.CancelGenerationResponse:
        """Knows only the generation `known`."""
        if request.request_id != "known":
            resource = error_details_pb2.ResourceInfo(
                resource_type="imagegen.v1.generation", resource_name=request.request_id
            )
            info = error_info("GENERATION_NOT_FOUND")
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such generation", info, resource)
        self.cancelled_ids.append(request.request_id)
        return pb.CancelGenerationResponse(state=pb.GENERATION_STATE_CANCELLED)

    def ListModels(  # noqa: N802 (the contract's name)
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """Lists one model."""
        limits = pb.Limits(min_steps=20, max_steps=100, min_guidance_scale=1, max_guidance_scale=20, max_images=8)
        defaults = pb.Defaults(
            num_inference_steps=50, size=pb.Size(width=128, height=64), refiner_mode=pb.REFINER_MODE_ENSEMBLE
        )
        model = pb.Model(name="shapes", loaded=True, limits=limits, defaults=defaults, schedulers=["A", "B"])
        return pb.ListModelsResponse(models=[model])

    def GetServerInfo(  # noqa: N802 (the contract's name)
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        """Describes a server on a CPU."""
        plan = pb.MemoryPlan(residency=pb.RESIDENCY_SWAP, precision="fp32", explanation="because")
        plan.components.add(name="vae", parameters=7, bytes=28)
        response = pb.GetServerInfoResponse(
            version="1.2.3",
            state=pb.SERVER_STATE_SERVING,
            model="shapes",
            device=pb.Device(type="cpu", name="a CPU", total_memory_bytes=2**33),
            precision="fp32",
            memory_plan=plan,
            packages=[pb.PackageVersion(name="torch", version="2.0")],
            queue_capacity=16,
        )
        response.start_time.FromMilliseconds(1_700_000_000_500)
        return response

    def RenderImage(  # noqa: N802 (the contract's name)
        self, request: pb.RenderImageRequest, context: grpc.ServicerContext
    ) -> pb.RenderImageResponse:
        """Is not served."""
        refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not served", error_info("NOT_SERVED_YET"))

    def WatchGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.WatchGenerationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchGenerationResponse]:
        """Is not served."""
        refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not served", error_info("NOT_SERVED_YET"))

    def GetGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.GetGenerationRequest, context: grpc.ServicerContext
    ) -> pb.GetGenerationResponse:
        """Is not served."""
        refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not served", error_info("NOT_SERVED_YET"))


@contextmanager
def serving(service: ScriptedService) -> Iterator[ScriptedService]:
    """Serves on a free loopback port, which `service.target` names, until the block ends."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    imagegen_pb2_grpc.add_ImageGenServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    service.health.set("imagegen.v1.ImageGen", health_pb2.HealthCheckResponse.SERVING)
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()
