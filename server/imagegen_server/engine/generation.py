"""One generation's way through its plan: what has been done, what is left, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from imagegen_server.core import (
    FallbackTaken,
    GenerationRequest,
    GenerationState,
    Job,
    Plan,
    Stage,
    StagePlan,
    Usage,
)
from imagegen_server.engine.account import Account
from imagegen_server.engine.buffer import EventBuffer
from imagegen_server.engine.estimate import CostModel
from imagegen_server.engine.events import Finished, StageTiming
from imagegen_server.engine.outcomes import final_state, outcome_of
from imagegen_server.engine.previews import preview_evaluations
from imagegen_server.engine.report import ImageFacts, Report, without_texts
from imagegen_server.errors import bare


@dataclass(slots=True)
class _Window:
    """When the images of a generation were in a stage."""

    start: float
    end: float
    steps: int = 0


class Track:
    """One job's way through the stages."""

    __slots__ = (
        "alone",
        "done",
        "generation",
        "job",
        "key",
        "position",
        "previews",
        "reported_at",
        "spent",
        "stage_started_at",
        "stepped",
    )

    def __init__(self, generation: Generation, job: Job, key: int) -> None:
        self.generation = generation
        self.job = job
        self.key = key
        self.position = 0
        """Index of the current stage in the plan; the number of stages once the job left the device."""
        self.done = 0
        """Evaluations executed in the current stage."""
        self.alone = False
        """The last batch with this job failed as a whole: find out whether this job was the cause."""
        self.stepped = False
        """The runner holds something for the job."""
        self.stage_started_at: float | None = None
        self.spent = 0.0
        """Device seconds in the current stage."""
        self.reported_at = float("-inf")
        """When progress was last published."""
        self.previews: list[Future[None]] = []
        """Previews on their way to a file."""

    @property
    def planned(self) -> StagePlan:
        """The current stage."""
        return self.generation.plan.stages[self.position]

    @property
    def following(self) -> StagePlan | None:
        """The refiner, if it is the next stage."""
        following = self.generation.plan.stages[self.position + 1 :][:1]
        return following[0] if following and following[0].stage is Stage.REFINER else None

    @property
    def on_device(self) -> bool:
        """Whether device stages are left."""
        return self.position < len(self.generation.plan.stages)

    @property
    def steps_done(self) -> int:
        """Denoising steps executed in the current stage; a second-order step counts when both halves ran."""
        planned = self.planned
        return self.done * planned.steps // planned.evaluations

    @property
    def told(self) -> bool:
        """Whether its current stage is told of: of one that all images share, only the first one's is."""
        return self.planned.stage is not Stage.TEXT_ENCODE or self.job.index == 0

    @property
    def told_index(self) -> int | None:
        """The image that its current stage is told of; None in a stage that all images share."""
        return None if self.planned.stage is Stage.TEXT_ENCODE else self.job.index

    def stage_seconds(self, now: float) -> float:
        """Returns how long it has been in the current stage; 0 if that has not begun."""
        return 0.0 if self.stage_started_at is None else now - self.stage_started_at

    def left(self, position: int) -> int:
        """Returns the evaluations that are left in the stage with an index in the plan; 0 if it is over."""
        if position < self.position:
            return 0
        evaluations = self.generation.plan.stages[position].evaluations
        return evaluations - self.done if position == self.position else evaluations

    def remaining(self, cost: CostModel) -> float:
        """Returns the device seconds left, run alone."""
        plan = self.generation.plan
        seconds = 0.0
        for position in range(self.position, len(plan.stages)):
            planned = plan.stages[position]
            seconds += self.left(position) * cost.seconds(planned.stage, plan.latent_shape, planned.rows)
        return seconds

    def skip_to(self, stage: Stage) -> None:
        """Leaves the current stage for a later one."""
        while self.planned.stage is not stage:
            self.position += 1
        self.restart_stage()

    def restart_stage(self) -> None:
        """Is at the beginning of the current stage."""
        self.done = 0
        self.spent = 0.0
        self.stage_started_at = None


