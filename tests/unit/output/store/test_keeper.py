"""Keeping images: a URL only for what can be fetched, and an answer in time whatever the store does."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen_server.core import EncodedImage, KeepFailure
from imagegen_server.output.store import Files, ImageStore, Keeper, KeeperSettings, Limits, Workers
from imagegen_server.output.store.bucket import Bucket
from imagegen_server.output.store.directory import Directory
from support.store import REQUEST, Ledger, Trouble, cannot_sign, picture

BASE = "http://localhost:8000/images"


class Shelf:
    """Keeps images and waits for the answers."""

    def __init__(self, files: Files, settings: KeeperSettings | None = None, limits: Limits | None = None) -> None:
        self.ledger = Ledger()
        self.workers = Workers(threads=2, capacity=8, name="keep")
        self.store = ImageStore(files, limits or Limits(), self.ledger)
        self.keeper = Keeper(self.store, self.workers, settings or KeeperSettings(url_base=BASE), self.ledger)

    def begin(
        self, image: EncodedImage, patience: float = float("inf")
    ) -> Callable[[], tuple[str, KeepFailure | None]]:
        """Begins to keep an image; returns who waits for the answer."""
        ended, answers = threading.Event(), []

        def done(url: str, failure: KeepFailure | None) -> None:
            answers.append((url, failure))
            ended.set()

        self.keeper(image, REQUEST, 0, refined=True, patience=patience, done=done)

        def wait() -> tuple[str, KeepFailure | None]:
            ended.wait()
            assert len(answers) == 1
            return answers[0]

        return wait

    def keep(self, image: EncodedImage, patience: float = float("inf")) -> tuple[str, KeepFailure | None]:
        """Keeps an image and returns the answer."""
        return self.begin(image, patience)()


def test_a_url_names_what_is_there(tmp_path: Path) -> None:
    """When the answer comes the image can be read."""
    shelf, image = Shelf(Directory(tmp_path)), picture()
    url, failure = shelf.keep(image)
    assert (url, failure) == (f"{BASE}/{image.sha256}.png", None)
    assert shelf.store.get(url.rpartition("/")[2]) == image.data
    assert shelf.ledger.writes == {None: 1}


def test_the_parameters_beside_an_image_are_its_own(tmp_path: Path) -> None:
    """Which image of its generation it is, and whether the refiner's result is shown."""
    shelf, image, ended = Shelf(Directory(tmp_path)), picture(), threading.Event()
    shelf.keeper(image, REQUEST, 2, refined=False, patience=60.0, done=lambda *_: ended.set())
    assert ended.wait(60)
    facts = json.loads(shelf.store.files.read(f"{image.sha256}.json"))
    assert (facts["image_index"], facts["seed"], facts["refined"]) == (2, REQUEST.seed + 2, False)


def test_without_a_base_images_are_kept_and_have_no_url(tmp_path: Path) -> None:
    """Which is no failure."""
    assert Shelf(Directory(tmp_path), KeeperSettings()).keep(picture()) == ("", None)


def test_signed_urls_are_the_file_systems() -> None:
    """With the time for which they are good."""
    shelf, image = Shelf(Bucket(Trouble(), "bucket/a"), KeeperSettings(signed_seconds=3600)), picture()
    assert shelf.keep(image) == (f"https://bucket.example/bucket/a/{image.sha256}.png?expires=3600", None)


def test_a_file_system_that_signs_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """No URL is made up."""
    files = Trouble()
    monkeypatch.setattr(files, "sign", cannot_sign)
    assert Shelf(Bucket(files, "bucket"), KeeperSettings(signed_seconds=60)).keep(picture()) == ("", KeepFailure.ERROR)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError(errno.ENOSPC, "x"), KeepFailure.FULL),
        (OSError(errno.EDQUOT, "x"), KeepFailure.FULL),
        (OSError(errno.EFBIG, "x"), KeepFailure.FULL),
        (PermissionError("Access Denied"), KeepFailure.DENIED),
        (OSError(errno.EROFS, "x"), KeepFailure.DENIED),
        (OSError(errno.EPERM, "x"), KeepFailure.DENIED),
        (FileNotFoundError("The specified bucket does not exist"), KeepFailure.MISSING),
        (OSError(errno.ENOTDIR, "x"), KeepFailure.MISSING),
        (OSError(errno.ESTALE, "x"), KeepFailure.MISSING),
        (TimeoutError(), KeepFailure.TIMEOUT),
        (OSError(errno.ETIMEDOUT, "x"), KeepFailure.TIMEOUT),
        (OSError(errno.EIO, "x"), KeepFailure.ERROR),
        (ConnectionResetError(errno.ECONNRESET, "x"), KeepFailure.ERROR),
        (RuntimeError("x"), KeepFailure.ERROR),
    ],
)
def test_errors_are_told_as_what_they_mean(error: Exception, failure: KeepFailure) -> None:
    """With or without a number, as file systems and object stores raise them; the next image is kept."""
    files = Trouble(error)
    shelf = Shelf(Bucket(files, "bucket"))
    assert shelf.keep(picture()) == ("", failure)
    files.error = None
    assert shelf.keep(picture())[1] is None
    assert shelf.ledger.writes == {failure: 1, None: 1}


def test_a_store_that_is_full_is_a_failure(tmp_path: Path) -> None:
    """By its own limit."""
    shelf = Shelf(Directory(tmp_path), limits=Limits(max_bytes=2000))
    assert [shelf.keep(picture(str(number)))[1] for number in range(3)] == [None, KeepFailure.FULL, KeepFailure.FULL]


def test_a_store_that_hangs_costs_a_few_callers_their_patience_and_then_nobody() -> None:
    """TIMEOUT for those whose writes hang, BUSY at once for the next; all is well once it answers again."""
    files = Trouble()
    shelf = Shelf(Bucket(files, "bucket"), KeeperSettings(timeout=0.05, url_base=BASE))
    files.gate.clear()
    answers = [shelf.keep(picture(str(number))) for number in range(5)]
    assert answers == [("", KeepFailure.TIMEOUT)] * 2 + [("", KeepFailure.BUSY)] * 3
    files.gate.set()
    while shelf.keep(picture("again"))[1] is KeepFailure.BUSY:
        pass
    assert shelf.keep(picture("and again"))[1] is None


def test_a_caller_in_a_hurry_does_not_wait_for_the_whole_timeout() -> None:
    """Its own patience is the bound, none at all included."""
    files = Trouble()
    shelf = Shelf(Bucket(files, "bucket"), KeeperSettings(timeout=1e6, url_base=BASE))
    files.gate.clear()
    assert shelf.keep(picture(), patience=0.05)[1] is KeepFailure.TIMEOUT
    assert shelf.keep(picture(), patience=-1.0)[1] is KeepFailure.TIMEOUT
    files.gate.set()


def test_directories_that_are_gone_and_come_back(tmp_path: Path) -> None:
    """Nothing is written elsewhere, and nothing has to be restarted."""
    shelf = Shelf(Directory(tmp_path / "store"))
    assert shelf.keep(picture())[1] is KeepFailure.MISSING
    (tmp_path / "store").mkdir()
    assert shelf.keep(picture())[1] is None
