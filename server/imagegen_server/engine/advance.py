"""What follows from a turn's results: progress, the next stage, a fallback, a failure, a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imagegen_server.core import (
    STEP_STAGES,
    FallbackKind,
    FallbackReason,
    FallbackTaken,
    Outcome,
    Stage,
    StagePlan,
    StepResult,
)
from imagegen_server.engine.books import Books
from imagegen_server.engine.encoding import Encoding
from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import PromptTruncated, StageCompleted, StepProgress
from imagegen_server.engine.generation import Track
from imagegen_server.engine.outcomes import fallback_reason
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.siblings import run_apart, seconds_together
from imagegen_server.errors import OutOfDeviceMemory

REFINING_MARGIN: Final = 1.05
"""Of the time that an image still needs with the refiner: turns a little longer than usual do not lose it then."""
_TILED_MESSAGE = "the whole image did not fit into the device's memory; it was decoded in tiles"
_REFINER_MESSAGES = {
    FallbackReason.OOM: "the refiner ran out of device memory; the base's image is returned",
    FallbackReason.NAN: "the refiner produced non-finite numbers; the base's image is returned",
    FallbackReason.ERROR: "the refiner failed; the base's image is returned",
    FallbackReason.DEADLINE: "the deadline leaves no time for the refiner; the base's image is returned",
    FallbackReason.NOT_LOADED: "this server has no refiner loaded; the base's image is returned",
}


class Advance:
    """Moves jobs along their plans. Runs on the device thread, under the engine's lock."""

    def __init__(self, books: Books, endings: Endings, encoding: Encoding, runner: Runner) -> None:
        self._ledger = books.ledger
        self._cost = books.cost
        self._observer = books.observer
        self._rows = books.rows
        self._settings = books.settings
        self._endings = endings
        self._encoding = encoding
        self._runner = runner

    def batch(self, batch: Sequence[Track], results: Sequence[StepResult] | Exception, now: float) -> None:
        """Advances the jobs of a batch by their results, or by what the whole batch failed with."""
        if isinstance(results, Exception):
            self._fail_batch(batch, results, now)
            return
        before = [track.steps_done for track in batch]
        for track, result in zip(batch, results, strict=True):
            if result.failure is None and track.generation.stop is None:
                track.done += 1  # of all, before anybody is told how far its generation is
        for track, result, steps in zip(batch, results, before, strict=True):
            track.alone = False
            if track.generation.stop is not None:
                continue  # the next turn ends it
            if result.failure is not None:
                self._fail(track, result.failure, now)
            else:
                self._advance(track, result, steps, now)

    def _fail_batch(self, batch: Sequence[Track], error: Exception, now: float) -> None:
        """No job advanced. Strangers run alone next, so that only the cause fails; fewer rows follow on OOM."""
        first = batch[0]
        if len(batch) > 1 and first.planned.stage is not Stage.TEXT_ENCODE:
            if isinstance(error, OutOfDeviceMemory):
                rows = sum(track.planned.rows for track in batch)
                capped = self._rows.cap(first.planned.stage, first.generation.plan.latent_shape, rows // 2)
                self._observer.rows_capped(first.planned.stage, capped)
            for track in batch:
                track.alone = True
            return
        for track in batch:
            if track.generation.stop is None:
                self._fail(track, error, now)

    def _fail(self, track: Track, failure: Exception, now: float) -> None:
        """Gives up the refiner if that may be done, else the generation."""
        generation, planned = track.generation, track.planned
        allowed = FallbackKind.REFINER_TO_BASE in generation.request.allowed_fallbacks
        if planned.stage is Stage.REFINER and allowed:
            elapsed = track.stage_seconds(now)
            generation.leave(planned.stage, now, track.steps_done)
            generation.account.give_up(track.spent)
            if track.spent > 0:
                self._observer.wasted(Outcome.ERROR, track.spent)
            self._observer.stage_ended(generation.request, planned.stage, track.job.index, Outcome.ERROR, elapsed)
            self.fall_back(track, fallback_reason(failure))
            track.skip_to(Stage.VAE_DECODE)
        else:
            self._endings.stop(generation, failure, stage=planned.stage)

    def fall_back(self, track: Track, reason: FallbackReason) -> None:
        """Declares that the base's latent will be shown."""
        track.job.decode_from = Stage.BASE
        self._declare(
            track,
            FallbackTaken(
                image_index=track.job.index,
                kind=FallbackKind.REFINER_TO_BASE,
                from_stage=Stage.REFINER,
                to_stage=Stage.BASE,
                reason=reason,
                message=_REFINER_MESSAGES[reason],
            ),
        )

    def _declare_tiled(self, track: Track) -> None:
        """Declares that the image was decoded in tiles."""
        self._declare(
            track,
            FallbackTaken(
                image_index=track.job.index,
                kind=FallbackKind.TILED_DECODE,
                from_stage=Stage.VAE_DECODE,
                to_stage=Stage.VAE_DECODE,
                reason=FallbackReason.OOM,
                message=_TILED_MESSAGE,
            ),
        )

    def _declare(self, track: Track, taken: FallbackTaken) -> None:
        """Tells the caller and the operator of a fallback."""
        track.generation.fallbacks.append(taken)
        track.generation.buffer.publish(taken)
        self._observer.fallback(track.generation.request, taken)

    def _advance(self, track: Track, result: StepResult, before: int, now: float) -> None:
        """Tells of one evaluation of a job, which had `before` steps, and moves it on if it was the stage's last."""
        generation, planned = track.generation, track.planned
        for truncation in result.truncations:
            generation.buffer.publish(PromptTruncated(truncation=truncation))
        if result.text_reuse is not None:
            self._observer.text_encoded(generation.request, result.text_reuse)
        if planned.stage in STEP_STAGES:
            self._report_steps(track, track.steps_done - before, now)
            if result.preview is not None:
                self._encoding.preview(track, result.preview)
        if track.done < planned.evaluations:
            return
        self._complete_stage(track, now)
        if planned.stage is Stage.VAE_DECODE:
            if result.tiled:
                self._declare_tiled(track)
            self._leave_device(track, result)
        elif track.planned.stage is Stage.REFINER and self._no_time_to_refine(track, now):
            self.fall_back(track, FallbackReason.DEADLINE)
            track.skip_to(Stage.VAE_DECODE)

    def _report_steps(self, track: Track, steps: int, now: float) -> None:
        generation, planned = track.generation, track.planned
        if steps:
            self._observer.steps_executed(generation.request, planned.stage, steps)
            if not generation.made_progress:
                generation.made_progress = True
                self._observer.first_progress(generation.request, now - generation.admitted_at)
        due = now - track.reported_at >= generation.request.min_progress_interval
        if not steps or not (due or track.done == planned.evaluations):
            return
        track.reported_at = now
        fraction = generation.progress(self._cost)
        elapsed = now - (generation.started_at if generation.started_at is not None else now)
        generation.buffer.publish(
            StepProgress(
                stage=planned.stage,
                image_index=track.job.index,
                completed_steps=track.steps_done,
                total_steps=planned.steps,
                overall_fraction=fraction,
                eta=elapsed * (1 - fraction) / fraction if fraction > 0 else None,
            )
        )

    def _complete_stage(self, track: Track, now: float) -> None:
        """Ends a stage well and moves the job to the next."""
        generation, planned = track.generation, track.planned
        duration, told, index = track.stage_seconds(now), track.told, track.told_index
        generation.leave(planned.stage, now, planned.steps)
        track.position += 1
        track.restart_stage()
        if not told:
            return
        generation.buffer.publish(
            StageCompleted(stage=planned.stage, image_index=index, duration=duration, steps=planned.steps)
        )
        self._observer.stage_ended(generation.request, planned.stage, index, Outcome.OK, duration)

    def _no_time_to_refine(self, track: Track, now: float) -> bool:
        """Returns whether the deadline allows only for the base's image, and the caller accepts that.

        Of several images each is refined if that leaves the others the time for theirs from the base.
        """
        generation = track.generation
        if generation.deadline is None or FallbackKind.REFINER_TO_BASE not in generation.request.allowed_fallbacks:
            return False
        if not self._cost.knows(generation.plan):
            return False

        def left(planned: StagePlan) -> list[int]:
            given_up = planned.stage is Stage.REFINER
            there = (
                sibling
                for sibling in generation.tracks
                if not given_up or sibling is track or (sibling.on_device and sibling.planned.stage is Stage.REFINER)
            )
            position = generation.plan.stages.index(planned)
            return [evaluations for sibling in there if (evaluations := sibling.left(position))]

        apart = run_apart(generation.request, self._settings)
        needed = seconds_together(generation.plan, left, self._cost, self._rows, apart=apart)
        return now + REFINING_MARGIN * needed > generation.deadline

    def _leave_device(self, track: Track, result: StepResult) -> None:
        """Frees the job and hands its pixels to the encoders."""
        generation = track.generation
        track.stepped = False
        self._runner.release(track.job)
        if result.pixels is None:
            self._endings.stop(generation, RuntimeError("the runner decoded no pixels"), stage=Stage.VAE_DECODE)
            return
        if not generation.on_device:
            self.note_peak_memory()
            self._ledger.deliver(generation)
        self._encoding.encode(track, result.pixels)

    def note_peak_memory(self) -> None:
        """Gives every active generation the peak since the last note, and begins a new measurement."""
        peak = self._runner.peak_memory_bytes()
        if peak is None:
            return
        for generation in self._ledger.active.values():
            generation.account.hold(peak)
        self._runner.reset_peak_memory()
