"""How far each stage of a generation is, over all its images. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from imagegen import types


@dataclass(kw_only=True, frozen=True, slots=True)
class StageStatus:
    """How far one stage is, over all images."""

    stage: types.Stage
    """The stage."""
    done: int
    """Steps executed; images done, in stages without steps."""
    total: int
    """What `done` will reach."""
    unit: str
    """What is counted: steps, images, or an empty string for a stage that the images share."""
    elapsed: float
    """Seconds by the server's clock since the stage's first image began."""

    @property
    def finished(self) -> bool:
        """Whether the stage is over for all images."""
        return self.done >= self.total

    @property
    def count(self) -> str:
        """Returns what is done, for people."""
        return f"{self.done}/{self.total} {self.unit}" if self.unit else ""


class StageTracker:
    """Folds events into the state of each planned stage. Pure; other stages and events are passed over."""

    def __init__(self, plan: types.GenerationPlan) -> None:
        self._steps = {planned.stage: planned.steps for planned in plan.stages}
        self._images = plan.num_images
        self._done: dict[tuple[types.Stage, int | None], int] = {}
        self._begun: dict[types.Stage, float] = {}

    def initial(self) -> tuple[StageStatus, ...]:
        """Returns the planned stages before anything has happened."""
        return tuple(self._status(stage, 0.0) for stage in self._steps)

    def update(self, event: types.Event) -> StageStatus | None:
        """Takes an event; returns the stage that it moved, if any."""
        if not isinstance(event, types.StageStarted | types.StepProgress | types.StageCompleted):
            return None
        if event.stage not in self._steps:
            return None
        self._begun.setdefault(event.stage, event.event_time)
        if isinstance(event, types.StepProgress):
            self._done[event.stage, event.image_index] = event.completed_steps
        elif isinstance(event, types.StageCompleted):
            self._done[event.stage, event.image_index] = self._steps[event.stage] or 1
        return self._status(event.stage, event.event_time)

    def _status(self, stage: types.Stage, now: float) -> StageStatus:
        steps = self._steps[stage]
        shared = stage is types.Stage.TEXT_ENCODE
        return StageStatus(
            stage=stage,
            done=sum(done for (kind, _), done in self._done.items() if kind is stage),
            total=(steps or 1) * (1 if shared else self._images),
            unit="" if shared else "steps" if steps else "images",
            elapsed=max(0.0, now - self._begun.get(stage, now)),
        )
