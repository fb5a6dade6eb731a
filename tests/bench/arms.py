"""The three ways of getting the same image that are compared.

    A  diffusers' base and refiner pipelines, one request after the other, first come first served
    B  the engine, called in this process
    C  a server in a process of its own, called through the client

A is what a careful user would write: pipelines that share what can be shared, no progress bars, and one thread for
all torch work. (torch builds a pool of OpenMP threads for every thread that calls it; a lock around calls from many
threads is several times slower.) A and B take turns on that one thread, so that this process has one such pool, as
the server has. Every arm ends with a PNG file in memory.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import imagegen
from bench.disturbance import Meter
from imagegen_server import models
from imagegen_server.engine import Engine, Finished, ImageReady, Ticket
from support.engines import engine_of
from support.live_server import LiveServer, live_server

if TYPE_CHECKING:
    from support.pairs import Stock

GUIDANCE: Final = 8.0
STRENGTH: Final = 0.3
_IDLE_SECONDS: Final = 2e-4
"""How long the engine's thread sleeps when it has nothing to do but wait for the encoder."""
_PROGRESS_SECONDS: Final = 0.1
"""Least time between two progress events: what arm C gets by default."""

T = TypeVar("T")


@dataclass(kw_only=True, frozen=True, slots=True)
class Work:
    """One request."""

    prompt: str
    seed: int
    side: int
    """Pixels; the latent has an eighth of it."""
    steps: int
    refiner_steps: int


class Arm(Protocol):
    """A way of getting an image."""

    name: str

    def working(self) -> Any:
        """Returns an async context manager in which `run` may be called."""
        ...

    async def run(self, work: Work) -> bytes:
        """Returns the PNG file of a request."""
        ...


class TorchThread:
    """The one thread of this process that calls torch."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="torch")

    async def do(self, work: Callable[[], T]) -> T:
        """Runs something after everything that was asked for before it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Waits for the thread to end."""
        self._pool.shutdown()


class DiffusersArm:
    """Arm A."""

    name = "A"

    def __init__(self, thread: TorchThread, stock: Stock) -> None:
        self._thread = thread
        self._stock = stock

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Waits, at the end, for the request that the thread is at."""
        try:
            yield
        finally:
            await self._thread.do(lambda: None)

    async def run(self, work: Work) -> bytes:
        """Returns the file when the thread has come to this request and done it."""
        return await self._thread.do(lambda: self._generate(work))

    def _generate(self, work: Work) -> bytes:
        import torch

        from imagegen_server.models.stages.schedule import image_to_image_steps
        from support.pairs import image_to_image

        settings = image_to_image(num_inference_steps=work.refiner_steps, strength=STRENGTH)
        generator = torch.Generator("cpu").manual_seed(work.seed)
        latents = self._stock.base(
            prompt=work.prompt,
            num_inference_steps=work.steps,
            guidance_scale=GUIDANCE,
            width=work.side,
            height=work.side,
            generator=generator,
            output_type="latent",
        ).images
        image = self._stock.refiner(
            prompt=work.prompt,
            image=latents,
            num_inference_steps=image_to_image_steps(settings),
            strength=STRENGTH,
            guidance_scale=GUIDANCE,
            generator=generator,
        ).images[0]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


