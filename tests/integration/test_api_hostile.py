"""Ten thousand hostile requests: each is refused as the contract says, and the server is none the worse."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server import errors
from imagegen_server.api import convert
from support.edge import Edge, drained, rich_status, running_edge
from support.scripted_engine import PROFILE

REQUESTS = 10_000
AT_ONCE = 100

NUMBERS = (-(2**31), -1, 0, 1, 3, 7, 19, 101, 2**31 - 1)
FRACTIONS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 1e300, 5e-324)
TEXTS = ("", " ", "x" * 5_000, "\u4e16" * 3_000, "a\x00b", "'; DROP TABLE images; --", "\u202e" * 50)


def hostile(chance: random.Random) -> Iterator[bytes]:
    """Yields requests without end: absurd fields, damaged messages and noise in turn."""
    while True:
        absurd = _absurd(chance).SerializeToString() or b"\x00"
        yield absurd
        damaged = bytearray(absurd)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        yield bytes(damaged[: chance.randrange(1, len(damaged) + 1)])
        yield chance.randbytes(chance.randrange(1, 300))


def _absurd(chance: random.Random) -> pb.GenerateImageRequest:
    """Returns a request with a random choice of absurd fields."""
    number, fraction, text = NUMBERS.__getitem__, FRACTIONS.__getitem__, TEXTS.__getitem__

    def pick(values: Any, count: int) -> Any:
        return values(chance.randrange(count))

    fields: dict[str, Any] = {
        "request_id": pick(text, len(TEXTS)),
        "prompt": pick(text, len(TEXTS)),
        "prompt_2": pick(text, len(TEXTS)),
        "negative_prompt": pick(text, len(TEXTS)),
        "scheduler": pick(text, len(TEXTS)),
        "model": pick(text, len(TEXTS)),
        "num_inference_steps": pick(number, len(NUMBERS)),
        "guidance_scale": pick(fraction, len(FRACTIONS)),
        "width": pick(number, len(NUMBERS)),
        "height": pick(number, len(NUMBERS)),
        "num_images": pick(number, len(NUMBERS)),
        "seed": chance.randrange(-(2**63), 2**63),
        "priority": pick(number, len(NUMBERS)),
        "use_refinement": chance.random() < 0.5,
        "use_generation": chance.random() < 0.5,
        "refiner": {
            "mode": pick(number, len(NUMBERS)),
            "num_inference_steps": pick(number, len(NUMBERS)),
            "strength": pick(fraction, len(FRACTIONS)),
            "switch_at": pick(fraction, len(FRACTIONS)),
            "aesthetic_score": pick(fraction, len(FRACTIONS)),
            "prompt": pick(text, len(TEXTS)),
        },
        "output": {"mime_type": pick(text, len(TEXTS)), "quality": pick(number, len(NUMBERS))},
        "progress": {
            "min_interval": {"seconds": chance.randrange(-(2**63), 2**63), "nanos": pick(number, len(NUMBERS))},
            "preview_count": pick(number, len(NUMBERS)),
        },
        "allowed_fallbacks": {"kinds": [pick(number, len(NUMBERS)) for _ in range(chance.randrange(30))]},
        "micro_conditioning": {
            "original_size": {"width": pick(number, len(NUMBERS)), "height": pick(number, len(NUMBERS))},
            "crops_coords_top_left": {"x": pick(number, len(NUMBERS)), "y": pick(number, len(NUMBERS))},
        },
    }
    chosen = chance.sample(sorted(fields), chance.randrange(1, len(fields) + 1))
    return pb.GenerateImageRequest(**{name: fields[name] for name in chosen})


def expected(raw: bytes) -> list[str] | None:
    """Returns the fields that are wrong; None if the request is not invalid after all."""
    try:
        message = pb.GenerateImageRequest.FromString(raw)
    except DecodeError:
        return [""]
    try:
        convert.to_generation(message, request_id="id", loaded=PROFILE, profiles=(PROFILE,), plan=lambda _: None)
    except errors.InvalidRequest as invalid:
        return [violation.field for violation in invalid.violations]
    except errors.NotFound:
        return None
    return None


async def refused_fields(edge: Edge, raw: bytes) -> list[str]:
    """Sends bytes and returns the fields that the refusal names; any other answer fails the test."""
    call = edge.channel.unary_stream("/imagegen.v1.ImageGen/GenerateImage", None, None)(raw)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drained(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, raw
    _, details = rich_status(caught.value)
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    assert details["RequestInfo"].request_id
    return [violation.field for violation in details["BadRequest"].field_violations]


@pytest.mark.slow
async def test_ten_thousand_hostile_requests() -> None:
    """All are INVALID_ARGUMENT with every violation named; none is admitted, none is a bug; the server serves on."""
    source = hostile(random.Random(10_000))  # repeatable, not secret
    async with running_edge() as edge:
        sent = 0
        while sent < REQUESTS:
            batch = [(raw, fields) for raw in (next(source) for _ in range(AT_ONCE)) if (fields := expected(raw))]
            answers = await asyncio.gather(*(refused_fields(edge, raw) for raw, _ in batch))
            assert answers == [fields for _, fields in batch]
            sent += len(batch)
        await edge.settled()
        assert {code for _, code in edge.seen.codes} == {grpc.StatusCode.INVALID_ARGUMENT}
        assert len(edge.seen.rejections) < len(edge.seen.codes) == sent
        assert edge.seen.bugs == []
        assert edge.engine.submissions == []
        assert len(await drained(edge.stub.GenerateImage(pb.GenerateImageRequest(prompt="x")))) == 2
