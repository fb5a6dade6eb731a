"""Callers at a real port: methods that are off, bugs that let nobody in, and whose limits and names a call has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import Authenticate, Authenticator, RegisterFile, new_key, parse_policy
from imagegen_server.api.auth import ANONYMOUS, Caller
from imagegen_server.core import RejectReason
from imagegen_server.errors import Unauthenticated
from support.edge import Recorder, drained, refusal, rich_status, running_edge, trailers


def guarded(authenticator: Authenticator, policy: str = "") -> Callable[[Recorder], Authenticate]:
    """Returns what makes a server's guard."""
    return lambda seen: Authenticate(authenticator, parse_policy(policy, authenticates=True), seen)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, RegisterFile]:
    """A key of alice's, and the file that knows it."""
    key, line = new_key("alice")
    path = tmp_path / "keys"
    path.write_text(f'{line}\n{{"tenant": "alice", "weight": 2.5}}\n')
    return key, RegisterFile(path, print)


async def test_methods_that_are_off_are_not_there(keys: tuple[str, RegisterFile]) -> None:
    """Not even for whoever has credentials, and as if they had never been."""
    key, register = keys
    async with running_edge(auth=guarded(Authenticator(keys=register), "reflection=off,info=open")) as edge:
        stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
        call = stub.ServerReflectionInfo(metadata=(("x-api-key", key),))
        error = await refusal(call.read())
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert rich_status(error)[1]["ErrorInfo"].reason == "METHOD_NOT_FOUND"
        assert (await edge.stub.ListModels(pb.ListModelsRequest())).models
        wrong = await refusal(edge.stub.ListModels(pb.ListModelsRequest(), metadata=(("x-api-key", "x"),)))
        assert wrong.code() is grpc.StatusCode.UNAUTHENTICATED  # open, but not for bad credentials
        assert edge.seen.auth_failures == [("invalid", "the API key is not valid")]


async def test_a_bug_lets_nobody_in() -> None:
    """Whatever goes wrong while the caller is found out, the call ends with INTERNAL and its handler never runs."""

    class Broken(Authenticator):
        async def caller(self, metadata: Any, auth_context: Callable[[], Mapping[str, Any]]) -> Caller:
            raise KeyError("secret")

    async with running_edge(auth=guarded(Broken())) as edge:
        error = await refusal(drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="a cat"))))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in repr(error)
        assert len(edge.seen.bugs) == 1
        assert edge.engine.requests == []


async def test_a_refusal_names_the_callers_id(keys: tuple[str, RegisterFile]) -> None:
    """Wherever the method's request has it."""
    async with running_edge(auth=guarded(Authenticator(keys=keys[1]))) as edge:
        generation = pb.GenerateImageRequest(prompt="a cat", request_id="mine")
        for call in (
            drained(edge.stub.GenerateImage(generation)),
            edge.stub.RenderImage(pb.RenderImageRequest(generation=generation)),
            edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="mine")),
        ):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert rich_status(error)[1]["RequestInfo"].request_id == "mine"
            assert trailers(error)["x-request-id"] == "mine"


async def test_operators_are_told_who_was_refused_what_and_why(tmp_path: Path) -> None:
    """The method, the reason, and as much of the caller as is known: of whom a role is missing, whose key expired."""
    alice, alices_line = new_key("alice")
    late, lates_line = new_key("late", expires="2020-01-01T00:00:00Z")
    path = tmp_path / "keys"
    path.write_text(f"{alices_line}\n{lates_line}\n")
    policy = "info=role:looker"
    async with running_edge(auth=guarded(Authenticator(keys=RegisterFile(path, print)), policy)) as edge:
        for metadata in ((), (("x-api-key", alice),), (("x-api-key", late),)):
            await refusal(edge.stub.ListModels(pb.ListModelsRequest(), metadata=metadata))
        await refusal(drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="a cat", request_id="mine"))))
        missing, forbidden, expired, generation = edge.seen.failures
        assert {failure.method for failure in (missing, forbidden, expired)} == {"/imagegen.v1.ImageGen/ListModels"}
        assert (missing.reason, missing.tenant, missing.key_id) == ("missing", "", "")
        assert (forbidden.reason, forbidden.tenant, forbidden.key_id) == ("forbidden", "alice", alice[9:21])
        assert "role looker" in forbidden.detail
        assert (expired.reason, expired.detail) == ("expired", f"the key {late[9:21]} of late has expired")
        assert (generation.method, generation.request_id) == ("/imagegen.v1.ImageGen/GenerateImage", "mine")
        (told,) = edge.seen.refusals
        assert (told.request_id, told.reason, told.details) == ("mine", RejectReason.AUTH, ("missing",))


