"""What surrounds every call of every service: counting, and a proper status whatever goes wrong.

Order matters: `Metrics` outermost, so that it counts what the others answer.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from imagegen_server import errors
from imagegen_server.api.cut_short import CutShort
from imagegen_server.api.ending import abort
from imagegen_server.api.handlers import (
    ContextProxy,
    Deserializer,
    Handler,
    behaviour_of,
    with_behaviour,
)
from imagegen_server.api.observers import OTHER, EdgeObserver, RpcObserver
from imagegen_server.api.status import Reason, RpcError, RpcFailure, is_bug
from imagegen_server.core import Metadata, RpcMethod

Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class Metrics(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Tells an observer of every call that reached a handler: one `started`, one `handled` with its real code."""

    def __init__(self, observer: RpcObserver, methods: Sequence[RpcMethod]) -> None:
        """Tells `observer` of calls to `methods`, and of all others as of `OTHER`."""
        self._observer = observer
        self._methods = {f"/{method.service}/{method.method}": method for method in methods}

    async def intercept_service(  # type: ignore[override] # a method that is not served has no handler
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler, counted."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        served = handler is not UNKNOWN_METHOD
        method = self._methods.get(handler_call_details.method, OTHER) if served else OTHER
        metadata = handler_call_details.invocation_metadata
        return with_behaviour(handler, self._counted(handler, method, metadata))

    def _counted(self, handler: Handler, method: RpcMethod, metadata: Metadata) -> Callable[[Any, Any], Awaitable[Any]]:
        inner = behaviour_of(handler)
        observer = self._observer

        async def call(request: Any, context: Any) -> Any:
            began = time.monotonic()
            cut = CutShort(context)
            observer.started(method, metadata)
            code = grpc.StatusCode.UNKNOWN
            try:
                if handler.request_streaming:
                    request = _counted_requests(request, observer, method)
                else:
                    observer.msg_received(method)
                answer = await inner(request, _CountingContext(context, observer, method))
                code = context.code() or grpc.StatusCode.OK
                if not handler.response_streaming and code is grpc.StatusCode.OK:
                    observer.msg_sent(method)
                return answer
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except (asyncio.CancelledError, grpc.aio.BaseError):
                code = context.code() or cut.code()
                raise
            finally:
                observer.handled(method, code, time.monotonic() - began)

        return call


class WrittenAnswers(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Lets unary methods write their one answer, as streams are written, instead of returning it.

    On the wire it is the same. But gRPC sends an answer that is returned once its handler has ended, which then does
    not know whether anybody reads it. Innermost, so that the others see what runs.
    """

    def __init__(self, *paths: str) -> None:
        """`paths` are the methods that write."""
        self._paths = frozenset(paths)

    async def intercept_service(  # type: ignore[override] # a method that is not served has no handler
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler, of a method that writes as one of a stream."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in self._paths:
            return handler
        return grpc.unary_stream_rpc_method_handler(
            behaviour_of(handler),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Gives every failure of every service a proper status: malformed messages, missing methods, bugs.

    Left alone, grpc.aio answers UNKNOWN with the exception's text when a deserializer or a handler raises.
    """

    def __init__(self, observer: EdgeObserver) -> None:
        self._observer = observer

    async def intercept_service(  # type: ignore[override] # a method that is not served has no handler
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler with a deserializer that cannot raise and a behaviour that raises nothing unknown."""
        handler = await continuation(handler_call_details)
        if handler is None or handler is UNKNOWN_METHOD:
            return handler
        path = handler_call_details.method
        inner = behaviour_of(handler)
        check = _well_formed_requests if handler.request_streaming else _well_formed

        async def call(request: Any, context: Any) -> Any:
            try:
                return await inner(check(request), context)
            except grpc.aio.BaseError:
                raise
            except Exception as error:  # noqa: BLE001 # every failure becomes a row of the status table
                request_id = str(uuid.uuid4())
                failure = self._explained(error, path, request_id)
            return await abort(context, failure, request_id)

        return with_behaviour(handler, call, _tolerant(handler.request_deserializer))

    def _explained(self, error: Exception, path: str, request_id: str) -> Exception:
        if isinstance(error, _MalformedError):
            return errors.InvalidRequest((errors.Violation(field="", description=error.description),))
        if isinstance(error, NotImplementedError):  # generated for the methods that a servicer leaves out
            return RpcError(unimplemented(Reason.NOT_SERVED_YET, "this server does not serve this method"))
        if is_bug(error):
            self._observer.bug(path, request_id, error)
        return error


class AnswerUnknown(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Ends calls of methods that are not served with UNIMPLEMENTED and the details every error has."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Returns the handler, or one that refuses without reading a message."""
        return await continuation(handler_call_details) or UNKNOWN_METHOD


async def _refuse_unknown(_requests: Any, context: Any) -> None:
    text = "this server has no such method; server reflection lists those it has"
    await abort(context, RpcError(unimplemented(Reason.METHOD_NOT_FOUND, text)), str(uuid.uuid4()))


def unimplemented(reason: Reason, message: str) -> RpcFailure:
    """Returns what the call of a method ends with that is not served."""
    return RpcFailure(code=grpc.StatusCode.UNIMPLEMENTED, reason=reason, message=message)


UNKNOWN_METHOD: Final[Handler] = grpc.stream_stream_rpc_method_handler(_refuse_unknown)
"""The handler of every method that is not served."""


class _MalformedError(Exception):
    """A message that cannot be parsed; stands in for it until the handler is called."""

    description = "the message cannot be parsed as the method's request type"


def _tolerant(parse: Deserializer | None) -> Deserializer | None:
    if parse is None:
        return None

    def parse_or_mark(raw: bytes) -> Any:
        try:
            return parse(raw)
        except Exception:  # noqa: BLE001 # the parser's errors are not specified; none may leave as UNKNOWN
            return _MalformedError()

    return parse_or_mark


def _well_formed(message: Any) -> Any:
    if isinstance(message, _MalformedError):
        raise message
    return message


async def _well_formed_requests(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in requests:
        yield _well_formed(message)


async def _counted_requests(
    requests: AsyncIterator[Any], observer: RpcObserver, method: RpcMethod
) -> AsyncIterator[Any]:
    async for message in requests:
        observer.msg_received(method)
        yield message


class _CountingContext(ContextProxy):
    """A context that counts the messages written."""

    def __init__(self, context: Any, observer: RpcObserver, method: RpcMethod) -> None:
        super().__init__(context)
        self._observer = observer
        self._method = method

    async def write(self, message: Any) -> None:
        """Writes a message."""
        await self._context.write(message)
        self._observer.msg_sent(self._method)
