"""What callers write, and what they show, stays out of everything that the server writes.

A server with TLS, keys, tokens, tracing, a store and debug logs goes through successes, every kind of refusal and every
kind of failure, with a canary in each prompt field and another in fields that are no prompts. Then everything that it
wrote is searched: its output, `/metrics`, the spans, the errors that callers got, and the files beside the images.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import trustme

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from imagegen_server.api import new_key
from support import wire
from support.certificates import trusting, write
from support.live_server import LiveServer, live_server
from support.load import Ended, generate
from support.otlp import Collector, collector
from support.tokens import AUDIENCE, ISSUER, key_set, signer
from support.waiting import eventually

PROMPT: Final = "zqcanary"
"""In every prompt field: to be found nowhere but in the images' parameters."""
FIELD: Final = "qxcanary"
"""In fields that are no prompts: may go back to whoever wrote it, and nowhere else."""
REFUSED: Final[dict[str, dict[str, Any]]] = {
    "model unknown": {"model": FIELD},
    "scheduler unknown": {"scheduler": FIELD},
    "id malformed": {"request_id": f"{FIELD} !"},
    "many fields": {"width": 63, "num_inference_steps": 5, "output": pb.OutputOptions(mime_type=FIELD)},
    "prompt too long": {"prompt": PROMPT * 1000},
    "second prompt too long": {"prompt_2": PROMPT * 1000},
    "negative prompt too long": {"negative_prompt": PROMPT * 1000},
    "refiner prompt too long": {"refiner": pb.RefinerOptions(prompt=PROMPT * 1000)},
    "deadline": {"num_inference_steps": 100, "num_images": 8, "timeout": 0.2},
}
STEPS_FAULTS: Final = [
    f"{{{stage}:{fault}@{turn}}}"
    for stage in ("base", "refiner")
    for fault in ("oom", "nan", "error")
    for turn in (0, 2)
]
OTHER_FAULTS: Final = [f"{{{stage}:{fault}}}" for stage in ("text_encode", "vae_decode") for fault in ("oom", "error")]


@dataclass(kw_only=True)
class Story:
    """What was done, and everything that came of it."""

    server: LiveServer
    seen: Collector
    store: Path
    secrets: list[str]
    calls: list[Ended] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """What callers of other methods were told."""
    metrics: str = ""


def prompts(fault: str = "", **options: Any) -> pb.GenerateImageRequest:
    """Returns a request with the canary in every prompt."""
    refiner = options.pop("refiner", pb.RefinerOptions(prompt=f"{PROMPT} refined", num_inference_steps=4))
    chosen: dict[str, Any] = {
        "prompt": f"{PROMPT} as{chr(10)}'quoted' \\ \"text\" ü {fault}",
        "prompt_2": f"second {PROMPT}",
        "negative_prompt": f"without {PROMPT}",
        "negative_prompt_2": f"nor {PROMPT}",
        "num_inference_steps": 20,
    }
    return pb.GenerateImageRequest(**(chosen | options), refiner=refiner)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A server to which everything happens; it ends with a crash."""
    directory = tmp_path_factory.mktemp("server")
    authority, store = trustme.CA(), directory / "store"
    certificate, key = write(authority.issue_cert("localhost"), directory)
    trusted, foreign = signer("ES256", "ours"), signer("ES256", "ours")
    good, line = new_key("alice", ["looker"])
    expired, expired_line = new_key("alice", expires="2020-01-01T00:00:00Z")
    narrow, narrow_line = new_key("narrow")
    limits = '{"tenant": "narrow", "max_in_flight": 1}'
    (directory / "keys").write_text(f"{line}\n{expired_line}\n{narrow_line}\n{limits}\n")
    (directory / "jwks").write_bytes(key_set(trusted))
    bad = [good[:-1], expired, f"imagegen_{'0' * 12}_{'s' * 43}", "badkeyvalue"]
    unsigned = "eyJhbGciOiJub25lIn0.e30.x"
    tokens = [trusted.token(exp=1), foreign.token(), trusted.token(aud="x"), "badtokenvalue", unsigned]
    private_key = "".join(key.read_text().splitlines()[1:-1])
    with collector() as seen:
        arguments = (
            *("--tls-certificate", str(certificate), "--tls-key", str(key), "--log-level", "debug"),
            *("--api-keys", str(directory / "keys"), "--jwt-keys", str(directory / "jwks")),
            *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--auth-policy", "info=role:looker"),
            *("--tracing", "otlp", "--tracing-endpoint", seen.endpoint, "--store", str(store)),
            *("--fake-script", '{"evaluation": 0.002}', "--queue-capacity", "2", "--max-running", "1"),
            *("--tenant-max-in-flight", "5"),
        )
        with live_server(directory, *arguments) as server:
            secrets = [good, narrow, trusted.token(), *bad, *tokens, private_key]
            told = Story(server=server, seen=seen, store=store, secrets=secrets)
            with grpc.secure_channel(f"localhost:{server.port}", trusting(authority)) as channel:
                _refuse_credentials(told, channel, bad, tokens)
                _spoil_credentials(told, authority, good, trusted.token())
                _generate(told, channel, (("x-api-key", good),))
                _exhaust(told, channel, good, narrow, trusted.token(sub="bob"))
                told.metrics = _scrape(server)
                _crash(told, channel, (("x-api-key", good),))
            yield told


def _refuse_credentials(story: Story, channel: grpc.Channel, keys: list[str], tokens: list[str]) -> None:
    """Shows everything that is no good, and nothing."""
    shown = [("x-api-key", key) for key in keys] + [("authorization", f"Bearer {token}") for token in tokens]
    for metadata in ((), *((pair,) for pair in shown), (("authorization", "Basic badbasicvalue"),)):
        story.calls.append(generate(channel, prompts(), metadata=metadata))
        assert story.calls[-1].code is grpc.StatusCode.UNAUTHENTICATED
    story.secrets.append("badbasicvalue")


def _spoil_credentials(story: Story, authority: trustme.CA, key: str, token: str) -> None:
    """Shows good credentials with a byte behind them that is not UTF-8, which gRPC tells its own logger."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    tls.set_alpn_protocols(["h2"])
    for name, value in ((b"x-api-key", key), (b"authorization", f"Bearer {token[-100:]}")):
        method, metadata = b"/imagegen.v1.ImageGen/GetServerInfo", ((name, value.encode() + b"\xa0"),)
        frames = asyncio.run(wire.call(story.server.port, method, b"", tls, metadata))
        assert frames
        assert b"OK" not in frames[-1].payload
    story.secrets.append(token[-100:])


