"""The ImageGen service: what each call does, from its request to its status."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server import errors
from imagegen_server.api import convert, describe, messages, status
from imagegen_server.api.backend import Backend
from imagegen_server.api.handlers import CutShort
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.stream import GenerationStream, StreamSettings, Wake
from imagegen_server.api.validation import REQUEST_ID_RULE, valid_request_id
from imagegen_server.core import GenerationRequest, RejectReason

GenerateContext: TypeAlias = "grpc.aio.ServicerContext[pb.GenerateImageRequest, pb.GenerateImageResponse]"
AnyContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

ABORT_PATIENCE: Final = 1.0
"""Seconds to wait until the transport takes a final status; a caller that does not read gets it when it does."""
LOADING_RETRY: Final = 5.0
"""Seconds after which a loading server may be asked again."""


@dataclass(kw_only=True, frozen=True, slots=True)
class EdgeSettings:
    """What an operator may change about the service's edge."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    allow_isolate_batch: bool = True
    """Whether a caller may have its steps run alone, which slows everybody."""


class ImageGenServicer(pb_grpc.ImageGenServicer):
    """Serves `imagegen.v1.ImageGen` from a backend."""

    def __init__(self, backend: Backend, settings: EdgeSettings, observer: EdgeObserver) -> None:
        self._backend = backend
        self._settings = settings
        self._observer = observer

    async def GenerateImage(  # type: ignore[override] # noqa: N802 # the contract's name; the stubs want a generator
        self, request: pb.GenerateImageRequest, context: GenerateContext
    ) -> None:
        """Streams a generation. A refusal is sent before anything else, as trailers only."""
        request_id = convert.request_id_of(request.request_id)
        try:
            generation = self._checked(request, request_id)
            if request.validate_only:
                await self._answer_plan(generation, context)
            else:
                await self._stream(request, generation, context)
        except grpc.aio.BaseError:
            raise  # the status is sent, or there is nobody to send it to
        except asyncio.CancelledError as cancelled:
            if _cancelled_from_outside():
                raise
            # let out, it would leave the caller waiting for a status for ever
            await self._fail(context, RuntimeError(repr(cancelled)), request_id, "GenerateImage")
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            with suppress(TimeoutError):
                async with asyncio.timeout(ABORT_PATIENCE):
                    await self._fail(context, error, request_id, "GenerateImage")

    async def CancelGeneration(  # noqa: N802 # the contract's name
        self, request: pb.CancelGenerationRequest, context: AnyContext
    ) -> pb.CancelGenerationResponse:
        """Stops a generation, wherever it is."""
        request_id = request.request_id
        try:
            if not valid_request_id(request_id):
                violation = errors.Violation(field="request_id", description=REQUEST_ID_RULE)
                raise errors.InvalidRequest((violation,))
            state = self._backend.engine().cancel(request_id)
            context.set_trailing_metadata(((status.REQUEST_ID_KEY, request_id),))
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            await self._fail(context, error, convert.request_id_of(request_id), "CancelGeneration")
        return pb.CancelGenerationResponse(state=messages.STATES[state])

    async def ListModels(  # noqa: N802 # the contract's name
        self, request: pb.ListModelsRequest, context: AnyContext
    ) -> pb.ListModelsResponse:
        """Lists the profiles, the loaded one first."""
        try:
            return describe.models(self._backend.profiles(), self._backend.loaded())
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            return await self._fail(context, error, convert.request_id_of(""), "ListModels")

    async def GetServerInfo(  # noqa: N802 # the contract's name
        self, request: pb.GetServerInfoRequest, context: AnyContext
    ) -> pb.GetServerInfoResponse:
        """Describes the running server; without model and device while it is loading."""
        try:
            return describe.server_info(self._backend)
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            return await self._fail(context, error, convert.request_id_of(""), "GetServerInfo")

    async def RenderImage(  # noqa: N802 # the contract's name
        self, request: pb.RenderImageRequest, context: AnyContext
    ) -> pb.RenderImageResponse:
        """Is not served yet."""
        return await _not_served(context, "RenderImage", request.generation.request_id, "use GenerateImage")

    async def WatchGeneration(  # type: ignore[override] # noqa: N802 # the stubs want a generator
        self, request: pb.WatchGenerationRequest, context: AnyContext
    ) -> None:
        """Is not served yet."""
        await _not_served(context, "WatchGeneration", request.request_id, "keep the GenerateImage stream open")

    async def GetGeneration(  # noqa: N802 # the contract's name
        self, request: pb.GetGenerationRequest, context: AnyContext
    ) -> pb.GetGenerationResponse:
        """Is not served yet."""
        return await _not_served(context, "GetGeneration", request.request_id, "results are in GenerateImage's stream")

    def _checked(self, request: pb.GenerateImageRequest, request_id: str) -> GenerationRequest:
        """Returns the complete request. Raises what is wrong with it, or `errors.Unavailable` while loading."""
        self._backend.engine()
        loaded = self._backend.loaded()
        if loaded is None:
            raise errors.Unavailable("LOADING", "models are being loaded", LOADING_RETRY)
        try:
            return convert.to_generation(
                request,
                request_id=request_id,
                loaded=loaded.profile,
                profiles=self._backend.profiles(),
                allow_isolate_batch=self._settings.allow_isolate_batch,
            )
        except (errors.InvalidRequest, errors.NotFound):
            self._observer.rejected(request_id, request.model or loaded.profile.name, RejectReason.INVALID)
            raise

    async def _answer_plan(self, generation: GenerationRequest, context: GenerateContext) -> None:
        accepted = self._backend.engine().plan(generation)
        await _send_request_id(context, generation.request_id)
        stream = GenerationStream(context, generation, self._settings.stream, self._observer)
        await stream.write_plan(accepted)

    async def _stream(
        self, request: pb.GenerateImageRequest, generation: GenerationRequest, context: GenerateContext
    ) -> None:
        """Admits a generation and writes it to its caller; whatever happens, the engine learns how it ended."""
        cut = CutShort(context)
        wake = Wake()
        ticket = self._backend.engine().submit(
            generation,
            fingerprint=convert.fingerprint(request),
            deadline=None if cut.given is None else time.monotonic() + cut.given,
            on_ready=wake,
        )
        error: Exception | None = errors.Cancelled("the call ended before the generation")
        try:
            await _send_request_id(context, generation.request_id)
            stream = GenerationStream(context, generation, self._settings.stream, self._observer)
            await stream.run(ticket, wake)
            error = None
        except (asyncio.CancelledError, grpc.aio.BaseError):
            error = _gone(cut)
            raise
        except Exception as raised:
            error = raised
            raise
        finally:
            ticket.close(error)

    async def _fail(self, context: AnyContext, error: Exception, request_id: str, method: str) -> NoReturn:
        """Ends a call with the status of an error."""
        if status.is_bug(error):
            self._observer.bug(method, request_id, error)
        await status.abort(context, error, request_id)


async def _send_request_id(context: AnyContext, request_id: str) -> None:
    await context.send_initial_metadata(((status.REQUEST_ID_KEY, request_id),))


async def _not_served(context: AnyContext, method: str, request_id: str, instead: str) -> NoReturn:
    failure = status.RpcFailure(
        code=grpc.StatusCode.UNIMPLEMENTED,
        reason=status.Reason.NOT_SERVED_YET,
        message=f"{method} is part of the contract but not served by this version; {instead}",
    )
    await status.abort(context, status.RpcError(failure), convert.request_id_of(request_id))


def _gone(cut: CutShort) -> errors.ImageGenError:
    """Returns why the caller is not there any more."""
    if cut.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded("the deadline of the call passed")
    return errors.Cancelled("the caller cancelled the call or closed its connection")


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
