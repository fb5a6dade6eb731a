"""Folds the messages of a generation into typed events and verified images. Pure: it knows no channel and no clock."""

from __future__ import annotations

import dataclasses
import hashlib

import grpc

from imagegen import _convert, types
from imagegen._convert_events import common, event
from imagegen.errors import IntegrityError, ProtocolError
from imagegen.v1 import imagegen_pb2 as pb


class _Assembly:
    """The chunks of one image, as they arrive."""

    def __init__(self, header: types.ImageHeader) -> None:
        self.header = header
        self._received = 0
        self._chunks: list[bytes] = []
        self._hash = hashlib.sha256()

    def add(self, offset: int, data: bytes) -> str:
        """Takes the next chunk; returns what is wrong with it, or an empty string."""
        if offset != self._received:
            return f"expected the byte at {self._received}, got a chunk at {offset}"
        if self._received + len(data) > self.header.size_bytes:
            return f"more than the announced {self.header.size_bytes} bytes arrived"
        self._chunks.append(data)
        self._hash.update(data)
        self._received += len(data)
        if self.complete and self._hash.hexdigest() != self.header.sha256:
            return "the SHA-256 of the received bytes is not the announced one"
        return ""

    @property
    def complete(self) -> bool:
        """Whether all announced bytes have arrived."""
        return self._received == self.header.size_bytes

    def data(self) -> bytes:
        """Returns the file."""
        return b"".join(self._chunks)


class GenerationFold:
    """The state of one generation's stream: `feed` it every message, then `finish`.

    Messages that this version does not know are skipped. Everything else must follow the contract: accepted first,
    chunks in order and without gaps after their header, hash and size as announced, all images before exactly one
    completed. Raises `IntegrityError` or `ProtocolError` where it does not.

    With a plan, the stream is one that begins in the middle: accepted and images may have come before it, and chunks of
    an image whose header did are skipped.
    """

    def __init__(self, request_id: str, plan: types.GenerationPlan | None = None) -> None:
        self._request_id = request_id
        self._plan = plan
        self._partial = plan is not None
        self._fed = False
        self._accepted: types.Accepted | None = None
        self._completed: types.Completed | None = None
        self._assemblies: dict[int, _Assembly] = {}
        self._images: dict[int, types.GeneratedImage] = {}
        self._fallbacks: list[types.Fallback] = []
        self._warnings: list[types.GenerationWarning] = []

    def feed(self, response: pb.GenerateImageResponse) -> types.Event | None:
        """Takes the next message; returns its event, if there is one to tell.

        `completed` is kept for `finish`, since only the end of the stream proves that it was the last.
        """
        self._fed = True
        kind = response.WhichOneof("event")
        if kind is None:
            return None  # an event newer than this client
        if response.request_id and response.request_id != self._request_id:
            raise self._broken(f"an event of another generation arrived: {response.request_id}")
        if self._completed is not None:
            raise self._broken(f"{kind} arrived after completed")
        if self._plan is None and kind != "accepted":
            raise self._broken(f"{kind} arrived before accepted")
        if kind == "image_chunk":
            return self._chunk(response)
        if kind == "completed":
            self._completed = self._complete(response)
            return None
        told = event(kind, response, self._request_id)
        self._remember(told)
        return told

    @property
    def nothing_followed(self) -> bool:
        """Whether this is the end of a stream that began after its last event: nothing came, and nothing is missing."""
        return self._partial and not self._fed

    def finish(self) -> types.Completed:
        """Returns the outcome, once the stream has ended well."""
        if self._completed is None:
            raise self._broken("the stream ended before completed")
        return self._completed

    def finish_plan(self) -> types.Accepted:
        """Returns the plan of a stream that was asked for nothing else, once it has ended well."""
        if self._accepted is None:
            raise self._broken("the stream ended before accepted")
        return self._accepted

    def _remember(self, told: types.Event) -> None:
        match told:
            case types.Accepted():
                if self._accepted is not None:
                    raise self._broken("accepted arrived twice")
                self._accepted, self._plan = told, told.plan
            case types.FallbackTaken():
                self._fallbacks.append(told.fallback)
            case types.WarningIssued():
                self._warnings.append(told.warning)
            case types.ImageHeader():
                self._start_image(told)

    def _start_image(self, header: types.ImageHeader) -> None:
        if header.image_index in self._assemblies or header.image_index in self._images:
            raise self._broken(f"image {header.image_index} arrived twice")
        if header.size_bytes < 1:
            raise self._corrupt(header.image_index, f"a size of {header.size_bytes} bytes was announced")
        self._assemblies[header.image_index] = _Assembly(header)

    def _chunk(self, response: pb.GenerateImageResponse) -> types.ImageReceived | None:
        chunk = response.image_chunk
        assembly = self._assemblies.get(chunk.image_index)
        if assembly is None:
            if self._partial and chunk.image_index not in self._images:
                return None
            raise self._broken(f"a chunk of image {chunk.image_index} arrived outside of it")
        problem = assembly.add(chunk.offset, chunk.data)
        if problem:
            raise self._corrupt(chunk.image_index, problem)
        if not assembly.complete:
            return None
        del self._assemblies[chunk.image_index]
        image = self._image(assembly)
        self._images[chunk.image_index] = image
        return types.ImageReceived(image=image, **common(response, self._request_id))

    def _image(self, assembly: _Assembly) -> types.GeneratedImage:
        header = assembly.header
        return types.GeneratedImage(
            request_id=self._request_id,
            image_index=header.image_index,
            data=assembly.data(),
            mime_type=header.mime_type,
            width=header.size.width,
            height=header.size.height,
            seed=header.seed,
            sha256=header.sha256,
            refined=header.refined,
            plan=self._known_plan(),
            fallbacks=tuple(taken for taken in self._fallbacks if taken.image_index == header.image_index),
            warnings=tuple(self._warnings),
        )

    def _complete(self, response: pb.GenerateImageResponse) -> types.Completed:
        message = response.completed
        self._check_images(message)
        outcome = _convert.outcome(message)
        urls = {summary.image_index: summary.url for summary in message.images}
        images = tuple(
            dataclasses.replace(
                image,
                url=urls[index],
                timings=outcome["stage_timings"],
                total_duration=outcome["total_duration"],
                fallbacks=tuple(taken for taken in outcome["fallbacks"] if taken.image_index == index),
                warnings=tuple(self._warnings),
            )
            for index, image in sorted(self._images.items())
        )
        return types.Completed(images=images, **outcome, **common(response, self._request_id))

    def _known_plan(self) -> types.GenerationPlan:
        if self._plan is None:
            raise self._broken("the stream ended before accepted")
        return self._plan

    def _check_images(self, message: pb.Completed) -> None:
        """Compares the summary with what arrived, so that a lost image cannot pass for success."""
        expected = self._known_plan().num_images
        arrived = {index: image.sha256 for index, image in self._images.items()}
        if self._assemblies or (len(arrived) != expected and not self._partial):
            raise self._broken(f"completed arrived after {len(arrived)} of {expected} images")
        summaries = {summary.image_index: summary.sha256 for summary in message.images}
        if (arrived.items() - summaries.items()) if self._partial else (summaries != arrived):
            raise self._broken("the images of completed are not those that arrived")

    def _broken(self, message: str) -> ProtocolError:
        return ProtocolError(message, code=grpc.StatusCode.INTERNAL, request_id=self._request_id)

    def _corrupt(self, index: int, message: str) -> IntegrityError:
        text = f"image {index}: {message}"
        return IntegrityError(text, code=grpc.StatusCode.DATA_LOSS, request_id=self._request_id)
