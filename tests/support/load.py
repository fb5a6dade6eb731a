"""What a load consists of: requests, calls followed to their end, and how much of it a run wants."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc

FULL: Final = os.environ.get("IMAGEGEN_TEST_FULL", "") not in ("", "0")
"""Whether stress tests run at their acceptance size."""

NARROW: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
"""Options of a channel whose transport takes 64 KiB ahead of its reader, and no more."""

Detail = TypeVar("Detail", bound=Message)


def size(reduced: int, full: int) -> int:
    """Returns how much of something this run does."""
    return full if FULL else reduced


def request(prompt: str = "a cat", **fields: Any) -> pb.GenerateImageRequest:
    """Returns a small request; `refiner_steps` sets the refiner's steps, other names are the contract's."""
    refiner_steps = fields.pop("refiner_steps", 4)
    fields = {"width": 64, "height": 64, "num_inference_steps": 20} | fields
    made = pb.GenerateImageRequest(prompt=prompt, **fields)
    if not made.HasField("use_refinement") or made.use_refinement:
        made.refiner.num_inference_steps = refiner_steps
    return made


def slow_steps(seconds: float, *, base: int, refiner: int = 0) -> str:
    """Returns prompt directives that make each of the fake model's steps take `seconds` longer."""
    stages = [("base", base), ("refiner", refiner)]
    return "".join(f"{{{stage}:stall={seconds}@{step}}}" for stage, steps in stages for step in range(steps))


@dataclass(slots=True)
class Ended:
    """How one GenerateImage call went, as its caller saw it."""

    code: grpc.StatusCode
    details: str = ""
    trailers: Mapping[str, str | bytes] = field(default_factory=dict)
    events: list[pb.GenerateImageResponse] = field(default_factory=list)
    """Everything but the image chunks."""
    files: dict[int, bytearray] = field(default_factory=dict)
    """The image files, by index."""

    @property
    def kinds(self) -> list[str]:
        """What the events were, in order."""
        return [str(event.WhichOneof("event")) for event in self.events]

    @property
    def accepted(self) -> bool:
        """Whether the generation was admitted."""
        return bool(self.events)

    @property
    def ok(self) -> bool:
        """Whether the stream ended well and said so."""
        return self.code is grpc.StatusCode.OK and bool(self.events) and self.kinds[-1] == "completed"

    def of(self, kind: str) -> list[Any]:
        """Returns the events of one kind, unwrapped."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    def detail(self, kind: type[Detail]) -> Detail | None:
        """Returns a detail of the status; None if it has none of that kind."""
        return detail_of(self.trailers, kind)

    @property
    def reason(self) -> str:
        """ErrorInfo.reason; empty if there is none."""
        info = self.detail(error_details_pb2.ErrorInfo)
        return "" if info is None else str(info.reason)

    @property
    def retry_after(self) -> float | None:
        """Seconds of the RetryInfo; None if there is none."""
        retry = self.detail(error_details_pb2.RetryInfo)
        return None if retry is None else float(retry.retry_delay.ToNanoseconds() / 1e9)

    @property
    def pushback_ms(self) -> int | None:
        """The trailer grpc-retry-pushback-ms; None if there is none."""
        value = self.trailers.get("grpc-retry-pushback-ms")
        return None if value is None else int(value)

    def take(self, event: pb.GenerateImageResponse) -> None:
        """Adds an event."""
        if event.WhichOneof("event") == "image_chunk":
            self.files.setdefault(event.image_chunk.image_index, bytearray()).extend(event.image_chunk.data)
        else:
            self.events.append(event)


def detail_of(trailers: Mapping[str, str | bytes], kind: type[Detail]) -> Detail | None:
    """Returns a detail of the status in trailing metadata; None if it has none of that kind."""
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    return None


def generate(
    channel: grpc.Channel,
    message: pb.GenerateImageRequest,
    timeout: float | None = None,
    metadata: tuple[tuple[str, str | bytes], ...] = (),
) -> Ended:
    """Makes one call and follows it to its end, whatever that is."""
    ended = Ended(grpc.StatusCode.OK)
    call = pb_grpc.ImageGenStub(channel).GenerateImage(message, timeout=timeout, metadata=metadata)
    try:
        for event in call:
            ended.take(event)
    except grpc.RpcError as error:
        _note(ended, error)
    return ended


def read_slowly(call: Iterable[pb.GenerateImageResponse]) -> Iterator[pb.GenerateImageResponse]:
    """Yields a call's messages, with a pause before each image's bytes: on a NARROW channel the server waits for it."""
    for event in call:
        yield event
        if event.WhichOneof("event") == "image_header":
            time.sleep(0.3)


async def generate_aio(channel: grpc.aio.Channel, message: pb.GenerateImageRequest) -> Ended:
    """Makes one call and follows it to its end, whatever that is."""
    return await follow(pb_grpc.ImageGenStub(channel).GenerateImage(message))


async def follow(call: Any) -> Ended:
    """Follows a call of grpc.aio to its end."""
    ended = Ended(grpc.StatusCode.OK)
    try:
        async for event in call:
            ended.take(event)
    except grpc.RpcError as error:
        _note(ended, error)
    return ended


def _note(ended: Ended, error: Any) -> None:
    ended.code = error.code()
    ended.details = error.details() or ""
    ended.trailers = dict(error.trailing_metadata() or ())
