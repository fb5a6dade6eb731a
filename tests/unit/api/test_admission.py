"""What a call is refused for before its generation begins, and what operators are told of it."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import Quotas, TenantLimits
from imagegen_server.api.admission import Admission
from imagegen_server.api.auth import Caller
from imagegen_server.api.auth.caller import set_current_caller
from imagegen_server.api.readers import ANSWER, AT_LEAST, Readers
from imagegen_server.core import RejectReason
from imagegen_server.engine import Engine
from support.edge import Recorder
from support.generations import REQUEST
from support.scripted_engine import ScriptedBackend, ScriptedEngine, accepted

ALICE = Caller(tenant="alice", key_id="0123456789ab")


class Ending(ScriptedBackend):
    """A server that ends before it has an engine."""

    def engine(self) -> Engine:
        """Has none, and will have none."""
        raise errors.Unavailable(errors.UnavailableReason.DRAINING, "the server is draining")


@dataclasses.dataclass
class Gate:
    """What lets callers in who are told apart, one generation at a time of each, and what it told."""

    backend: ScriptedBackend = dataclasses.field(default_factory=lambda: ScriptedBackend(ScriptedEngine()))

    def __post_init__(self) -> None:
        self.seen = Recorder()
        self.quotas = Quotas(TenantLimits(max_in_flight=1))
        readers = Readers(100, callers_told_apart=True)
        self.admission = Admission(self.backend, self.seen, self.quotas, readers, allow_isolate_batch=True)


async def test_a_server_that_ends_before_it_has_a_model_is_draining() -> None:
    """Not loading: it will never have one."""
    gate = Gate(Ending(ScriptedEngine()))
    with pytest.raises(errors.Unavailable):
        gate.admission.checked(pb.GenerateImageRequest(prompt="a cat"), "mine")
    assert [(told.reason, told.details) for told in gate.seen.refusals] == [(RejectReason.DRAINING, ("DRAINING",))]


async def test_a_quota_that_is_used_up_is_told() -> None:
    """Whose it is, and which."""
    gate = Gate()
    set_current_caller(ALICE)
    generation = dataclasses.replace(REQUEST, tenant="alice")
    gate.admission.check_quota(generation)
    gate.quotas.accepted(generation, accepted().plan)
    with pytest.raises(errors.QuotaExceeded):
        gate.admission.check_quota(generation)
    (told,) = gate.seen.refusals
    assert (told.reason, told.details) == (RejectReason.QUOTA, ("TENANT_CONCURRENCY",))
    assert (told.request_id, told.model, told.tenant, told.key_id) == ("r-1", "shapes", "alice", "0123456789ab")


async def test_a_tenant_reads_by_the_generations_that_it_may_have() -> None:
    """Answers count as several; one reader too many keeps its generations out as well, and nobody else's."""
    gate = Gate()
    set_current_caller(ALICE)
    with ExitStack() as calls:
        for _ in range(AT_LEAST // ANSWER):
            calls.enter_context(gate.admission.reading("g", ANSWER))
        with pytest.raises(errors.QuotaExceeded) as caught:
            gate.admission.reading("g")
        assert caught.value.reason is errors.QuotaReason.TENANT_READERS
        with pytest.raises(errors.QuotaExceeded):
            gate.admission.check_quota(REQUEST)
        assert [told.request_id for told in gate.seen.refusals] == ["g", "r-1"]
        set_current_caller(Caller(tenant="bob"))
        with gate.admission.reading("g"):
            gate.admission.check_quota(REQUEST)
    set_current_caller(ALICE)
    with gate.admission.reading("g", ANSWER):
        pass
