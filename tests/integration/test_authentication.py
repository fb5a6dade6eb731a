"""A server that asks for credentials: who gets in, whose generations are whose, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import new_key
from support.edge import trailers
from support.live_server import LiveServer, live_server, open_channel
from support.tokens import AUDIENCE, ISSUER, key_set, signer
from support.waiting import eventually

TRUSTED, FOREIGN = signer("ES256", "ours"), signer("ES256", "ours")
Metadata = tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class Site:
    """A server, a channel to it, and keys for it."""

    server: LiveServer
    channel: grpc.Channel
    alice: str
    bob: str
    file: Path

    @property
    def stub(self) -> pb_grpc.ImageGenStub:
        """A stub on the channel."""
        return pb_grpc.ImageGenStub(self.channel)


def shown(key: str) -> Metadata:
    """Returns the metadata that shows a key."""
    return (("x-api-key", key),)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with two tenants; reflection needs a role that alice has."""
    directory = tmp_path_factory.mktemp("server")
    alice, alices_line = new_key("alice", ["debugger"])
    bob, bobs_line = new_key("bob")
    file = directory / "keys.jsonl"
    file.write_text(f"{alices_line}\n{bobs_line}\n")
    signing = directory / "jwks.json"
    signing.write_bytes(key_set(TRUSTED))
    arguments = (
        f"--api-keys={file}",
        *(f"--jwt-keys={signing}", f"--jwt-issuer={ISSUER}", f"--jwt-audience={AUDIENCE}"),
        "--auth-policy=reflection=role:debugger",
        "--health-port=0",
        '--fake-script={"evaluation": 0.02}',
    )
    with live_server(directory, *arguments) as server, open_channel(server.address) as channel:
        yield Site(server=server, channel=channel, alice=alice, bob=bob, file=file)