class EngineArm:
    """Arm B."""

    name = "B"

    def __init__(self, thread: TorchThread, engine: Engine) -> None:
        self._thread = thread
        self._engine = engine
        self._numbers = 0

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Runs the engine's turns on the torch thread."""
        over = threading.Event()
        turns = asyncio.ensure_future(self._thread.do(lambda: self._turn_until(over)))
        try:
            yield
        finally:
            over.set()
            await turns

    async def run(self, work: Work) -> bytes:
        """Returns the file."""
        from support.pairs import image_to_image, request

        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(ready.set)

        self._numbers += 1
        refiner = image_to_image(num_inference_steps=work.refiner_steps, strength=STRENGTH, guidance_scale=GUIDANCE)
        ticket = self._engine.submit(
            request(
                request_id=f"bench-{self._numbers}",
                prompt=work.prompt,
                seed=work.seed,
                num_inference_steps=work.steps,
                guidance_scale=GUIDANCE,
                width=work.side,
                height=work.side,
                refiner=refiner,
                min_progress_interval=_PROGRESS_SECONDS,
            ),
            fingerprint=b"",
            deadline=None,
            on_ready=wake,
        )
        return await _file_of(ticket, ready)

    def _turn_until(self, over: threading.Event) -> None:
        """Runs turns until told to stop and nothing is left; requests that were given up end in one turn."""
        while not (over.is_set() and self._engine.wait_idle(0)):
            if not self._engine.turn():
                time.sleep(_IDLE_SECONDS)


async def _file_of(ticket: Ticket, ready: asyncio.Event) -> bytes:
    """Returns the file of a generation of one image. Raises what it ended with."""
    error: Exception | None = imagegen.ImageGenError("the request was given up")
    data = b""
    try:
        while True:
            await ready.wait()
            ready.clear()
            for numbered in ticket.take():
                if isinstance(numbered.event, ImageReady):
                    data = numbered.event.image.data
                if isinstance(numbered.event, Finished):
                    error = numbered.event.error
                    if error is not None:
                        raise error
                    return data
    finally:
        ticket.close(error)


class ServiceArm:
    """Arm C."""

    name = "C"

    def __init__(self, client: imagegen.AsyncClient, server: LiveServer) -> None:
        self._client = client
        self._server = server

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Waits, at the end, until the server has stopped what was given up."""
        try:
            yield
        finally:
            while not await asyncio.to_thread(self._server.idle):
                await asyncio.sleep(_IDLE_SECONDS)

    async def run(self, work: Work) -> bytes:
        """Returns the file."""
        image = await self._client.generate_image(
            work.prompt,
            seed=work.seed,
            width=work.side,
            height=work.side,
            num_inference_steps=work.steps,
            guidance_scale=GUIDANCE,
            refiner=imagegen.RefinerOptions(
                mode=imagegen.RefinerMode.IMAGE_TO_IMAGE,
                num_inference_steps=work.refiner_steps,
                strength=STRENGTH,
                guidance_scale=GUIDANCE,
            ),
        )
        return image.data


@dataclass(kw_only=True, frozen=True, slots=True)
class Arms:
    """All three, ready."""

    a: DiffusersArm
    b: EngineArm
    c: ServiceArm
    server_pid: int
    torch_threads: int
    """OpenMP threads of one torch operation, in this process and in the server: torch's own choice."""

    def meter(self) -> Meter:
        """Returns a meter of what programs other than the arms take of the processor, beginning now."""
        return Meter((self.server_pid,))


@asynccontextmanager
async def open_arms(directory: Path) -> AsyncIterator[Arms]:
    """Loads the embedded pair three times; `directory` gets the server's log."""
    async with AsyncExitStack() as stack:
        thread = TorchThread()
        stack.callback(thread.close)
        stock, engine, torch_threads = await thread.do(_load)
        server = stack.enter_context(live_server(directory, "--log-level=warning", "--min-steps=1", model="shapes"))
        client = await stack.enter_async_context(imagegen.AsyncClient(server.address))
        yield Arms(
            a=DiffusersArm(thread, stock),
            b=EngineArm(thread, engine),
            c=ServiceArm(client, server),
            server_pid=server.process.pid,
            torch_threads=torch_threads,
        )


def _load() -> tuple[Stock, Engine, int]:
    """Loads arms A and B; everything that calls torch runs on one thread."""
    import torch

    from imagegen_server import shapes
    from support.pairs import load_stock

    stock = load_stock(shapes.DIRECTORY)
    runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
    defaults = runner.describe().profile.defaults
    engine = engine_of(runner, native_area=(defaults.width // 8) * (defaults.height // 8))
    return stock, engine, torch.get_num_threads()
