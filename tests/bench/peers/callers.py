"""The clients of the systems: each the one that the system's users have."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import grpc.aio

import imagegen
from bench.peers.asks import GUIDANCE, STRENGTH, Ask
from bench.peers.wire import METHOD, decode_reply, encode_ask

TIMEOUT = 300.0
"""Seconds after which a call counts as failed."""


class ImageGenCaller:
    """The `imagegen` client."""

    def __init__(self, address: str) -> None:
        self.client = imagegen.AsyncClient(address, timeout=TIMEOUT)

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        """See the protocol."""
        data = b""
        events = self.client.generate(
            ask.prompt,
            request_id=ask.key,
            seed=ask.seed,
            width=ask.side,
            height=ask.side,
            num_inference_steps=ask.steps,
            guidance_scale=GUIDANCE,
            refiner=imagegen.RefinerOptions(
                mode=imagegen.RefinerMode.IMAGE_TO_IMAGE,
                num_inference_steps=ask.refiner_steps,
                strength=STRENGTH,
                guidance_scale=GUIDANCE,
            ),
        )
        async with aclosing(events) as stream:
            async for event in stream:
                if isinstance(event, imagegen.StepProgress):
                    progressed()
                elif isinstance(event, imagegen.ImageReceived):
                    data = event.image.data
        return data

    async def close(self) -> None:
        """Closes the connection."""
        await self.client.close()


class GrpcCaller:
    """A stub of a unary call."""

    def __init__(self, address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._metadata = metadata
        self._call: Any = self._channel.unary_unary(
            METHOD, request_serializer=encode_ask, response_deserializer=decode_reply
        )

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        """See the protocol; there is no progress."""
        del progressed
        file: bytes = await self._call(ask, timeout=TIMEOUT, metadata=self._metadata)
        return file

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close(None)


class HttpCaller:
    """An HTTP client that keeps its connections."""

    def __init__(self, address: str) -> None:
        import aiohttp

        self._url = f"http://{address}/predict"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT)
        )

    async def ask(self, ask: Ask, progressed: Callable[[], None]) -> bytes:
        """See the protocol; there is no progress."""
        del progressed
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=json.dumps(ask.to_json()), headers=headers) as reply:
            reply.raise_for_status()
            file: bytes = await reply.read()
            return file

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()
