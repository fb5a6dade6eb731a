"""A signal that comes while a loop is made, runs, or is closed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from imagegen_server.child import SIGNALS
from imagegen_server.observe.__main__ import _Ending


@pytest.fixture
def ending() -> Iterator[_Ending]:
    """One that hears signals."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = _Ending()
    heard.listen()
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("when", ["made", "running", "closed"])
def test_a_signal_ends_the_work_and_raises_once_the_loop_is_closed(
    ending: _Ending, when: str, number: signal.Signals, raised: type[BaseException]
) -> None:
    """However early or late it comes: nothing is left half made, and no coroutine is left that nobody awaits."""
    told: list[str] = []
    loops: list[asyncio.AbstractEventLoop] = []

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loops.append(super().new_event_loop())
            if when == "made":
                signal.raise_signal(number)
            return loops[-1]

    async def work() -> None:
        told.append("begun")
        if when == "running":
            signal.raise_signal(number)
        try:
            await asyncio.sleep(0 if when == "closed" else 60)
        finally:
            told.append("ended")
            if when == "closed":
                asyncio.get_running_loop().call_soon(lambda: signal.raise_signal(number))

    asyncio.set_event_loop_policy(Policy())
    try:
        with pytest.raises(raised):
            ending.run(work())
    finally:
        asyncio.set_event_loop_policy(None)
    assert all(loop.is_closed() for loop in loops)
    assert told in ([], ["begun", "ended"])
    assert {signal.getsignal(each) for each in SIGNALS} == {signal.SIG_IGN}, "a second one would leave orphans"