class Generation:
    """A caller's request from admission to its terminal state. Guarded by the engine's lock."""

    def __init__(
        self,
        request: GenerationRequest,
        plan: Plan,
        *,
        number: int,
        first_key: int,
        fingerprint: bytes,
        deadline: float | None,
        now: float,
        buffer: EventBuffer,
    ) -> None:
        self.request = request
        self.plan = plan
        self.number = number
        self.fingerprint = fingerprint
        self.deadline = deadline
        self.admitted_at = now
        self.created = time.time()
        """When it was admitted, in seconds since the epoch."""
        self.delivered_at: float | None = None
        """When its caller had everything."""
        self.started_at: float | None = None
        self.queue_position = 0
        """How many were before it in the queue when its caller last heard of that."""
        self.buffer = buffer
        self.state = GenerationState.QUEUED
        self.previews_at = preview_evaluations(plan, request.preview_count)
        self.tracks = [Track(self, Job(request, index), first_key + index) for index in range(request.num_images)]
        self.stop: Exception | None = None
        """Why the generation is to end early; the device leaves it at the next turn."""
        self.stop_asked_at = 0.0
        self.stopped_in: Stage | None = None
        """The stage of what stopped it."""
        self.stopped_at: float | None = None
        """When, in seconds since the epoch: for whoever asks, it ended then."""
        self.account = Account()
        self.fallbacks: list[FallbackTaken] = []
        self.images: dict[int, ImageFacts] = {}
        """Images encoded so far, by index."""
        self.images_done = 0
        """Images of which it is known where they are kept, or that they are not."""
        self.made_progress = False
        self.finished = False
        """The last event was published."""
        self.cancel_asked = False
        """Somebody was told that it is cancelled."""
        self.on_ended: list[Callable[[bool], None]] = []
        """Called when it has ended, with `cancel_asked`."""
        self._fraction = 0.0
        self._windows: dict[Stage, _Window] = {}

    @property
    def ended(self) -> bool:
        """Whether the terminal state was reached."""
        return self.state not in (GenerationState.QUEUED, GenerationState.RUNNING)

    @property
    def on_device(self) -> bool:
        """Whether any job has device stages left."""
        return any(track.on_device for track in self.tracks)

    @property
    def stage(self) -> Stage:
        """The stage of the image that is furthest behind; once it is stopped, that of what stopped it."""
        if self.stopped_in is not None:
            return self.stopped_in
        if self.state is GenerationState.QUEUED:
            return Stage.QUEUED
        behind = min(self.tracks, key=lambda track: track.position)
        if behind.on_device:
            return behind.planned.stage
        return Stage.IMAGE_ENCODE if len(self.images) < len(self.tracks) else Stage.SEND

    @property
    def steps_done(self) -> int:
        """Denoising steps executed in `stage` by the image that is furthest behind."""
        behind = min(self.tracks, key=lambda track: track.position)
        return behind.steps_done if behind.on_device else 0

    def remaining(self, cost: CostModel) -> float:
        """Returns the device seconds left, run alone."""
        return sum(track.remaining(cost) for track in self.tracks)

    def progress(self, cost: CostModel) -> float:
        """Returns the part of the device work that is done, 0 to 1; never less than the last time."""
        whole = cost.plan_seconds(self.plan) * len(self.tracks)
        if whole > 0:
            self._fraction = min(max(1.0 - self.remaining(cost) / whole, self._fraction), 1.0)
        return self._fraction

    def enter(self, stage: Stage, now: float) -> None:
        """Notes that an image entered a stage."""
        self._windows.setdefault(stage, _Window(now, now))

    def leave(self, stage: Stage, now: float, steps: int = 0) -> float:
        """Notes that an image left a stage after `steps` steps; returns the stage's seconds so far."""
        window = self._windows.setdefault(stage, _Window(now, now))
        window.end = max(window.end, now)
        window.steps += steps
        return window.end - window.start

    def spend(self, track: Track, share: float, seconds: float, joules: float | None) -> None:
        """Notes one of its images' share, from 0 to 1, of a turn of `seconds` and `joules`."""
        track.spent += seconds * share
        self.account.spend(seconds * share, None if joules is None else joules * share)

    def usage(self) -> Usage:
        """Returns what it took from the device so far."""
        return self.account.usage()

    def timings(self) -> tuple[StageTiming, ...]:
        """Returns how long each stage took, in the order in which they were entered."""
        return tuple(
            StageTiming(stage=stage, duration=w.end - w.start, steps=w.steps) for stage, w in self._windows.items()
        )

    def finished_event(self, error: Exception | None) -> Finished:
        """Returns the last event: how it ended, or how it stands."""
        return Finished(error=error, stage_timings=self.timings(), usage=self.usage(), fallbacks=tuple(self.fallbacks))

    def elapsed(self, now: float) -> float:
        """Returns the seconds since admission, until everything was delivered."""
        return (now if self.delivered_at is None else self.delivered_at) - self.admitted_at

    def report(self, cost: CostModel, now: float) -> Report:
        """Returns where it is; nothing in it holds on to prompts, files or tensors.

        One that is being stopped has ended: whoever stopped it was told so.
        """
        return Report(
            request=without_texts(self.request),
            fingerprint=self.fingerprint,
            plan=self.plan,
            state=self.state if self.stop is None else final_state(outcome_of(self.stop, degraded=False)),
            stage=self.stage,
            step=self.steps_done,
            fraction=self.progress(cost) if self.state is GenerationState.RUNNING else self._fraction,
            images=tuple(self.images[index] for index in sorted(self.images)),
            finished=self.finished_event(None if self.stop is None else bare(self.stop)),
            elapsed=self.elapsed(now),
            created=self.created,
            ended=self.stopped_at,
        )
