"""A generation that was delivered has completed for everybody, even if its caller does not take the last message."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import StreamSettings
from imagegen_server.api.handlers import ContextProxy, Handler, behaviour_of, with_behaviour
from imagegen_server.core import Outcome
from imagegen_server.models.fake.script import FakeTiming
from support.edge import drained, read_on, refusal
from support.engine_edge import serving, wanted
from support.waiting import until


class Stuck(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """A transport that takes every message of GenerateImage but the last."""

    def __init__(self) -> None:
        self.reached = False

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Returns the handler on such a transport."""
        handler: Handler = await continuation(handler_call_details)
        if not handler_call_details.method.endswith("/GenerateImage"):
            return handler
        inner = behaviour_of(handler)

        async def call(request: Any, context: Any) -> Any:
            return await inner(request, _StuckContext(context, self))

        return with_behaviour(handler, call)


class _StuckContext(ContextProxy):
    def __init__(self, context: Any, transport: Stuck) -> None:
        super().__init__(context)
        self._transport = transport

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Writes a message, or waits for room that never comes."""
        if message.HasField("completed"):
            self._transport.reached = True
            await asyncio.Event().wait()
        await self._context.write(message)


@pytest.mark.parametrize("how", ["cancel", "stall"])
async def test_a_caller_that_is_lost_at_the_end_changes_nothing(how: str) -> None:
    """Watchers, CancelGeneration, GetGeneration and the books say COMPLETED, before its call ends and afterwards."""
    transport = Stuck()
    stream = StreamSettings(send_timeout=0.5 if how == "stall" else 60.0)
    async with serving(timing=FakeTiming(evaluation=0.005), stream=stream, auth=lambda _: transport) as (edge, process):
        call = edge.stub.GenerateImage(wanted(request_id="g"))
        await call.read()
        watching = asyncio.ensure_future(drained(edge.stub.WatchGeneration(pb.WatchGenerationRequest(request_id="g"))))
        await until(lambda: transport.reached)
        cancel = pb.CancelGenerationRequest(request_id="g")
        assert (await edge.stub.CancelGeneration(cancel)).state == pb.GENERATION_STATE_COMPLETED
        if how == "cancel":
            call.cancel()
        else:
            assert (await refusal(read_on(call))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        messages = await watching
        assert messages[-1].response.HasField("completed")
        found = await edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="g"))
        assert (found.state, found.HasField("failure")) == (pb.GENERATION_STATE_COMPLETED, False)
        assert found.completed.images
        assert process.referee.outcomes == {"g": [Outcome.OK]}