def _generate(story: Story, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
    """Successes, failures and refusals, one after the other."""
    fine: list[dict[str, Any]] = [
        {},
        {"preview_count": 2},
        {"num_images": 2, "output": pb.OutputOptions(mime_type="image/jpeg", embed_parameters=False)},
        {"prompt": f"{PROMPT} " * 90},  # cut off by the text encoder
    ]
    for options in fine:
        preview = pb.ProgressOptions(preview_count=options.pop("preview_count", 0))
        story.calls.append(generate(channel, prompts(**options, progress=preview), metadata=metadata))
        assert story.calls[-1].ok, story.calls[-1]
    for fault in (*STEPS_FAULTS, *OTHER_FAULTS):
        story.calls.append(generate(channel, prompts(fault, allowed_fallbacks=pb.FallbackPolicy()), metadata=metadata))
        assert story.calls[-1].code is not grpc.StatusCode.OK, fault
    story.calls.append(generate(channel, prompts("{refiner:nan}"), metadata=metadata))
    assert story.calls[-1].of("fallback")
    for kind, options in REFUSED.items():
        timeout = options.get("timeout")
        rest = {name: value for name, value in options.items() if name != "timeout"}
        story.calls.append(generate(channel, prompts(**rest), timeout, metadata))
        assert not story.calls[-1].ok, kind
    story.calls.append(generate(channel, prompts("{base:stall=3@1}"), 1.0, metadata))
    assert story.calls[-1].code is grpc.StatusCode.DEADLINE_EXCEEDED


def _exhaust(story: Story, channel: grpc.Channel, good: str, narrow: str, token: str) -> None:
    """A full queue, a quota, an id in use, a cancel, and calls about generations that others have."""
    stub = pb_grpc.ImageGenStub(channel)
    running = stub.GenerateImage(
        prompts("{base:stall=5@1}", request_id="running", on_disconnect=pb.ON_DISCONNECT_CONTINUE),
        metadata=(("x-api-key", narrow),),
    )
    next(iter(running))
    eventually(lambda: not story.server.metrics().total("imagegen_requests_queued"), "it never ran")
    story.calls.append(generate(channel, prompts(), metadata=(("x-api-key", narrow),)))
    assert story.calls[-1].reason == "TENANT_CONCURRENCY"
    bob = (("authorization", f"Bearer {token}"),)
    story.secrets.append(token)
    waiting = [stub.GenerateImage(prompts(request_id=f"w{n}"), metadata=(("x-api-key", good),)) for n in range(2)]
    eventually(lambda: queue_is_full(story), "the queue never filled")
    story.calls.append(generate(channel, prompts(), metadata=bob))
    assert story.calls[-1].reason == "QUEUE_FULL"
    story.calls.append(generate(channel, prompts(request_id="w0", seed=1), metadata=(("x-api-key", good),)))
    others: tuple[tuple[Callable[..., object], object], ...] = (
        (stub.CancelGeneration, pb.CancelGenerationRequest(request_id="running")),
        (stub.GetGeneration, pb.GetGenerationRequest(request_id="running")),
        (stub.ListModels, pb.ListModelsRequest()),
        (stub.CancelGeneration, pb.CancelGenerationRequest(request_id=f"{FIELD} !")),
    )
    for method, message in others:
        with pytest.raises(grpc.RpcError) as caught:
            method(message, metadata=bob)
        story.errors.append(repr((caught.value.details(), caught.value.trailing_metadata())))
    stub.CancelGeneration(pb.CancelGenerationRequest(request_id="running"), metadata=(("x-api-key", narrow),))
    waiting[0].cancel()
    for call in (running, *waiting):
        with pytest.raises(grpc.RpcError) if call is not waiting[1] else contextlib.nullcontext():
            list(call)


def queue_is_full(story: Story) -> bool:
    """Returns whether nothing more fits into the queue."""
    return story.server.metrics().total("imagegen_requests_queued") == 2


def _scrape(server: LiveServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def _crash(story: Story, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
    """The device is lost, after what has been seen so far has been exported."""
    eventually(lambda: len(story.seen.spans) > 100, "no spans came")
    story.calls.append(generate(channel, prompts("{base:lost@1}"), metadata=metadata))
    assert story.calls[-1].code is grpc.StatusCode.UNAVAILABLE
    assert story.server.wait() == 1


def written(story: Story) -> dict[str, bytes]:
    """Returns everything that the server wrote, but what is meant to hold prompts."""
    files = {
        str(path.relative_to(story.server.directory)): path.read_bytes()
        for path in story.server.directory.rglob("*")
        if path.is_file() and not path.is_relative_to(story.store) and path.suffix in (".log", ".out", ".json")
    }
    spans = b"".join(story.seen.raw)
    return files | {"/metrics": story.metrics.encode(), "spans": spans}


def answers(story: Story) -> dict[str, bytes]:
    """Returns every error that a caller got."""
    told = {f"call {number}": f"{ended.details} {ended.trailers!r}" for number, ended in enumerate(story.calls)}
    failures = {
        f"completed {number}": repr([getattr(event, "message", "") for event in ended.of("fallback")])
        for number, ended in enumerate(story.calls)
    }
    others = {f"other {number}": text for number, text in enumerate(story.errors)}
    return {name: text.encode() for name, text in (told | failures | others).items()}


def test_the_story_has_everything(story: Story) -> None:
    """Else its silence would say little: every status, debug lines, spans with errors, and files with prompts."""
    codes = {ended.code.name for ended in story.calls}
    wanted = {"OK", "UNAUTHENTICATED", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert wanted | {"INTERNAL", "UNAVAILABLE", "ALREADY_EXISTS"} <= codes
    log = story.server.log()
    assert {"debug", "info", "warning", "error"} <= {line["level"] for line in log}
    assert {"accepted", "rejected", "fallback", "ended", "credentials refused"} <= {line["event"] for line in log}
    assert any(line["logger"].startswith("grpc") for line in log)
    assert any(span.error for span in story.seen.spans)
    assert 'imagegen_rejected_total{reason="quota"} ' in story.metrics
    beside = [json.loads(path.read_text()) for path in story.store.rglob("*.json")]
    assert any(PROMPT in json.dumps(facts) for facts in beside)
    assert any(PROMPT not in json.dumps(facts) for facts in beside)


def test_prompts_are_nowhere(story: Story) -> None:
    """Not in logs, metrics and spans, nor in an error."""
    found = {name for name, text in (written(story) | answers(story)).items() if PROMPT.encode() in text}
    assert found == set()


def test_other_words_of_callers_are_kept_nowhere(story: Story) -> None:
    """Names that do not exist go back to their caller alone."""
    assert {name for name, text in written(story).items() if FIELD.encode() in text} == set()


def test_credentials_are_nowhere(story: Story) -> None:
    """Good or bad, whole or in part: neither keys and tokens nor the private key of the certificate."""
    parts = set(story.secrets)
    for secret in story.secrets:  # the secret part of a key, the signature of a token
        parts |= {secret[22:]} if secret.startswith("imagegen_") else set()
        parts |= {secret.rpartition(".")[2]} if secret.count(".") == 2 and len(secret) > 100 else set()
    everything = written(story) | answers(story)
    assert {name for name, text in everything.items() for part in parts if part.encode() in text} == set()
