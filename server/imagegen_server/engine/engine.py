"""The engine: admits generations, chooses what runs next, advances it and tells its caller.

The engine knows jobs and costs. It does not know tensors, files or calls.

Threads: callers submit and cancel from any thread; one device thread calls `run_forever`; a few encoder threads
turn pixels into files. What they share are the books, under one lock: see `books`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from imagegen_server.core import (
    EngineObserver,
    GenerationRequest,
    GenerationState,
    LoadedModel,
    QueueState,
    Refusal,
    RejectReason,
)
from imagegen_server.engine.admission import REJECT_REASONS, Admission
from imagegen_server.engine.advance import Advance
from imagegen_server.engine.books import Books
from imagegen_server.engine.encoding import Encode, EncodePreview, Encoding, Keep
from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import Accepted
from imagegen_server.engine.loop import Loop
from imagegen_server.engine.outcomes import final_state, outcome_of
from imagegen_server.engine.rehearsal import rehearse
from imagegen_server.engine.report import Report
from imagegen_server.engine.runner import Runner
from imagegen_server.engine.settings import EngineSettings
from imagegen_server.engine.ticket import Ticket
from imagegen_server.engine.turns import Turns
from imagegen_server.engine.waiting import Waiting
from imagegen_server.errors import Cancelled, ImageGenError, NotFound, Unavailable, UnavailableReason, details_of


class Engine:
    """Step-level continuous batching over both stages."""

    def __init__(
        self,
        *,
        runner: Runner,
        encode: Encode,
        encode_preview: EncodePreview,
        observer: EngineObserver,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
        encoders: Executor | None = None,
        energy: Callable[[], float | None] = lambda: None,
        keep: Keep | None = None,
    ) -> None:
        """Prepares.

        Args:
            runner: owns the models and the device.
            encode: makes image files, on encoder threads.
            encode_preview: makes preview files, on encoder threads.
            observer: hears what happens.
            settings: how much is taken on.
            clock: seconds, monotonic.
            encoders: where files are made; threads of its own if None.
            energy: joules that the device has used since some moment, None while unknown; must return at once.
            keep: puts image files where callers can fetch them later; None if results are not kept.
        """
        books = Books(observer, settings, clock)
        self._runner = runner
        self._observer = observer
        self._clock = clock
        self._work = books.work
        self._cost = books.cost
        self._ledger = books.ledger
        waiting = Waiting(books)
        self._admission = Admission(books, waiting)
        self._encoders = encoders or ThreadPoolExecutor(settings.encode_threads, thread_name_prefix="encode")
        self._endings = Endings(books)
        encoding = Encoding(
            books, self._endings, encode=encode, encode_preview=encode_preview, keep=keep, encoders=self._encoders
        )
        advance = Advance(books, self._endings, encoding, runner)
        self._turns = Turns(books, waiting, advance, self._endings, runner)
        self._loop = Loop(books, self._turns, runner, energy)
        self._refusal: Unavailable | None = None
        observer.queue_changed(self._ledger.state())

    # -- for callers, from any thread ---------------------------------------------------------------------------

    def plan(self, request: GenerationRequest) -> Accepted:
        """Returns what the request would execute and when; admits nothing.

        Raises NotFound, InvalidRequest or RefinerUnavailable.
        """
        plan = self._runner.plan(request)
        with self._work:
            return self._admission.accepted(request, plan, self._clock())

    def submit(
        self,
        request: GenerationRequest,
        *,
        fingerprint: bytes,
        deadline: float | None,
        on_ready: Callable[[], None],
    ) -> Ticket:
        """Admits a generation to the queue.

        Args:
            request: what to generate.
            fingerprint: of the request's body; the same id with another fingerprint is refused.
            deadline: instant of the engine's clock at which the caller gives up.
            on_ready: called when events can be taken, from any thread; must return at once.

        Raises QueueFull, DeadlineExceeded, Unavailable, AlreadyExists, NotFound, InvalidRequest or
        RefinerUnavailable.
        """
        try:
            plan = self._runner.plan(request)
            with self._work:
                if self._refusal is not None:
                    raise self._refusal
                generation = self._admission.admit(
                    request,
                    plan,
                    fingerprint=fingerprint,
                    deadline=deadline,
                    now=self._clock(),
                    on_ready=on_ready,
                )
                self._work.notify_all()
        except ImageGenError as error:
            self._observer.rejected(
                Refusal(
                    request_id=request.request_id,
                    model=request.model,
                    reason=REJECT_REASONS.get(type(error), RejectReason.INVALID),
                    details=details_of(error),
                    tenant=request.tenant,
                    key_id=request.key_id,
                )
            )
            raise
        return Ticket(self._endings, generation)

    def after_stop(self, request: GenerationRequest, *, fingerprint: bytes, on_ended: Callable[[bool], None]) -> bool:
        """Has `on_ended` called once the generation of the same id, which is being stopped, has ended.

        Returns False, and calls nothing, if none is being stopped, `cancel` stops it, or its body had another
        fingerprint. `on_ended` hears whether `cancel` was called meanwhile, from any thread, and must return at once.
        """
        with self._work:
            generation = self._ledger.find(request.key)
            if generation is None or generation.stop is None or generation.fingerprint != fingerprint:
                return False
            if generation.cancel_asked:
                return False
            generation.on_ended.append(on_ended)
            return True

    def cancel(self, request_id: str, *, tenant: str = "") -> GenerationState:
        """Stops a tenant's generation wherever it is; returns the state that it ends in. Idempotent.

        That is COMPLETED if its caller is being told so, and FAILED if it is being stopped for a failure.

        Raises NotFound for an id that this tenant never used, or that has been forgotten.
        """
        with self._work:
            generation = self._ledger.find((tenant, request_id))
            if generation is not None:
                self._endings.stop(generation, Cancelled("the generation was cancelled"))
                state = final_state(outcome_of(generation.stop, degraded=False))
                generation.cancel_asked = state is GenerationState.CANCELLED
                return state
            ended = self._ledger.ended((tenant, request_id), self._clock())
        return _known(ended, request_id).state

    def report(self, request_id: str, *, tenant: str = "") -> Report:
        """Returns what is known of a tenant's living or recent generation.

        Raises NotFound for an id that this tenant never used, or that has been forgotten.
        """
        with self._work:
            found = self._ledger.report((tenant, request_id), self._clock())
        return _known(found, request_id)

    def loaded(self) -> LoadedModel:
        """Returns what the runner has loaded."""
        return self._runner.describe()

    def queue_state(self) -> QueueState:
        """Returns how full the engine is."""
        with self._work:
            return self._ledger.state()

    # -- for the composition root -------------------------------------------------------------------------------

    def warm_up(self, request: GenerationRequest) -> None:
        """Runs a generation outside the books, so that costs are known and caches are warm before serving.

        Call it on the device thread before `run_forever`. Raises what the runner raises.
        """
        try:
            rehearse(self._runner, request, self._cost, self._clock)
        finally:
            self._turns.note_adaptations()

    def drain(self, reason: Unavailable) -> None:
        """Refuses new generations and ends the queued ones with `reason`; running ones go on."""
        with self._work:
            self._refusal = reason
            for generation in list(self._ledger.queued.values()):
                self._endings.stop(generation, reason)

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no generation lives, at most `timeout` seconds; returns whether none does."""
        with self._work:
            return self._work.wait_for(lambda: self._ledger.live == 0, timeout)

    def stop(self, reason: Unavailable) -> None:
        """Ends every generation that is not yet delivered with `reason`, and `run_forever` with its turn."""
        with self._work:
            self._refusal = reason
            for generation in list(self._ledger):
                self._endings.stop(generation, reason)
            self._loop.end()
            self._work.notify_all()
        self._encoders.shutdown(wait=False)

    # -- on the device thread -----------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Runs turns until `stop`, then closes the runner.

        Raises whatever breaks the device thread (DeviceLost, say) after ending every generation with UNAVAILABLE.
        """
        try:
            self._loop.run()
        except BaseException as error:
            lost = Unavailable(UnavailableReason.DEVICE_LOST, "the device stopped working")
            lost.__cause__ = error
            self.stop(lost)
            raise
        finally:
            self.turn()
            self._runner.close()

    def turn(self) -> bool:
        """Runs one turn; returns whether anything ran."""
        return self._loop.turn()


def _known(report: Report | None, request_id: str) -> Report:
    if report is None:
        raise NotFound("generation", request_id, f"no generation {request_id!r} is known")
    return report
