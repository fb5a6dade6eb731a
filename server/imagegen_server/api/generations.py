"""The calls that generate: a request is checked, admitted and written to whoever asked, as a stream or as one reply.

Once admitted, a generation is written by one task, whose `GenerationStream` turns the ticket's events into messages:

- If it ends with its call, that is the call's own task. It writes each message to the generation's journal, for those
  who watch, and then to the caller (`_Both`). When such a call broke and is made again, the device may not have left
  the first attempt yet: the second waits for that before it is admitted (`_predecessor_ended`).
- If it outlives its call, that is a task of its own, the keeper, which writes to the journal alone. Every call that
  asks for the generation, the one that began it included, copies the journal to its caller, as one that watches does.

Callers are written to through `Patient`, which gives up on one who reads nothing, and within `TimeLeft`, which ends a
call shortly before its deadline. That is part of the generation, of RenderImage's one answer as well: its places are
kept until the transport has taken that. The journal holds its writer up only when the bound of all journals is reached.
However the writing ends, `_close` tells the engine and then the journal.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial

import grpc
import grpc.aio

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import convert, ending, status
from imagegen_server.api.admission import Admission
from imagegen_server.api.auth.caller import current_caller
from imagegen_server.api.backend import Backend
from imagegen_server.api.cut_short import CutShort
from imagegen_server.api.handlers import AnyContext
from imagegen_server.api.journal import Journal
from imagegen_server.api.journals import Journals, JournalSettings
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.readers import ANSWER, Readers
from imagegen_server.api.replies import Answer, Reply
from imagegen_server.api.stream import Announce, GenerationStream, Patient, StreamSettings, Wake, Writer
from imagegen_server.api.time_left import EARLY, TimeLeft, not_begun, where_it_is
from imagegen_server.core import GenerationKey, GenerationRequest
from imagegen_server.engine import Report, Ticket


@dataclass(kw_only=True, frozen=True, slots=True)
class EdgeSettings:
    """What an operator may change about the service's edge."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    max_readers: int = 128
    """Calls that may be read to beyond the generations in flight; see `readers`."""
    callers_told_apart: bool = False
    """Whether callers show whose they are."""
    early: float = EARLY
    """Seconds before its deadline at which a call ends, at most; see `time_left`."""
    allow_isolate_batch: bool = True
    """Whether a caller may have its steps run alone, which slows everybody."""


@dataclass(kw_only=True, frozen=True, slots=True)
class _Call:
    """Whom a generation is written to."""

    context: AnyContext
    writer: Writer
    announce: Announce
    """Is awaited once the generation is admitted; a proxy cannot pass a call on any more whose headers are sent."""
    answer: Answer | None = None
    """The writer, if everything is sent at once."""


