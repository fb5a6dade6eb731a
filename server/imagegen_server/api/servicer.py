"""The ImageGen service: what each call does, from its request to its status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, TypeAlias, TypeVar

import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server import errors
from imagegen_server.api import convert, describe, ending, replies, status
from imagegen_server.api.auth.caller import current_caller
from imagegen_server.api.backend import Backend
from imagegen_server.api.checks import Checks
from imagegen_server.api.enums import GENERATION_STATES
from imagegen_server.api.generations import EdgeSettings, Generations
from imagegen_server.api.handlers import AnyContext
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.readers import ANSWER
from imagegen_server.api.validation import REQUEST_ID_RULE, valid_request_id

GenerateContext: TypeAlias = "grpc.aio.ServicerContext[pb.GenerateImageRequest, pb.GenerateImageResponse]"

_T = TypeVar("_T")

ABORT_PATIENCE: Final = 1.0
"""Seconds to wait until the transport takes a final status; a caller that does not read gets it when it does."""


class ImageGenServicer(pb_grpc.ImageGenServicer):
    """Serves `imagegen.v1.ImageGen` from a backend."""

    def __init__(self, backend: Backend, settings: EdgeSettings, observer: EdgeObserver, quotas: Quotas | None) -> None:
        self._backend = backend
        self._observer = observer
        self._generations = Generations(backend, settings, observer, quotas)

    async def GenerateImage(  # type: ignore[override] # noqa: N802 # the contract's name; the stubs want a generator
        self, request: pb.GenerateImageRequest, context: GenerateContext
    ) -> None:
        """Streams a generation. A refusal is sent before anything else, as trailers only."""
        request_id = convert.request_id_of(request.request_id)
        work = self._generations.generate(request, request_id, context)
        await self._answered(context, request_id, "GenerateImage", work)

    async def RenderImage(  # type: ignore[override] # noqa: N802 # the contract's name; written, not returned
        self, request: pb.RenderImageRequest, context: AnyContext
    ) -> None:
        """Writes the whole result of a generation as one answer: see `interceptors.WrittenAnswers`."""
        request_id = convert.request_id_of(request.generation.request_id)
        work = self._generations.render(request, request_id, context)
        await self._answered(context, request_id, "RenderImage", work, weight=ANSWER)

    async def GetGeneration(  # noqa: N802 # the contract's name
        self, request: pb.GetGenerationRequest, context: AnyContext
    ) -> pb.GetGenerationResponse:
        """Describes a generation."""

        def answer() -> pb.GetGenerationResponse:
            _require_id(request.request_id)
            engine = self._backend.engine()
            found = replies.generation(engine.report(request.request_id, tenant=current_caller().tenant))
            context.set_trailing_metadata(((ending.REQUEST_ID_KEY, request.request_id),))
            return found

        return await self._at_once(context, request.request_id, "GetGeneration", answer)

    async def CancelGeneration(  # noqa: N802 # the contract's name
        self, request: pb.CancelGenerationRequest, context: AnyContext
    ) -> pb.CancelGenerationResponse:
        """Stops a generation, wherever it is."""

        def answer() -> pb.CancelGenerationResponse:
            _require_id(request.request_id)
            state = self._backend.engine().cancel(request.request_id, tenant=current_caller().tenant)
            context.set_trailing_metadata(((ending.REQUEST_ID_KEY, request.request_id),))
            return pb.CancelGenerationResponse(state=GENERATION_STATES[state])

        return await self._at_once(context, request.request_id, "CancelGeneration", answer)

    async def ListModels(  # noqa: N802 # the contract's name
        self, request: pb.ListModelsRequest, context: AnyContext
    ) -> pb.ListModelsResponse:
        """Lists the profiles, the loaded one first."""

        def answer() -> pb.ListModelsResponse:
            return describe.models(self._backend.profiles(), self._backend.loaded())

        return await self._at_once(context, "", "ListModels", answer)

    async def GetServerInfo(  # noqa: N802 # the contract's name
        self, request: pb.GetServerInfoRequest, context: AnyContext
    ) -> pb.GetServerInfoResponse:
        """Describes the running server; without model and device while it is loading."""
        return await self._at_once(context, "", "GetServerInfo", lambda: describe.server_info(self._backend))

    async def WatchGeneration(  # type: ignore[override] # noqa: N802 # the stubs want a generator
        self, request: pb.WatchGenerationRequest, context: AnyContext
    ) -> None:
        """Streams what a generation sent, and follows it to its end."""
        request_id = request.request_id
        work = self._watch(request, context)
        await self._answered(context, convert.request_id_of(request_id), "WatchGeneration", work)

    async def _watch(self, request: pb.WatchGenerationRequest, context: AnyContext) -> None:
        checks = Checks()
        if not valid_request_id(request.request_id):
            checks.add("request_id", REQUEST_ID_RULE)
        checks.integer("after_sequence", request.after_sequence, 0, 2**63 - 1)
        if checks.violations:
            raise errors.InvalidRequest(checks.violations)
        writer = _Watcher(context)
        await self._generations.watch(request.request_id, request.after_sequence, context, writer)

    async def all_read(self) -> None:
        """Returns once every event that is kept has been sent to those who read now."""
        await self._generations.all_read()

    async def _at_once(self, context: AnyContext, request_id: str, method: str, answer: Callable[[], _T]) -> _T:
        """Returns what a call without work answers; whatever that raises becomes the call's status."""
        try:
            return answer()
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            return await self._fail(context, error, convert.request_id_of(request_id), method)

    async def _answered(
        self, context: AnyContext, request_id: str, method: str, work: Awaitable[None], *, weight: int = 1
    ) -> None:
        """Does the work of a call; whatever it raises becomes the call's status.

        If that has to wait for the caller, who left unread what came before, the call counts as `weight` readers.
        """
        try:
            await work
            return
        except grpc.aio.BaseError:
            raise  # the status is sent, or there is nobody to send it to
        except asyncio.CancelledError as cancelled:
            if _cancelled_from_outside():
                raise
            # let out, it would leave the caller waiting for a status for ever
            failure = self._explained(RuntimeError(repr(cancelled)), request_id, method)
        except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
            failure = self._explained(error, request_id, method)
        # without the error, whose traceback holds what was to be sent
        sending = asyncio.ensure_future(ending.abort(context, status.RpcError(failure), request_id))
        try:
            await asyncio.wait([sending], timeout=ABORT_PATIENCE)
        finally:
            if not sending.done():
                self._generations.readers.left(current_caller().tenant, weight, sending)
        if sending.done():
            await sending

    async def _fail(self, context: AnyContext, error: Exception, request_id: str, method: str) -> NoReturn:
        """Ends a call with the status of an error."""
        await ending.abort(context, status.RpcError(self._explained(error, request_id, method)), request_id)

    def _explained(self, error: Exception, request_id: str, method: str) -> status.RpcFailure:
        """Returns what a call ends with that raised an error; a bug is told."""
        if status.is_bug(error):
            self._observer.bug(method, request_id, error)
        return status.failure_of(error)


def _require_id(request_id: str) -> None:
    """Raises `errors.InvalidRequest` for an id that no generation can have."""
    if not valid_request_id(request_id):
        raise errors.InvalidRequest((errors.Violation(field="request_id", description=REQUEST_ID_RULE),))


class _Watcher:
    """Writes a generation's messages as WatchGeneration's answers."""

    def __init__(self, context: AnyContext) -> None:
        self._context = context

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Writes a message."""
        await self._context.write(pb.WatchGenerationResponse(response=message))


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
