"""One caller's hold on a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imagegen_server.engine.endings import Endings
from imagegen_server.engine.events import Numbered, StageTiming
from imagegen_server.engine.generation import Generation


class Ticket:
    """What `Engine.submit` returns. `close` must be called when the caller is done, however that came."""

    def __init__(self, endings: Endings, generation: Generation) -> None:
        self._endings = endings
        self._generation = generation

    @property
    def stopped(self) -> Exception | None:
        """Why the generation was ended early, while its images are being sent."""
        return self._generation.stop

    @property
    def completed(self) -> bool:
        """Whether everything was delivered: from then on the generation has completed, whatever comes."""
        return self._generation.delivered_at is not None

    def take(self) -> list[Numbered]:
        """Returns the pending events in order; never blocks. The first is Accepted, the last Finished."""
        return self._generation.buffer.take()

    @contextmanager
    def sending(self, image_index: int) -> Iterator[None]:
        """Surrounds the sending of one image: the `send` stage."""
        self._endings.begin_send(self._generation, image_index)
        sent = False
        try:
            yield
            sent = True
        finally:
            self._endings.end_send(self._generation, image_index, sent)

    def timings(self) -> tuple[StageTiming, ...]:
        """Returns how long each stage took so far, `send` included."""
        return self._endings.timings(self._generation)

    def sum_up(self) -> float:
        """Notes that the caller is told its times now, with the images; returns the seconds from admission until now.

        If that is delivered, they are the generation's times: the sending counts for metrics only.
        """
        return self._endings.sum_up(self._generation)

    def delivered(self) -> float:
        """Notes that the caller has every image; returns the seconds from admission until then.

        After this a cancel comes too late. Raises why the generation was stopped, if it was before.
        """
        return self._endings.delivered(self._generation)

    def close(self, error: Exception | None = None) -> None:
        """Ends the caller's interest. Idempotent.

        Args:
            error: None once everything was delivered. Otherwise why not; whatever still runs is stopped. Has no
                effect on a generation that has completed.
        """
        self._endings.close(self._generation, error)