def failure(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    """Returns what a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call) if hasattr(call, "__next__") else call()
    details = status_pb2.Status.FromString(trailers(caught.value)["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    assert info.domain == "imagegen.v1"
    return caught.value.code(), info


def test_calls_without_credentials_are_refused_and_counted(site: Site) -> None:
    """Missing and wrong credentials have their codes, reasons and counters; health answers anyway."""
    before = site.server.metrics()
    no_key = failure(site.stub.GenerateImage(pb.GenerateImageRequest(prompt="a cat"), timeout=30))
    assert (no_key[0], no_key[1].reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    wrong = failure(lambda: site.stub.ListModels(pb.ListModelsRequest(), timeout=30, metadata=shown(site.alice[:-2])))
    assert (wrong[0], wrong[1].reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")

    def counted(name: str, **labels: str) -> float:
        return site.server.metrics().total(name, **labels) - before.total(name, **labels)

    handled = "grpc_server_handled_total"  # counted when the caller knows already
    eventually(lambda: counted(handled, grpc_code="Unauthenticated") == 2, "the calls never ended")
    assert counted("imagegen_auth_failures_total", reason="missing") == 1
    assert counted("imagegen_auth_failures_total", reason="invalid") == 1
    assert counted("imagegen_rejected_total", reason="auth") == 1  # GenerateImage alone
    for port in (site.server.port, site.server.health_port):
        with open_channel(f"127.0.0.1:{port}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_role_may_be_needed(site: Site) -> None:
    """Whoever is known without the role is denied, which is something else than not being known."""

    def services(*metadata: Any) -> Any:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(site.channel)
        return stub.ServerReflectionInfo(iter([request]), timeout=30, metadata=metadata)

    assert len(list(services(*shown(site.alice)))) == 1
    code, info = failure(services(*shown(site.bob)))
    assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert failure(services())[0] is grpc.StatusCode.UNAUTHENTICATED
    assert site.server.metrics().total("imagegen_auth_failures_total", reason="forbidden") == 1


def test_a_generation_is_its_tenants(site: Site) -> None:
    """Another tenant can neither stop it nor learn that its id is taken; its own tenant can do both."""
    request = pb.GenerateImageRequest(
        prompt="slow",
        request_id="mine",
        num_inference_steps=100,
        num_images=4,
        on_disconnect=pb.ON_DISCONNECT_CONTINUE,
    )
    call = site.stub.GenerateImage(request, timeout=120, metadata=shown(site.alice))
    assert next(iter(call)).WhichOneof("event") == "accepted"

    def cancel(request_id: str, key: str) -> Any:
        return site.stub.CancelGeneration(
            pb.CancelGenerationRequest(request_id=request_id), timeout=30, metadata=shown(key)
        )

    theirs, nobodys = failure(lambda: cancel("mine", site.bob)), failure(lambda: cancel("none", site.bob))
    assert theirs[0] is nobodys[0] is grpc.StatusCode.NOT_FOUND
    assert theirs[1] == nobodys[1]
    watch, get = pb.WatchGenerationRequest(request_id="mine"), pb.GetGenerationRequest(request_id="mine")
    watched = failure(site.stub.WatchGeneration(watch, timeout=30, metadata=shown(site.bob)))
    got = failure(lambda: site.stub.GetGeneration(get, timeout=30, metadata=shown(site.bob)))
    assert watched == got == theirs
    own = site.stub.WatchGeneration(watch, timeout=30, metadata=shown(site.alice))
    assert next(iter(own)).response.WhichOneof("event") == "accepted"
    own.cancel()
    quick = pb.GenerateImageRequest(prompt="another's", request_id="mine", use_refinement=False, num_inference_steps=20)
    assert list(site.stub.GenerateImage(quick, timeout=120, metadata=shown(site.bob)))[-1].HasField("completed")
    again = failure(site.stub.GenerateImage(quick, timeout=120, metadata=shown(site.alice)))
    assert again[0] is grpc.StatusCode.ALREADY_EXISTS
    assert cancel("mine", site.alice).state == pb.GENERATION_STATE_CANCELLED
    with pytest.raises(grpc.RpcError):
        list(call)


def test_bearer_tokens(site: Site) -> None:
    """A good one lets its tenant in; an expired and a forged one have reasons of their own."""

    def ask(token: str) -> Any:
        metadata = (("authorization", f"Bearer {token}"),)
        return site.stub.ListModels(pb.ListModelsRequest(), timeout=30, metadata=metadata)

    before = site.server.metrics()
    assert ask(TRUSTED.token()).models
    expired, forged = TRUSTED.token(exp=1), FOREIGN.token()
    assert failure(lambda: ask(expired))[1].reason == "CREDENTIALS_EXPIRED"
    assert failure(lambda: ask(forged))[1].reason == "CREDENTIALS_INVALID"
    after = site.server.metrics()
    for reason in ("expired", "invalid"):
        counted = (samples.total("imagegen_auth_failures_total", reason=reason) for samples in (before, after))
        assert -next(counted) + next(counted) == 1
    request = pb.GenerateImageRequest(prompt="a cat", request_id="tokens", num_inference_steps=20, use_refinement=False)
    token = TRUSTED.token(sub="alice")
    call = site.stub.GenerateImage(request, timeout=120, metadata=(("authorization", f"Bearer {token}"),))
    assert list(call)[-1].HasField("completed")
    found = pb.GetGenerationRequest(request_id="tokens")
    assert site.stub.GetGeneration(found, timeout=30, metadata=shown(site.alice)).request_id == "tokens"
    code, _ = failure(lambda: site.stub.GetGeneration(found, timeout=30, metadata=shown(site.bob)))
    assert code is grpc.StatusCode.NOT_FOUND


def test_keys_come_and_go_without_a_restart(site: Site) -> None:
    """A new line lets its key in; taking a line away ends its key."""

    def let_in(key: str) -> bool:
        try:
            site.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30, metadata=shown(key))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
        return True

    carol, line = new_key("carol")
    before = site.file.read_text()
    assert not let_in(carol)
    site.file.write_text(f"{before}{line}\n")
    eventually(lambda: let_in(carol), "the new key is never known")
    site.file.write_text(before)
    eventually(lambda: not let_in(carol), "the key is never forgotten")
    assert let_in(site.alice)
    assert [entry["result"] for entry in site.server.log("API keys changed")] == ["reloaded", "reloaded"]
