"""The store over a directory and over a bucket: what is put can be got, limits hold, and the young stay."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imagegen_server.core import EncodedImage
from imagegen_server.output.store import Files, ImageStore, Limits
from imagegen_server.output.store.bucket import Bucket
from imagegen_server.output.store.directory import Directory
from imagegen_server.output.store.sidecar import sidecar
from imagegen_server.output.store.store import Damaged, StoreFull
from support.store import REQUEST, WORDS, Ledger, Trouble, picture


@pytest.fixture(params=["directory", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A place for files of each kind."""
    place: Files = Directory(tmp_path / "store") if request.param == "directory" else Bucket(Trouble(), "bucket/prefix")
    place.prepare()
    return place


class SlowWrites(Trouble):
    """An object store whose writes alone wait."""

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return MemoryFileSystem.ls(self, path, detail, **kwargs)


class SlowListing(Trouble):
    """An object store that waits before it tells what it has listed, and nowhere else."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        MemoryFileSystem.pipe_file(self, path, value, mode=mode, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        found = MemoryFileSystem.ls(self, path, detail, **kwargs)
        self._pass()
        return found


class Clock:
    """The present, as far from the files' own times as wanted."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def parameters(image: EncodedImage, index: int = 1, *, embed: bool = True) -> bytes:
    """Returns what lies beside an image."""
    output = dataclasses.replace(REQUEST.output, embed_parameters=embed)
    return sidecar(image, dataclasses.replace(REQUEST, output=output), index, refined=False, created=0.0)


def names(files: Files) -> set[str]:
    """Returns what is there."""
    return {entry.name for entry in files.entries()}


