"""The calls that generate: a request is checked, admitted and written to whoever asked, as a stream or as one reply."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import convert, status
from imagegen_server.api.auth.caller import current_caller, of_caller
from imagegen_server.api.backend import Backend
from imagegen_server.api.handlers import CutShort
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.stream import GenerationStream, StreamSettings, Wake, Writer
from imagegen_server.core import GenerationRequest, RejectReason

AnyContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

LOADING_RETRY: Final = 5.0
"""Seconds after which a loading server may be asked again."""


@dataclass(kw_only=True, frozen=True, slots=True)
class EdgeSettings:
    """What an operator may change about the service's edge."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    allow_isolate_batch: bool = True
    """Whether a caller may have its steps run alone, which slows everybody."""


class Generations:
    """Runs generations for their calls."""

    def __init__(self, backend: Backend, settings: EdgeSettings, observer: EdgeObserver) -> None:
        self._backend = backend
        self._settings = settings
        self._observer = observer

    async def run(self, request: pb.GenerateImageRequest, request_id: str, context: AnyContext, writer: Writer) -> None:
        """Writes a generation to `writer`, or its plan if that is all that is asked for. `context` is its call's.

        Raises what is wrong with the request, why it is refused, or what the generation ends with.
        """
        generation = self._checked(request, request_id)
        if request.validate_only:
            await self._write_plan(generation, context, writer)
        else:
            await self._write(request, generation, context, writer)

    def _checked(self, request: pb.GenerateImageRequest, request_id: str) -> GenerationRequest:
        """Returns the complete request. Raises what is wrong with it, or `errors.Unavailable` while loading."""
        self._backend.engine()
        loaded = self._backend.loaded()
        if loaded is None:
            raise errors.Unavailable("LOADING", "models are being loaded", LOADING_RETRY)
        try:
            generation = convert.to_generation(
                request,
                request_id=request_id,
                loaded=loaded.profile,
                profiles=self._backend.profiles(),
                allow_isolate_batch=self._settings.allow_isolate_batch,
            )
            return of_caller(generation, current_caller())
        except (errors.InvalidRequest, errors.NotFound):
            self._observer.rejected(request_id, request.model or loaded.profile.name, RejectReason.INVALID)
            raise

    async def _write_plan(self, generation: GenerationRequest, context: AnyContext, writer: Writer) -> None:
        accepted = self._backend.engine().plan(generation)
        await _send_request_id(context, generation.request_id)
        await self._stream(generation, writer).write_plan(accepted)

    async def _write(
        self, request: pb.GenerateImageRequest, generation: GenerationRequest, context: AnyContext, writer: Writer
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
            await self._stream(generation, writer).run(ticket, wake)
            error = None
        except (asyncio.CancelledError, grpc.aio.BaseError):
            error = _gone(cut)
            raise
        except Exception as raised:
            error = raised
            raise
        finally:
            ticket.close(error)

    def _stream(self, generation: GenerationRequest, writer: Writer) -> GenerationStream:
        return GenerationStream(writer, generation, self._settings.stream, self._observer)


async def _send_request_id(context: AnyContext, request_id: str) -> None:
    await context.send_initial_metadata(((status.REQUEST_ID_KEY, request_id),))


def _gone(cut: CutShort) -> errors.ImageGenError:
    """Returns why the caller is not there any more."""
    if cut.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded("the deadline of the call passed")
    return errors.Cancelled("the caller cancelled the call or closed its connection")