async def test_a_refusal_names_fields_and_whose_it_was(keys: tuple[str, RegisterFile]) -> None:
    """The contract's names of what is wrong, never a value."""
    key, register = keys
    shown = (("x-api-key", key),)
    async with running_edge(auth=guarded(Authenticator(keys=register))) as edge:
        wrong = pb.GenerateImageRequest(prompt=" ", width=13, refiner=pb.RefinerOptions(strength=7))
        for request in (wrong, pb.GenerateImageRequest(prompt="a cat", model="nonsense")):
            await refusal(drained(edge.stub.GenerateImage(request, metadata=shown)))
        fields, names = edge.seen.refusals
        assert fields.details == ("prompt", "width", "refiner.strength")
        assert names.details == ("model",)
        assert {(told.tenant, told.key_id, told.reason) for told in (fields, names)} == {
            ("alice", key[9:21], RejectReason.INVALID)
        }


async def test_the_handler_knows_the_caller(keys: tuple[str, RegisterFile]) -> None:
    """A request is its caller's tenant's, with its weight; without a guard it is nobody's."""
    key, register = keys
    request = pb.GenerateImageRequest(prompt="a cat")
    async with running_edge(auth=guarded(Authenticator(keys=register), "inference=open")) as edge:
        for metadata, tenant, weight in (((("x-api-key", key),), "alice", 2.5), ((), ANONYMOUS.tenant, 1.0)):
            await drained(edge.stub.GenerateImage(request, metadata=metadata))
            assert (edge.engine.requests[-1].tenant, edge.engine.requests[-1].tenant_weight) == (tenant, weight)
            assert edge.engine.requests[-1].key_id == (key[9:21] if metadata else "")
    async with running_edge() as edge:
        await drained(edge.stub.GenerateImage(request, metadata=(("x-api-key", key),)))
        assert edge.engine.requests[-1].tenant == ""


async def test_a_generation_is_its_tenants_alone(tmp_path: Path) -> None:
    """Nobody else watches it, and the engine is asked for the caller's own, whatever the id."""
    lines = dict(new_key(name) for name in ("alice", "bob"))
    path = tmp_path / "keys"
    path.write_text("\n".join(lines.values()))
    alice, bob = ((("x-api-key", key),) for key in lines)
    async with running_edge(auth=guarded(Authenticator(keys=RegisterFile(path, print)))) as edge:
        kept = pb.GenerateImageRequest(prompt="a cat", request_id="g", on_disconnect=pb.ON_DISCONNECT_CONTINUE)
        sent = await drained(edge.stub.GenerateImage(kept, metadata=alice))
        watch = pb.WatchGenerationRequest(request_id="g")
        watched = await drained(edge.stub.WatchGeneration(watch, metadata=alice))
        assert [message.response for message in watched] == sent
        assert edge.engine.asked == []
        await refusal(drained(edge.stub.WatchGeneration(watch, metadata=bob)))
        await refusal(edge.stub.GetGeneration(pb.GetGenerationRequest(request_id="g"), metadata=bob))
        await edge.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="g"), metadata=bob)
        assert edge.engine.asked == [("bob", "g")] * 3


async def test_whoever_is_not_known_learns_nothing_of_its_bytes(keys: tuple[str, RegisterFile]) -> None:
    """Credentials come before the message: one that cannot be parsed is told to those who may call."""
    key, register = keys
    async with running_edge(auth=guarded(Authenticator(keys=register))) as edge:
        method = edge.channel.unary_unary("/imagegen.v1.ImageGen/ListModels", None, None)
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("x-api-key", key),), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            assert (await refusal(method(b"\xff", metadata=metadata))).code() is code


async def test_a_probe_may_send_what_it_likes(keys: tuple[str, RegisterFile]) -> None:
    """Health is open to everybody, those with bad credentials included."""
    async with running_edge(auth=guarded(Authenticator(keys=keys[1]))) as edge:
        check = health_pb2_grpc.HealthStub(edge.channel).Check
        answer = await check(health_pb2.HealthCheckRequest(), metadata=(("x-api-key", "nonsense"),))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert edge.seen.auth_failures == []


async def test_credentials_of_a_kind_that_is_not_taken_are_refused(keys: tuple[str, RegisterFile]) -> None:
    """They are neither overlooked nor a bug: who shows them means to be known."""
    for authenticator, metadata, says in (
        (Authenticator(certificates=True), [("x-api-key", keys[0])], "takes no API keys"),
        (Authenticator(keys=keys[1]), [("authorization", "Bearer token")], "takes no bearer tokens"),
    ):
        with pytest.raises(Unauthenticated, match=says) as caught:
            await authenticator.caller(metadata, dict)
        assert caught.value.reason == "invalid"
