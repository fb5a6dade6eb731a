"""From a setting to a place for files: what can never work is refused with what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fsspec
import pytest
import structlog
from fsspec.registry import _registry as registered
from prometheus_client import CollectorRegistry

from imagegen_server.errors import StartupError
from imagegen_server.keeping import Results
from imagegen_server.output.store import open_files
from imagegen_server.output.store.bucket import Bucket
from imagegen_server.output.store.directory import Directory
from imagegen_server.settings import parse
from imagegen_server.telemetry import Metrics, StoreListener
from support.store import Trouble


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}"])
def test_directories(tmp_path: Path, form: str) -> None:
    """As a path or as a URL; made with its parents when it is prepared, not before."""
    place = tmp_path / "a" / "b"
    files = open_files(form.format(place))
    assert isinstance(files, Directory)
    assert (files.described, place.exists()) == (str(place), False)
    files.prepare()
    files.prepare()
    assert place.is_dir()


def test_object_stores() -> None:
    """Their prefix need not exist."""
    files = open_files("memory://bucket/prefix")
    assert isinstance(files, Bucket)
    files.prepare()
    assert list(files.entries()) == []
    assert files.clean() == 0
    files.write("a", b"x")
    assert [(entry.name, entry.size) for entry in files.entries()] == [("a", 1)]
    assert files.delete("a", written_before=4e9)
    assert not files.delete("a", written_before=4e9)
    assert files.described == "memory:///bucket/prefix"


def test_what_signs_urls(tmp_path: Path) -> None:
    """Neither a directory nor memory; what has a way of its own does."""
    assert not open_files(str(tmp_path)).signs
    assert not open_files("memory://bucket/prefix").signs
    assert Bucket(Trouble(), "bucket").signs


class Listed(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Stands for an object store's file system; keeps what it was told, as they all do."""

    protocol = "gs"


def test_an_object_stores_listings_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes write and delete there as well; nor is the file system shared with others of this process."""
    monkeypatch.setitem(registered, "gs", Listed)
    places = [open_files("gs://bucket/a") for _ in range(2)]
    systems = [vars(place)["_files"] for place in places]
    assert [system.storage_options.get("use_listings_cache") for system in systems] == [False, False]
    assert systems[0] is not systems[1]
    assert places[0].described == "gs://bucket/a"


def test_signed_urls_of_a_store_that_signs_none_are_refused_at_the_start(tmp_path: Path) -> None:
    """Every image would be reported as not kept."""
    settings = parse(["--store", str(tmp_path), "--image-url-base", "signed"], {})
    with pytest.raises(StartupError, match="signs no URLs"):
        Results.open(
            settings, StoreListener(Metrics(CollectorRegistry(), models=[], methods=[]), structlog.get_logger())
        )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sftp://host/images", "does not put files whole or not at all"),
        ("http://host/images", "does not put files whole or not at all"),
        ("nonsense://x", "nonsense:// does not"),
        ("memory://", "needs a bucket"),
    ],
)
def test_what_can_never_work(url: str, text: str) -> None:
    """Unsuitable, unknown, or without a place."""
    with pytest.raises(StartupError, match=text):
        open_files(url)


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the package is installed")
def test_a_missing_package_is_named_with_the_extra_that_has_it() -> None:
    """What an operator has to type."""
    with pytest.raises(StartupError, match=r"pip install '\.\[server,s3\]' in a checkout"):
        open_files("s3://bucket/prefix")
