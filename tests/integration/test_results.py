"""Results that stay, of a real server: URLs that can be fetched, and a store in every kind of trouble."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest

from imagegen import AsyncClient, Client, Completed, GeneratedImage, OutputOptions
from imagegen.types import WarningCode
from imagegen.v1 import imagegen_pb2 as pb
from imagegen.v1 import imagegen_pb2_grpc as pb_grpc
from support.http import fetch, get
from support.live_server import LiveServer, live_server, open_channel
from support.mounts import needs_mounts, tmpfs
from support.waiting import eventually

CANARY: Final = "canary-4711"
QUICK: Final = {"num_inference_steps": 20, "width": 64, "height": 64}
STORE_TIMEOUT: Final = ("--store-timeout", "2")


@dataclass(kw_only=True, frozen=True)
class Site:
    """A server and the directory that its store is in."""

    server: LiveServer
    store: Path

    def generate(self, prompt: str = CANARY, **options: object) -> Completed:
        """Returns how a generation went."""
        with Client(self.server.address) as client:
            events = list(client.generate(prompt, **{**QUICK, **options}))  # type: ignore[arg-type]
        assert isinstance(events[-1], Completed)
        return events[-1]

    def image(self, prompt: str = CANARY, **options: object) -> GeneratedImage:
        """Returns the first image of a generation."""
        return self.generate(prompt, **options).images[0]

    def writes(self, outcome: str) -> float:
        """Returns how many images were to be kept, with this outcome."""
        return self.server.metrics().total("imagegen_store_writes_total", outcome=outcome)

    def check_kept(self, image: GeneratedImage) -> None:
        """Asserts that an image can be fetched from where its result says."""
        assert image.url == f"http://127.0.0.1:{self.server.images_port}/images/{image.url.rpartition('/')[2]}"
        assert image.warnings == ()
        answer = fetch(image.url)
        assert (answer.status, answer.body) == (200, image.data)
        assert answer.headers["content-type"] == image.mime_type

    def check_not_kept(self, image: GeneratedImage, outcome: str, before: float) -> None:
        """Asserts that an image came whole, and that its result says that it was not kept."""
        assert hashlib.sha256(image.data).hexdigest() == image.sha256
        assert image.url == ""
        (warning,) = image.warnings
        assert (warning.code, warning.image_index) == (WarningCode.IMAGE_NOT_KEPT, 0)
        assert self.writes(outcome) == before + 1


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for all: each test leaves the store as it was."""
    store = tmp_path_factory.mktemp("disk") / "store"
    arguments = ("--images-port", "0", *STORE_TIMEOUT)
    with live_server(tmp_path_factory.mktemp("server"), "--store", str(store), *arguments) as server:
        yield Site(server=server, store=store)


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpeg", "image/webp"])
def test_every_image_can_be_fetched_once_its_result_says_where(site: Site, mime_type: str) -> None:
    """All images of a generation, whatever their format; the parameters lie beside them."""
    completed = site.generate(num_images=3, seed=7, output=OutputOptions(mime_type=mime_type))
    for image in completed.images:
        site.check_kept(image)
        facts = json.loads((site.store / f"{image.sha256}.json").read_text())
        assert (facts["seed"], facts["image_index"]) == (image.seed, image.image_index)
        assert facts["parameters"]["prompt"] == CANARY
    assert len({image.url for image in completed.images}) == 3


def test_callers_without_streams_get_the_same_urls(site: Site) -> None:
    """RenderImage's answer, and GetGeneration's afterwards."""
    generation = pb.GenerateImageRequest(prompt="x", num_images=2, request_id="kept-1", num_inference_steps=20)
    with open_channel(site.server.address) as channel:
        stub = pb_grpc.ImageGenStub(channel)
        reply = stub.RenderImage(pb.RenderImageRequest(generation=generation))
        later = stub.GetGeneration(pb.GetGenerationRequest(request_id="kept-1"))
    urls = [image.url for image in reply.images]
    assert reply.url == urls[0]
    assert urls == [summary.url for summary in reply.completed.images] == [image.url for image in later.images]
    for image in reply.images:
        answer = fetch(image.url)
        assert hashlib.sha256(answer.body).hexdigest() == image.summary.sha256


async def test_the_asyncio_client_has_the_url_too(site: Site) -> None:
    """As the other one does."""
    async with AsyncClient(site.server.address) as client:
        image = await client.generate_image(CANARY, **QUICK)  # type: ignore[arg-type]
    site.check_kept(image)


def test_who_wants_no_parameters_in_the_file_gets_none_beside_it(site: Site) -> None:
    """Not in the image and not in the store: no word of the prompt, in no encoding."""
    usual = site.image()
    for mime_type in ("image/png", "image/jpeg", "image/webp"):
        image = site.image("zebra-0815", output=OutputOptions(mime_type=mime_type, embed_parameters=False))
        site.check_kept(image)
        for path in site.store.glob(f"{image.sha256}.*"):
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                assert "zebra-0815".encode(encoding) not in path.read_bytes(), path.name
    assert CANARY.encode() in (site.store / f"{usual.sha256}.json").read_bytes()  # or it would say nothing