def make_stubborn(files: Files, stays: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the deletion of one file fail."""
    delete = files.delete

    def stubborn(name: str, *, written_before: float) -> bool:
        if name == stays:
            raise PermissionError(name)
        return delete(name, written_before=written_before)

    monkeypatch.setattr(files, "delete", stubborn)


def hung_write(store: ImageStore, files: SlowWrites, image: EncodedImage) -> threading.Thread:
    """Returns a thread that puts an image and hangs in that until the gate is open."""
    thread = threading.Thread(target=store.put, args=(image, b""))
    thread.start()
    assert files.entered.acquire(timeout=30)
    return thread


@pytest.mark.parametrize(("mime_type", "ending"), [("image/png", "png"), ("image/jpeg", "jpg"), ("image/webp", "webp")])
def test_what_is_put_can_be_got(files: Files, mime_type: str, ending: str) -> None:
    """Under the name that its content gives it, with its parameters beside it."""
    store, image = ImageStore(files, Limits(), Ledger()), picture(mime_type=mime_type)
    name = store.put(image, parameters(image))
    assert name == f"{image.sha256}.{ending}"
    assert store.get(name) == image.data
    assert names(files) == {name, f"{image.sha256}.json"}
    facts = json.loads(files.read(f"{image.sha256}.json"))
    assert facts == {
        "sha256": image.sha256,
        "mime_type": mime_type,
        "size_bytes": 1000,
        "width": REQUEST.width,
        "height": REQUEST.height,
        "created": "1970-01-01T00:00:00+00:00",
        "request_id": "r-1",
        "image_index": 1,
        "seed": 42,
        "refined": False,
        "parameters": REQUEST.parameters,
    }


def test_without_embedding_nothing_of_the_request_lies_beside(files: Files) -> None:
    """Neither the prompts nor the request's id nor its seed: facts of the file only."""
    image = picture()
    text = parameters(image, embed=False)
    assert not any(word in text for word in (*WORDS, b"r-1", b"seed"))
    assert set(json.loads(text)) == {"sha256", "mime_type", "size_bytes", "width", "height", "created"}


@pytest.mark.parametrize(
    "name", ["", ".lock", "..", f"{'a' * 64}.json", f"../{'a' * 64}.png", f"{'a' * 64}.png\n", f"{'A' * 64}.png"]
)
def test_nothing_but_images_can_be_got(files: Files, name: str) -> None:
    """Whatever the name, it is not there: no parameters, no way out of the store."""
    with pytest.raises(FileNotFoundError):
        ImageStore(files, Limits(), Ledger()).get(name)


def test_a_file_that_is_not_what_its_name_says_is_not_given(files: Files) -> None:
    """Cut or changed, it is found out; the same image again mends it."""
    store, image = ImageStore(files, Limits(), Ledger()), picture()
    name = store.put(image, b"{}")
    files.write(name, image.data[:-1])
    with pytest.raises(Damaged):
        store.get(name)
    store.put(image, b"{}")
    assert store.get(name) == image.data


def test_an_old_image_goes_and_one_that_was_put_again_stays(files: Files) -> None:
    """Age counts from the last time that it was announced."""
    clock, ledger = Clock(), Ledger()
    store = ImageStore(files, Limits(max_age=3600, min_age=60), ledger, clock)
    store.put(picture("a"), b"{}")
    held = store.sweep()
    assert (held.images, held.bytes) == ledger.state == (1, 1002)
    clock.ahead = 4000
    assert store.sweep().images == 0
    assert ledger.removals == {"age": 1}
    assert names(files) == set()
    with pytest.raises(FileNotFoundError):
        store.get(f"{picture('a').sha256}.png")


def test_parameters_that_were_left_alone_are_not_counted_as_an_image(files: Files) -> None:
    """They go, and the observer, which counts images, hears of none."""
    clock, ledger = Clock(), Ledger()
    store = ImageStore(files, Limits(min_age=60), ledger, clock)
    files.write(f"{'a' * 64}.json", b"{}")
    clock.ahead = 100
    held = store.sweep()
    assert (held.images, held.bytes, names(files), ledger.removals) == (0, 0, set(), {})


def test_an_image_that_is_put_again_while_it_is_about_to_go_stays(files: Files) -> None:
    """Another process's sweep saw it old; by the time of the deletion it is young."""
    store, image = ImageStore(files, Limits(), Ledger()), picture()
    name = store.put(image, b"{}")
    assert not files.delete(name, written_before=0.0)
    assert store.get(name) == image.data
    assert files.delete(name, written_before=4e9)
    assert not files.delete(name, written_before=4e9)


def test_the_observer_hears_of_every_image_that_is_put(files: Files) -> None:
    """At once, not only at the next sweep."""
    ledger = Ledger()
    store = ImageStore(files, Limits(), ledger)
    store.sweep()
    for number in (1, 2):
        store.put(picture(str(number)), b"{}")
        assert ledger.state == (number, 1002 * number)


def test_a_full_store_makes_room_with_old_images(files: Files) -> None:
    """The oldest go at once, not only at the next sweep."""
    clock, ledger = Clock(), Ledger()
    store = ImageStore(files, Limits(max_bytes=10_500, min_age=0.0), ledger, clock)
    for number in range(10):
        store.put(picture(str(number)), b"{}")
    clock.ahead = 10
    name = store.put(picture("one more"), b"{}")
    assert store.get(name)
    assert ledger.removals == {"bytes": 1}
    assert sum(entry.size for entry in files.entries()) <= 10_500


def test_a_store_that_is_full_of_young_images_takes_no_more(files: Files) -> None:
    """The limit is never exceeded, what was announced stays, and there is room again once it may go."""
    clock, ledger = Clock(), Ledger()
    store = ImageStore(files, Limits(max_bytes=2500, min_age=600), ledger, clock)
    kept = [store.put(picture(str(number)), b"{}") for number in range(2)]
    for _ in range(3):
        with pytest.raises(StoreFull):
            store.put(picture("one more"), b"{}")
    assert [len(store.get(name)) for name in kept] == [1000, 1000]
    with pytest.raises(StoreFull):
        store.put(picture("larger than all", 3000), b"{}")
    clock.ahead = 700
    assert store.put(picture("one more"), b"{}")


def test_what_is_being_written_counts_when_room_is_made() -> None:
    """An image that comes while others are written is kept, as long as old ones can go."""
    files, clock, ledger = SlowWrites(), Clock(), Ledger()
    store = ImageStore(Bucket(files, "bucket"), Limits(max_bytes=10_000, min_age=60), ledger, clock)
    for number in range(9):
        store.put(picture(str(number)), b"")
    clock.ahead = 100
    files.gate.clear()
    first = hung_write(store, files, picture("first"))
    second = hung_write(
        store, files, picture("second")
    )  # 9000 held and 1000 written are not too many, with it they are
    files.gate.set()
    first.join()
    second.join()
    assert ledger.removals["bytes"] >= 1
    assert {store.get(name) for name in names(store.files) if name.endswith("png")} >= {
        picture("first").data,
        picture("second").data,
    }


@pytest.mark.parametrize("most", [5500, None])
def test_what_is_put_while_the_store_is_looked_through_counts(most: int | None) -> None:
    """Also while it is looked through for the first time: the limit holds, and the observer hears of every image."""
    files, ledger = SlowListing(), Ledger()
    store = ImageStore(Bucket(files, "bucket"), Limits(max_bytes=most), ledger)
    store.put(picture("before"), b"")  # looks through it, if there is a limit
    files.gate.clear()
    sweep = threading.Thread(target=store.sweep)
    sweep.start()
    assert files.entered.acquire(timeout=30)
    for number in range(4):
        store.put(picture(str(number)), b"")
    files.gate.set()
    sweep.join()
    assert ledger.state == (5, 5000)
    if most is not None:
        with pytest.raises(StoreFull):
            store.put(picture("one more"), b"")


def test_what_can_make_no_room_removes_nothing() -> None:
    """Where even an empty store would not have it, with what is being written, old images stay."""
    files, clock = SlowWrites(), Clock()
    store = ImageStore(Bucket(files, "bucket"), Limits(max_bytes=10_000, min_age=60), Ledger(), clock)
    kept = store.put(picture("old"), b"")
    clock.ahead = 100
    files.gate.clear()
    first = hung_write(store, files, picture("first", 6000))
    with pytest.raises(StoreFull):
        store.put(picture("second", 5000), b"")
    files.gate.set()
    first.join()
    assert store.get(kept)


def test_a_file_that_cannot_be_deleted_costs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others that go make the room; that one could not is told."""
    files, clock, ledger = Directory(tmp_path), Clock(), Ledger()
    store = ImageStore(files, Limits(max_bytes=10_000, min_age=60), ledger, clock)
    kept = [store.put(picture(str(number)), b"") for number in range(9)]
    os.utime(tmp_path / kept[0], (1, 1))
    clock.ahead = 100
    make_stubborn(files, kept[0], monkeypatch)
    for number in range(20, 40):
        assert store.get(store.put(picture(str(number)), b"")) == picture(str(number)).data
    assert {type(error) for error in ledger.sweep_errors} == {PermissionError}
    assert kept[0] in names(files)


def test_two_servers_share_a_store(tmp_path: Path) -> None:
    """Each sees the other's images, and both may remove the same ones."""
    clock = Clock()
    stores = [ImageStore(Directory(tmp_path), Limits(max_age=3600, min_age=60), Ledger(), clock) for _ in range(2)]
    images = [picture(str(number)) for number in range(40)]
    taken = [stores[number % 2].put(image, b"{}") for number, image in enumerate(images)]
    assert all(stores[1 - number % 2].get(name) for number, name in enumerate(taken))
    for name in taken[:20]:
        os.utime(tmp_path / name, (1, 1))
    sweeps = [threading.Thread(target=store.sweep) for store in stores]
    for thread in sweeps:
        thread.start()
    for thread in sweeps:
        thread.join()
    assert {name for name in names(Directory(tmp_path)) if not name.endswith("json")} == set(taken[20:])


def test_one_that_cannot_be_removed_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep fails, after it has removed what it can."""
    place, clock, ledger = Bucket(Trouble(), "bucket"), Clock(), Ledger()
    store = ImageStore(place, Limits(max_age=3600, min_age=60), ledger, clock)
    kept = [store.put(picture(str(number)), b"{}") for number in range(3)]
    make_stubborn(place, kept[1], monkeypatch)
    clock.ahead = 4000
    with pytest.raises(PermissionError):
        store.sweep()
    assert {name for name in names(place) if name.endswith("png")} == {kept[1]}
    assert ledger.removals == {"age": 2}


def test_images_that_are_written_at_once_count_before_they_are_there() -> None:
    """Room for two: of six at one time, two are taken, and none that fails keeps its room."""
    files = Trouble()
    store = ImageStore(Bucket(files, "bucket"), Limits(max_bytes=2500), Ledger())
    store.sweep()
    files.gate.clear()
    outcomes: list[str] = []

    def put(number: int) -> None:
        try:
            store.put(picture(str(number)), b"{}")
            outcomes.append("kept")
        except StoreFull:
            outcomes.append("full")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        files.entered.acquire()
    files.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["full"] * 4 + ["kept"] * 2
    files.error = OSError(5, "x")
    other = ImageStore(Bucket(files, "other"), Limits(max_bytes=2500), Ledger())
    for _ in range(4):
        with pytest.raises(OSError, match="x"):
            other.put(picture(), b"{}")
    files.error = None
    assert other.put(picture(), b"{}")


class OnlyParameters(Trouble):
    """An object store that takes no images."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if not path.endswith(".json"):
            raise OSError(5, path)
        super().pipe_file(path, value, mode, **kwargs)


def test_no_image_is_there_without_its_parameters() -> None:
    """They come first: what breaks off between the two leaves no image that nobody knows how to make again."""
    store = ImageStore(Bucket(OnlyParameters(), "bucket"), Limits(), Ledger())
    with pytest.raises(OSError, match=r"\.png"):
        store.put(picture(), b"{}")
    assert names(store.files) == {f"{picture().sha256}.json"}


def test_a_full_store_is_not_looked_through_for_every_image() -> None:
    """Only from time to time: it may have many files, and callers wait."""
    now, ledger = [time.time()], Ledger()
    limits = Limits(max_bytes=1500, min_age=600)
    store = ImageStore(Bucket(Trouble(), "bucket"), limits, ledger, lambda: now[0])
    store.put(picture("first"), b"{}")
    sweeps = []
    for passed in (0, 0, 0, 60, 0):
        now[0] += passed
        with pytest.raises(StoreFull):
            store.put(picture("second"), b"{}")
        sweeps.append(ledger.sweeps)
    assert sweeps == [2, 2, 2, 3, 3]


class Telling:
    """Stands for a file system with one object, of which it tells what it was given."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = {"name": "bucket/a", "size": 1, "type": "file", **facts}
        self.removed: list[str] = []

    def ls(self, path: str, *, detail: bool) -> list[dict[str, Any]]:
        assert (path, detail) == ("bucket", True)
        return [self.facts, {"name": "bucket/folder", "size": 0, "type": "directory"}]

    def info(self, path: str) -> dict[str, Any]:
        assert path == "bucket/a"
        return self.facts

    def rm_file(self, path: str) -> None:
        self.removed.append(path)


LATER = datetime.datetime(1970, 1, 1, 0, 16, 40, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("facts", "modified"),
    [
        ({"LastModified": LATER}, 1000.0),
        ({"last_modified": LATER, "created": None}, 1000.0),
        ({"updated": "1970-01-01T00:16:40Z", "created": "1970-01-01T00:00:01Z"}, 1000.0),
        ({"mtime": 1000, "created": 1.0}, 1000.0),
        ({}, float("inf")),
    ],
    ids=["S3", "Azure", "Google", "numbers", "nobody says"],
)
def test_when_an_object_was_written(facts: dict[str, Any], modified: float) -> None:
    """Whatever it is called, and not when it was made first; one of which nobody knows is never too old."""
    place = Bucket(files := Telling(facts), "bucket")
    assert [entry.modified for entry in place.entries()] == [modified]
    assert not place.delete("a", written_before=1000.0)
    assert place.delete("a", written_before=1000.5) is (modified == 1000.0)
    assert len(files.removed) == int(modified == 1000.0)
