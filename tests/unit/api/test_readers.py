"""How many calls may be read to: of a tenant, in all, and until when one counts."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from imagegen_server.api.readers import ANSWER, AT_LEAST, PER_GENERATION, Readers
from imagegen_server.errors import QuotaExceeded


def refused(readers: Readers, tenant: str = "", in_flight: int | None = None, weight: int = 1) -> str:
    """Returns the reason for which another call is refused; empty if it is not."""
    try:
        readers.check(tenant, in_flight, weight)
    except QuotaExceeded as error:
        return error.reason if error.retry_after > 0 else "no time to come back"
    return ""


@pytest.mark.parametrize(
    ("in_flight", "most"), [(1, AT_LEAST), (4, AT_LEAST), (8, 8 * PER_GENERATION), (1000, 50), (None, 50)]
)
def test_a_tenant_has_readers_by_its_generations_and_never_more_than_half(in_flight: int | None, most: int) -> None:
    """What one tenant reads leaves the others theirs."""
    readers = Readers(100, callers_told_apart=True)
    with ExitStack() as calls:
        for _ in range(most):
            assert not refused(readers, "alice", in_flight)
            calls.enter_context(readers.reading("alice"))
        assert refused(readers, "alice", in_flight) == "TENANT_READERS"
        assert not refused(readers, "bob", in_flight)
    assert not refused(readers, "alice", in_flight)


def test_strangers_leave_half_to_whoever_shows_credentials() -> None:
    """Where callers are told apart, those without a tenant are one like any other."""
    readers = Readers(2, callers_told_apart=True)
    with readers.reading(""):
        assert refused(readers) == "TENANT_READERS"
        assert not refused(readers, "alice")


def test_where_nobody_has_a_tenant_the_bound_is_that_of_all() -> None:
    """It holds for everybody together; an answer counts as several."""
    readers = Readers(ANSWER + 2, callers_told_apart=False)
    with readers.reading(""), readers.reading(""):
        assert not refused(readers, weight=ANSWER)
        with readers.reading("", ANSWER):
            assert refused(readers) == "READERS"
        assert not refused(readers)


async def test_a_call_that_was_given_up_counts_until_its_status_is_sent() -> None:
    """Or until its connection is gone, however its sending ends then."""
    readers = Readers(2, callers_told_apart=False)
    sent, gone = (asyncio.get_running_loop().create_future() for _ in range(2))

    async def sending(future: asyncio.Future[None]) -> None:
        await future

    for future in (sent, gone):
        readers.left("alice", 1, asyncio.create_task(sending(future)))
    await asyncio.sleep(0)
    assert refused(readers) == "READERS"
    sent.set_result(None)
    gone.set_exception(RuntimeError("the connection"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert not refused(readers, weight=2)