class Generations:
    """Runs generations for their calls."""

    def __init__(self, backend: Backend, settings: EdgeSettings, observer: EdgeObserver, quotas: Quotas | None) -> None:
        self._backend = backend
        self._settings = settings
        self._observer = observer
        self.readers = Readers(settings.max_readers, callers_told_apart=settings.callers_told_apart)
        self._admission = Admission(
            backend, observer, quotas, self.readers, allow_isolate_batch=settings.allow_isolate_batch
        )
        self._journals = Journals(settings.journal)
        self._keepers: set[asyncio.Task[None]] = set()

    async def generate(self, request: pb.GenerateImageRequest, request_id: str, context: AnyContext) -> None:
        """Writes a generation to its caller as it comes, or its plan if that is all that is asked for.

        Raises what is wrong with the request, why it is refused, or what the generation ends with.
        """
        announce = partial(send_request_id, context, request_id)
        await self._run(request, request_id, _Call(context=context, writer=self._patient(context), announce=announce))

    async def render(self, request: pb.RenderImageRequest, request_id: str, context: AnyContext) -> None:
        """Writes a generation, or its plan, to its caller as one answer. Raises what `generate` does."""
        reply = Reply(include_data=request.include_image_data)
        answer = Answer(reply, self._patient(context), partial(send_request_id, context, request_id))
        call = _Call(context=context, writer=answer, announce=_later, answer=answer)
        await self._run(request.generation, request_id, call)
        await answer.send()

    async def _run(self, request: pb.GenerateImageRequest, request_id: str, call: _Call) -> None:
        generation = self._admission.checked(request, request_id)
        if request.validate_only:
            await self._write_plan(generation, call)
        else:
            await self._write(generation, convert.fingerprint(request), call)

    async def watch(self, request_id: str, after: int, context: AnyContext, writer: Writer) -> None:
        """Writes the messages of a generation after sequence `after` to `writer`, and follows it to its end.

        Raises `errors.NotFound` for an unknown id, `errors.EventsNotKept` for messages that are gone,
        `errors.QuotaExceeded` for a call too many, and what the generation ends with.
        """
        tenant = current_caller().tenant
        journal = self._journals.find((tenant, request_id))
        if journal is None:
            self._backend.engine().report(request_id, tenant=tenant)  # NotFound
            text = "its events are not kept, or not any more: that takes on_disconnect CONTINUE, and ends after a while"
            raise errors.EventsNotKept(f"{text}; GetGeneration tells how it ended")
        late = partial(self._late, (tenant, request_id), stops=False)
        with self._admission.reading(request_id):
            async with self._time_left(context).ends(late):
                await journal.copy(self._patient(writer), after, announce=partial(send_request_id, context, request_id))

    async def all_read(self) -> None:
        """Returns once every event that is kept has been sent to those who read now."""
        await self._journals.all_read()

    async def _write_plan(self, generation: GenerationRequest, call: _Call) -> None:
        accepted = self._backend.engine().plan(generation)
        await call.announce()
        await self._stream(generation, call.writer).write_plan(accepted)

    async def _write(self, generation: GenerationRequest, fingerprint: bytes, call: _Call) -> None:
        """Admits a generation, or finds the one that outlives its calls, and writes it to its caller."""
        if not generation.outlives_call:
            await self._write_while_called(generation, fingerprint, call)
            return
        journal = self._journals.find(generation.key)
        late, weight = partial(self._late, generation.key, stops=False), 1 if call.answer is None else ANSWER
        reading: AbstractContextManager[None] = nullcontext()
        if journal is None or journal.ended or journal.fingerprint != fingerprint:
            journal = self._begin(generation, fingerprint)
            if call.answer is not None:  # which is sent once the generation has ended, when nothing else bounds it
                call.answer.held = partial(self.readers.reading, generation.tenant, weight)
        else:
            reading = self._admission.reading(generation.request_id, weight)
        with reading:
            async with self._time_left(call.context).ends(late):
                await journal.copy(call.writer, caller=True, announce=call.announce)

    async def _write_while_called(self, generation: GenerationRequest, fingerprint: bytes, call: _Call) -> None:
        """Admits a generation that ends with its call; whatever happens, the engine learns how it ended."""
        cut, time_left = CutShort(call.context), self._time_left(call.context)
        async with time_left.ends(not_begun):
            await self._predecessor_ended(generation, fingerprint)
        ticket, wake, journal = self._admit(generation, fingerprint, time_left.device_until)
        late = partial(self._late, generation.key, stops=True)
        error: Exception | None = errors.Cancelled("the call ended before the generation")
        try:
            async with time_left.ends(lambda: None if ticket.completed else late()):
                await call.announce()
                await self._stream(generation, _Both(journal, call.writer), call.answer).run(ticket, wake)
            error = None
        except (asyncio.CancelledError, grpc.aio.BaseError):
            passed = cut.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            error = late() if passed else errors.Cancelled("the caller cancelled the call or closed its connection")
            raise
        except Exception as raised:
            error = raised
            raise
        finally:
            _close(ticket, journal, error)

    async def _predecessor_ended(self, generation: GenerationRequest, fingerprint: bytes) -> None:
        """Returns once the device has left this request's last attempt, if that is being stopped: its call broke.

        Raises `errors.Cancelled` if the generation was cancelled meanwhile.
        """
        ended, cancelled = Wake(), list[bool]()

        def on_ended(asked: bool) -> None:
            cancelled.append(asked)
            ended()

        if self._backend.engine().after_stop(generation, fingerprint=fingerprint, on_ended=on_ended):
            await ended.wait()
        if any(cancelled):
            raise errors.Cancelled("the generation was cancelled")

    def _begin(self, generation: GenerationRequest, fingerprint: bytes) -> Journal:
        """Admits a generation that no call ends; returns what its callers read."""
        ticket, wake, journal = self._admit(generation, fingerprint, None)
        keeper = asyncio.get_running_loop().create_task(self._keep(generation, ticket, wake, journal))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return journal

    async def _keep(self, generation: GenerationRequest, ticket: Ticket, wake: Wake, journal: Journal) -> None:
        """Writes a generation to its journal; whatever happens, its readers and the engine learn how it ended."""
        error: Exception | None = errors.Unavailable(errors.UnavailableReason.DRAINING, "the server is shutting down")
        try:
            await self._stream(generation, journal).run(ticket, wake)
            error = None
        except Exception as raised:  # noqa: BLE001 # every failure becomes a row of the status table
            error = raised
            if status.is_bug(raised):
                self._observer.bug("GenerateImage", generation.request_id, raised)
        finally:
            _close(ticket, journal, error)

    def _admit(
        self, generation: GenerationRequest, fingerprint: bytes, deadline: float | None
    ) -> tuple[Ticket, Wake, Journal]:
        self._admission.check_quota(generation)
        wake = Wake()
        ticket = self._backend.engine().submit(generation, fingerprint=fingerprint, deadline=deadline, on_ready=wake)
        outlives = generation.outlives_call
        return ticket, wake, self._journals.open(generation.key, fingerprint, outlives_call=outlives)

    def _late(self, key: GenerationKey, *, stops: bool) -> Exception:
        """Returns what a call of a generation ends with whose time is up; `stops` if the generation ends with it."""
        tenant, request_id = key
        report: Report | None = None
        with suppress(errors.ImageGenError):  # there is no engine any more, or the generation has been forgotten
            report = self._backend.engine().report(request_id, tenant=tenant)
        return where_it_is(report, stops=stops)

    def _time_left(self, context: AnyContext) -> TimeLeft:
        return TimeLeft(context.time_remaining(), self._settings.early)

    def _stream(self, generation: GenerationRequest, writer: Writer, answer: Answer | None = None) -> GenerationStream:
        return GenerationStream(writer, generation, self._settings.stream.chunk_bytes, answer)

    def _patient(self, writer: Writer | AnyContext) -> Patient:
        return Patient(writer, self._settings.stream, self._observer)


class _Both:
    """Writes to a journal and to a caller, in this order: what a caller has, it may ask for what follows."""

    def __init__(self, journal: Journal, writer: Writer) -> None:
        self._journal = journal
        self._writer = writer

    async def write(self, message: pb.GenerateImageResponse) -> None:
        """Writes a message."""
        await self._journal.write(message)
        await self._writer.write(message)


def _close(ticket: Ticket, journal: Journal, error: Exception | None) -> None:
    """Tells the engine first, so that whoever reads the end finds the generation ended.

    One that has completed stays so, even if its caller does not learn it: its journal has `completed`.
    """
    ticket.close(error)
    journal.end(None if error is None or ticket.completed else status.failure_of(error))


async def send_request_id(context: AnyContext, request_id: str) -> None:
    """Sends the headers of a call, with the id of its generation.

    Cancelled, it waits until they are sent: gRPC would send them once more with a status, which fails.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(((ending.REQUEST_ID_KEY, request_id),)))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending])
        raise


async def _later() -> None:
    """Sends no headers: an answer that comes at once has them too, and until then a proxy may ask another server."""
