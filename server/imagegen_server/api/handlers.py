"""Wrapping of grpc.aio method handlers, whatever their kind, so that interceptors see one shape.

Every behaviour becomes one coroutine function: a streaming answer is written through the context, never yielded,
because an asynchronous generator that is left behind by a cancelled call is closed only by the garbage collector.
Handlers must be asynchronous; the servicers of this server all are.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
AnyContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""The context of a call, whatever its method."""
Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""(request or request iterator, context) -> the answer, or None after writing a stream of them."""
Deserializer = Callable[[bytes], Any]


def behaviour_of(handler: Handler) -> Behaviour:
    """Returns a handler's behaviour as a coroutine function."""
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    inner: Any = next(kind for kind in kinds if kind is not None)
    if not inspect.isasyncgenfunction(inner):
        return cast("Behaviour", inner)

    async def write_all(request: Any, context: Any) -> None:
        async with aclosing(inner(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write_all


def with_behaviour(handler: Handler, behaviour: Behaviour, deserializer: Deserializer | None = None) -> Handler:
    """Returns a handler of the same kind and serializers with another behaviour (and deserializer)."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(
        behaviour,
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class ContextProxy:
    """A servicer context whose reads and writes can be overridden; all else is the real one's."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