@contextlib.contextmanager
def gone(store: Path) -> Iterator[None]:
    """Takes the store away, as a disk that is not mounted any more."""
    away = store.rename(store.with_name("away"))
    yield
    assert not store.exists()
    away.rename(store)


def test_a_store_that_is_gone_and_comes_back(site: Site) -> None:
    """The stream is complete, with a warning; the images' port says 503; all goes on by itself."""
    kept, before = site.image(), site.writes("missing")
    with gone(site.store):
        site.check_not_kept(site.image("another"), "missing", before)
        assert fetch(kept.url).status == 503
    site.check_kept(kept)
    site.check_kept(site.image())


@contextlib.contextmanager
def hanging(store: Path) -> Iterator[None]:
    """Makes everything that writes to the store wait, as a network file system does whose server is away."""
    with (store / ".lock").open("ab") as lock:  # made by whoever is first
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_store_that_hangs(site: Site) -> None:
    """The first generations end without a URL after the timeout, later ones at once; then all is well again."""
    timeouts, busy = site.writes("timeout"), site.writes("busy")
    with hanging(site.store):
        site.check_not_kept(site.image(), "timeout", timeouts)
        site.generate(num_images=3)
        for number in range(4):
            site.check_not_kept(site.image(), "busy", busy + number)
        assert site.writes("timeout") == timeouts + 4
    eventually(lambda: site.image().url != "", "the store never came back")
    site.check_kept(site.image())


def test_images_do_not_wait_for_the_store(site: Site) -> None:
    """The bytes are with the caller while the store hangs; only the end waits."""
    request = pb.GenerateImageRequest(prompt="x", num_inference_steps=20, width=64, height=64)
    with hanging(site.store), open_channel(site.server.address) as channel:
        stream = pb_grpc.ImageGenStub(channel).GenerateImage(request)
        kinds = [event.WhichOneof("event") for event in stream]
    assert kinds[-3:] == ["image_chunk", "warning", "completed"]
    eventually(lambda: site.image().url != "", "the store never came back")


def test_no_prompt_reaches_logs_or_metrics(site: Site) -> None:
    """Whether the store works, is gone, hangs or is busy, and when it works again."""
    kept = site.image()
    with gone(site.store):
        site.image()
        assert fetch(kept.url).status == 503
    site.check_kept(kept)
    site.check_kept(site.image())
    with hanging(site.store):
        site.generate(num_images=4)
        site.image()
    eventually(lambda: site.image().url != "", "the store never came back")
    failures = {(line["operation"], line["failure"]) for line in site.server.log("store fails")}
    assert failures >= {("read", "failed"), ("write", "missing"), ("write", "timeout"), ("write", "busy")}
    assert {line["operation"] for line in site.server.log("store works again")} >= {"read", "write"}
    assert CANARY not in site.server.raw_log()
    assert not any(CANARY in str(labels) for _, labels in site.server.metrics().names())


@needs_mounts
def test_disks_that_are_full_or_read_only(tmp_path: Path) -> None:
    """FULL and DENIED as the kernel says them; what was kept before can be fetched throughout."""
    with tmpfs(tmp_path / "disk", "1m") as disk:
        store = disk / "store"
        with live_server(tmp_path, "--store", str(store), "--images-port", "0") as server:
            site = Site(server=server, store=store)
            kept = site.image()
            site.check_kept(kept)
            big = {"width": 1024, "height": 1024}
            site.check_not_kept(site.image("{noise}", **big), "full", 0)
            assert not list(store.glob(".*.partial"))
            site.check_kept(site.image("small again"))
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            site.check_not_kept(site.image(), "denied", 0)
            site.check_kept(kept)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            site.check_kept(site.image())
            failures = [line["failure"] for line in server.log("store fails") if line["operation"] == "write"]
            assert failures == ["full", "denied"]


def test_a_server_that_is_killed_leaves_whole_images_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    """SIGKILL while images are written: every file in sight is whole, its URL works again, and the rest goes."""
    store, first, second = tmp_path / "store", tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    arguments = ("--store", str(store), "--images-port", "0")
    with live_server(first, *arguments) as server:
        with open_channel(server.address) as channel, contextlib.suppress(grpc.RpcError):
            request = pb.GenerateImageRequest(prompt="{noise}", num_images=8, num_inference_steps=20)
            for event in pb_grpc.ImageGenStub(channel).GenerateImage(request):
                if event.WhichOneof("event") == "image_header" and event.image_header.image_index >= 2:
                    os.kill(server.process.pid, signal.SIGKILL)
        server.wait()
    left = store / f".{'0' * 64}.png.1.dead.partial"
    left.write_bytes(b"half")
    names = [path.name for path in store.glob("*.png")]
    assert names
    with live_server(second, *arguments) as server:
        eventually(lambda: not list(store.glob(".*.partial")), "the parts were not removed")
        for name in names:
            answer = get(server.images_port or 0, f"/images/{name}")
            assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, name.removesuffix(".png"))


def test_a_store_that_can_never_work_is_refused_at_the_start(tmp_path: Path) -> None:
    """With what is wrong, before a model is loaded."""
    with (
        pytest.raises(RuntimeError, match="sftp:// does not put files"),
        live_server(tmp_path, "--store", "sftp://x/y"),
    ):
        pass
