"""The end of the engine: drained, stopped, or without its device."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagegen_server.core import Outcome, RejectReason
from imagegen_server.engine import Engine, EngineSettings, Finished
from imagegen_server.errors import DeviceLost, Unavailable, UnavailableReason
from imagegen_server.models.fake.runner import FakeRunner
from imagegen_server.models.fake.script import FakeTiming
from support.ends import finished
from support.referee import Referee
from support.simulation import PROFILE, World, encode, encode_preview, make_request


def test_draining_ends_the_queue_and_lets_running_work_end() -> None:
    """Queued generations end with the reason, running ones complete, new ones are refused."""
    world = World(EngineSettings(max_running=1, native_area=64))
    world.submit(make_request("running"))
    world.engine.turn()
    world.submit(make_request("queued"))
    reason = Unavailable(UnavailableReason.DRAINING, "the server is shutting down")
    world.engine.drain(reason)
    with pytest.raises(Unavailable):
        world.submit(make_request("late"))
    assert not world.engine.wait_idle(0), "one still runs"
    world.run()
    assert world.engine.wait_idle(0)
    world.check_balance()
    assert finished(world, "queued").error is reason
    assert world.referee.outcomes == {"queued": [Outcome.ERROR], "running": [Outcome.OK]}
    assert world.referee.rejections == {RejectReason.DRAINING: 1}


def test_a_lost_device_ends_everything_and_the_thread() -> None:
    """Every generation ends UNAVAILABLE, the device thread raises, and new work is refused."""
    referee = Referee()
    engine = Engine(
        runner=FakeRunner(PROFILE, timing=FakeTiming(evaluation=0.001)),
        encode=encode,
        encode_preview=encode_preview,
        observer=referee,
        settings=EngineSettings(),
    )
    tickets = [
        engine.submit(make_request(name, prompt=prompt), fingerprint=b"", deadline=None, on_ready=lambda: None)
        for name, prompt in (("a", "a circle"), ("b", "{base:lost@3}"))
    ]
    with pytest.raises(DeviceLost):
        engine.run_forever()
    for ticket in tickets:
        last = ticket.take()[-1].event
        assert isinstance(last, Finished)
        assert isinstance(last.error, Unavailable)
        assert last.error.reason == "DEVICE_LOST"
    with pytest.raises(Unavailable):
        engine.submit(make_request("c"), fingerprint=b"", deadline=None, on_ready=lambda: None)
    assert sorted(referee.outcomes) == ["a", "b"]


def test_a_real_thread_wakes_for_work_and_stops() -> None:
    """On real threads: idle, served, idle again, stopped; and waiting for idleness returns."""
    referee = Referee()
    engine = Engine(
        runner=FakeRunner(PROFILE, timing=FakeTiming(evaluation=0.0, text_encode=0.0, vae_decode=0.0)),
        encode=encode,
        encode_preview=encode_preview,
        observer=referee,
        settings=EngineSettings(),
    )
    thread = threading.Thread(target=engine.run_forever)
    thread.start()
    for number in range(20):
        ready = threading.Event()
        ticket = engine.submit(
            make_request(f"r{number}"), fingerprint=b"", deadline=time.monotonic() + 60, on_ready=ready.set
        )
        last = None
        while not isinstance(last, Finished):
            assert ready.wait(30)
            ready.clear()
            for numbered in ticket.take():
                last = numbered.event
        ticket.close(last.error)
    assert engine.wait_idle(10)
    engine.stop(Unavailable(UnavailableReason.DRAINING, "over"))
    thread.join(10)
    assert not thread.is_alive()
    assert set(map(tuple, referee.outcomes.values())) == {(Outcome.OK,)}


def test_a_stopped_engine_leaves_no_encoder_behind() -> None:
    """Its threads end once they have done what they were given."""
    with ThreadPoolExecutor(1) as encoders:
        World(encoders=encoders).engine.stop(Unavailable(UnavailableReason.DRAINING, "over"))
        with pytest.raises(RuntimeError, match="after shutdown"):
            encoders.submit(int)
