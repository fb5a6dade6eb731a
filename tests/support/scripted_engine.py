"""An engine that says exactly what a test wants it to say, and the process around it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from imagegen_server import errors
from imagegen_server.api import ServerState
from imagegen_server.core import (
    Defaults,
    DeviceInfo,
    EncodedImage,
    GenerationRequest,
    GenerationState,
    Limits,
    LoadedModel,
    MemoryPlan,
    ModelProfile,
    Plan,
    Precision,
    QueueState,
    RefinerMode,
    Residency,
    Stage,
    StagePlan,
    Usage,
)
from imagegen_server.engine import Engine, Report, events

PROFILE = ModelProfile(
    name="tiny",
    description="a model for tests",
    base_source="nowhere/base",
    refiner_source="nowhere/refiner",
    limits=Limits(),
    defaults=Defaults(width=128, height=128),
    schedulers=("DDIMScheduler", "EulerDiscreteScheduler"),
)
OTHER_PROFILE = ModelProfile(
    name="other",
    description="known, not loaded",
    base_source="elsewhere",
    refiner_source="",
    limits=Limits(max_steps=40),
    defaults=Defaults(),
    schedulers=("DDIMScheduler",),
)
LOADED = LoadedModel(
    profile=PROFILE,
    device=DeviceInfo(type="cpu", name="a processor", driver="", total_memory_bytes=1 << 30),
    precision=Precision.FP32,
    memory_plan=MemoryPlan(
        residency=Residency.BOTH,
        precision=Precision.FP32,
        available_bytes=5,
        weights_bytes=2,
        working_bytes=1,
        predicted_peak_bytes=4,
        components=(),
        explanation="it fits",
    ),
    refiner_loaded=True,
    packages={"diffusers": "1", "torch": "2"},
)


def stage_plan(stage: Stage, steps: int = 0, guidance: float = 0.0) -> StagePlan:
    """Returns the plan of a stage."""
    return StagePlan(stage=stage, steps=steps, evaluations=steps or 1, guidance_scale=guidance)


def accepted() -> events.Accepted:
    """Returns the first event of a generation."""
    stages = (stage_plan(Stage.TEXT_ENCODE), stage_plan(Stage.BASE, 50, 8.0), stage_plan(Stage.VAE_DECODE))
    plan = Plan(stages=stages, latent_shape=(16, 16), precision=Precision.FP32, refiner_mode=RefinerMode.IMAGE_TO_IMAGE)
    return events.Accepted(plan=plan, queue_position=2, estimated_wait=1.5, estimated_duration=3.25)


def image_ready(data: bytes, index: int = 0) -> events.ImageReady:
    """Returns an image that is ready to be sent."""
    image = EncodedImage(mime_type="image/png", data=data, sha256=hashlib.sha256(data).hexdigest())
    return events.ImageReady(image_index=index, image=image, seed=index, width=128, height=128, refined=True)


USAGE = Usage(device_seconds=2.5, wasted_device_seconds=0.5, energy_joules=800.0, peak_memory_bytes=123)


def finished(error: Exception | None = None) -> events.Finished:
    """Returns the last event of a generation."""
    return events.Finished(error=error, stage_timings=(), usage=USAGE, fallbacks=())


Script = Sequence[events.Event | float]
"""Events in order; a number is a pause in seconds."""


class ScriptedTicket:
    """Implements the engine's Ticket from a script that runs on the event loop."""

    def __init__(self, script: Script, on_ready: Callable[[], None]) -> None:
        self.stopped: Exception | None = None
        self.closed: list[Exception | None] = []
        self.sent: list[int] = []
        self.completed = False
        self._pending: list[events.Numbered] = []
        self._on_ready = on_ready
        self._task = asyncio.get_running_loop().create_task(self._run(script))

    async def _run(self, script: Script) -> None:
        for sequence, item in enumerate(script, start=1):
            if isinstance(item, int | float):
                await asyncio.sleep(item)
                continue
            self._pending.append(events.Numbered(sequence=sequence, time=time.time(), event=item))
            self._on_ready()

    def take(self) -> list[events.Numbered]:
        """See the original."""
        taken, self._pending = self._pending, []
        return taken

    @contextmanager
    def sending(self, image_index: int) -> Iterator[None]:
        """See the original."""
        yield
        self.sent.append(image_index)

    def timings(self) -> tuple[events.StageTiming, ...]:
        """See the original."""
        base = events.StageTiming(stage=Stage.BASE, duration=2.0, steps=50)
        send = events.StageTiming(stage=Stage.SEND, duration=0.5, steps=0)
        return (base, send) if self.sent else (base,)

    def sum_up(self) -> float:
        """See the original."""
        return 4.0

    def delivered(self) -> float:
        """See the original."""
        self.completed = True
        return 4.0

    def close(self, error: Exception | None = None) -> None:
        """See the original."""
        self.closed.append(error)
        self._task.cancel()


@dataclass
class ScriptedEngine:
    """Implements what the edge uses of the Engine; every submitted generation plays `script`."""

    script: Script = ()
    raises: Exception | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[ScriptedTicket] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Tenants and ids of the generations that were asked for, or cancelled."""

    def _take(self, request: GenerationRequest) -> None:
        if self.raises is not None:
            raise self.raises
        self.requests.append(request)

    def plan(self, request: GenerationRequest) -> events.Accepted:
        """See the original."""
        self._take(request)
        return accepted()

    def submit(self, request: GenerationRequest, **how: Any) -> ScriptedTicket:
        """See the original."""
        self._take(request)
        self.submissions.append(how)
        self.tickets.append(ScriptedTicket(self.script, how["on_ready"]))
        return self.tickets[-1]

    def after_stop(self, request: GenerationRequest, **how: Any) -> bool:
        """Nothing is ever being stopped."""
        return False

    def report(self, request_id: str, *, tenant: str = "") -> Report:
        """Nothing is known of any generation."""
        self.asked.append((tenant, request_id))
        raise errors.NotFound("generation", request_id, "unknown")

    def cancel(self, request_id: str, *, tenant: str = "") -> GenerationState:
        """See the original."""
        if self.raises is not None:
            raise self.raises
        self.asked.append((tenant, request_id))
        return GenerationState.CANCELLED

    def queue_state(self) -> QueueState:
        """See the original."""
        return QueueState(queued=1, running=2, delivering=1, capacity=3)


@dataclass
class ScriptedBackend:
    """Implements the Backend protocol."""

    scripted: ScriptedEngine
    serving: ServerState = ServerState.SERVING
    version: str = "1.2.3"
    start_time: float = 1_000_000_000.0

    def state(self) -> ServerState:
        """See the original."""
        return self.serving

    def engine(self) -> Engine:
        """See the original."""
        if self.serving is ServerState.LOADING:
            raise errors.Unavailable(errors.UnavailableReason.LOADING, "models are being loaded")
        return cast("Engine", self.scripted)

    def loaded(self) -> LoadedModel | None:
        """See the original."""
        return None if self.serving is ServerState.LOADING else LOADED

    def profiles(self) -> Sequence[ModelProfile]:
        """See the original."""
        return (OTHER_PROFILE, PROFILE)
