"""How generations end: stopped early, finished, or delivered to their callers."""

from __future__ import annotations

import time

from imagegen_server.core import Outcome, Stage
from imagegen_server.engine.books import Books
from imagegen_server.engine.events import StageTiming
from imagegen_server.engine.generation import Generation
from imagegen_server.engine.outcomes import outcome_of
from imagegen_server.errors import Cancelled, DeadlineExceeded


class Endings:
    """Delivers and ends generations. Its public methods take the engine's lock, which is reentrant."""

    def __init__(self, books: Books) -> None:
        self._ledger = books.ledger
        self._work = books.work
        self._observer = books.observer
        self._clock = books.clock

    def stop(self, generation: Generation, error: Exception, *, stage: Stage | None = None) -> None:
        """Ends a generation early: at once if the device holds nothing of it, else at the next turn.

        `stage` is where it failed; None if it is stopped from outside, wherever it is. One that was delivered has
        completed, and one that is being stopped keeps its reason.
        """
        with self._work:
            if generation.ended or generation.stop is not None or generation.delivered_at is not None:
                return
            generation.stopped_in = stage or generation.stage
            generation.stop = error
            generation.stop_asked_at, generation.stopped_at = self._clock(), time.time()
            if generation.request.key not in self._ledger.active:  # else the device thread is awake
                self.finish(generation, error)

    def finish(self, generation: Generation, error: Exception | None) -> None:
        """Publishes the last event; with an error the generation has ended, without one it is still to be sent."""
        with self._work:
            now = self._clock()
            if error is not None:
                self._leave_open_stages(generation, outcome_of(error, degraded=False), now)
            if not generation.finished:
                generation.finished = True
                generation.buffer.publish(generation.finished_event(error))
            if error is not None:
                self._ledger.end(generation, error, now)
                self._work.notify_all()

    def close(self, generation: Generation, error: Exception | None) -> None:
        """Ends the caller's interest; see `Ticket.close`."""
        with self._work:
            if generation.ended:
                return
            if error is None and not generation.finished:
                error = Cancelled("the caller left before the generation had ended")
            if error is not None and generation.delivered_at is None:
                self.stop(generation, error, stage=error.stage if isinstance(error, DeadlineExceeded) else None)
                return
            self._ledger.end(generation, None, self._clock())
            self._work.notify_all()

    def begin_send(self, generation: Generation, image_index: int) -> None:
        """Notes that the sending of an image began."""
        with self._work:
            generation.enter(Stage.SEND, self._clock())
        self._observer.stage_started(generation.request, Stage.SEND, image_index)

    def end_send(self, generation: Generation, image_index: int, sent: bool) -> None:
        """Notes that the sending of an image ended, well or not."""
        with self._work:
            elapsed = generation.leave(Stage.SEND, self._clock())
        outcome = Outcome.OK if sent else outcome_of(generation.stop or Cancelled(""), degraded=False)
        self._observer.stage_ended(generation.request, Stage.SEND, image_index, outcome, elapsed)

    def timings(self, generation: Generation) -> tuple[StageTiming, ...]:
        """Returns how long each stage took so far."""
        with self._work:
            return generation.timings()

    def sum_up(self, generation: Generation) -> float:
        """Notes that the caller is told its times; see `Ticket.sum_up`."""
        with self._work:
            generation.summed_up_at = self._clock()
            return generation.elapsed(generation.summed_up_at)

    def delivered(self, generation: Generation) -> float:
        """Notes that everything was delivered; returns the seconds from admission until then.

        From then on it has completed, whoever asks. Raises why the generation was stopped, if it was before.
        """
        with self._work:
            if generation.stop is not None:
                raise generation.stop
            if generation.delivered_at is None:
                told = generation.summed_up_at
                generation.delivered_at = self._clock() if told is None else told
            return generation.elapsed(generation.delivered_at)

    def _leave_open_stages(self, generation: Generation, outcome: Outcome, now: float) -> None:
        """Tells the observer of every stage that the early end interrupts."""
        request = generation.request
        if generation.started_at is None:
            self._observer.stage_ended(request, Stage.QUEUED, None, outcome, now - generation.admitted_at)
            return
        for track in generation.tracks:
            if track.on_device and track.stage_started_at is not None and track.told:
                elapsed = track.stage_seconds(now)
                self._observer.stage_ended(request, track.planned.stage, track.told_index, outcome, elapsed)
