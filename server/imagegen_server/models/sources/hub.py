"""Models from the Hugging Face hub: safetensors and configurations only, at a fixed revision, through its own client.

The client (huggingface_hub) owns the cache, tokens, retries, resumption after a cut, and the endpoint
(`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`). What is completely cached is used without a network.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.sources.download_progress import DownloadProgress, log_progress, reporting_bar
from imagegen_server.models.sources.model_directory import (
    check_directory,
    components_of,
    missing_files,
    variants_of,
    wanted_files,
)

if TYPE_CHECKING:
    from huggingface_hub.file_download import DryRunFileInfo

_log = logging.getLogger(__name__)

_REPOSITORY = re.compile(r"(?!.*(--|\.\.|\.git$))\b[\w\-.]{1,96}\b/\b[\w\-.]{1,96}\b", re.ASCII)
"""What the hub takes for a repository's name, after its owner's."""

SPARE_BYTES = 512 * 2**20
"""Disk space that a download leaves free."""

_RETRIES = 4
_RETRY_SECONDS = 2.0
"""How long a download that was cut waits for its next attempt."""


@dataclass(kw_only=True, frozen=True, slots=True)
class HubSource:
    """A repository on the hub."""

    repository: str
    """owner/name."""
    revision: str | None
    """A commit, tag or branch; None is the default branch."""

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(kw_only=True, frozen=True, slots=True)
class Wanted:
    """What to fetch of a repository."""

    half: bool
    """Whether fp16 files are preferred."""
    exclude: tuple[str, ...] = ()
    """Components that come from elsewhere."""


@dataclass(kw_only=True, frozen=True, slots=True)
class HubSettings:
    """How to reach the hub; the defaults are huggingface_hub's own."""

    cache_dir: Path | None = None
    endpoint: str | None = None
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    """Returns the free disk space where a path is."""
    on_progress: Callable[[DownloadProgress], None] | None = None
    """Called during a download; None shows bars on a terminal and writes log lines elsewhere."""


def parse_source(text: str) -> Path | HubSource:
    """Returns the directory or the repository that a source means.

    A directory that exists, or text that can only be a path, is a directory; `owner/name` with an optional
    `@revision` is a repository. Raises `errors.WeightsUnavailable` for anything else.
    """
    path = Path(text).expanduser()
    if path.is_dir() or text.startswith(("/", ".", "~")):
        return path
    repository, _, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise WeightsUnavailable(f"{text!r} is neither a directory nor a hub repository like owner/name@revision")
    return HubSource(repository=repository, revision=revision or None)


def cached(source: HubSource, wanted: Wanted, settings: HubSettings) -> Path | None:
    """Returns the local snapshot if it is complete, else None. Uses no network."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415 - heavy

    try:
        # One file of the snapshot is asked for, so that the client does not judge completeness by files not wanted.
        directory = Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                cache_dir=settings.cache_dir,
                local_files_only=True,
                allow_patterns=["model_index.json"],
            )
        )
    except LocalEntryNotFoundError:
        return None
    if not (directory / "model_index.json").is_file():
        return None
    components = components_of(directory, exclude=wanted.exclude)
    return None if missing_files(directory, components, half=wanted.half) else directory


def fetch(source: HubSource, wanted: Wanted, settings: HubSettings) -> Path:
    """Returns a complete local snapshot, downloading what is missing.

    A pinned revision that is in the cache needs no network. Where fp16 files are cached and others are wanted, the hub
    is asked for those; they are used only if those cannot be had, which is logged.

    Raises `errors.WeightsUnavailable`, with what to do, if the hub cannot be reached, the repository or a file is not
    there, or the disk is too small.
    """
    directory = cached(source, wanted, settings)
    if directory is not None and (
        wanted.half or not any(variants_of(directory, half=False, exclude=wanted.exclude).values())
    ):
        _log.info("using the cached files of %s", source)
        return directory
    try:
        return _downloaded(source, wanted, settings)
    except WeightsUnavailable as error:
        if directory is None:
            raise
        _log.warning("using the fp16 files of %s, which alone are cached: %s", source, error)
        return directory


def _downloaded(source: HubSource, wanted: Wanted, settings: HubSettings) -> Path:
    """Downloads what is missing; returns the snapshot. Raises as `fetch` does."""
    with _explained(source):
        files = _list_files(source, wanted, settings)
    _check_disk(source, files, settings)
    with _explained(source):
        directory = _download(source, files, settings)
    check_directory(directory, exclude=wanted.exclude, half=wanted.half)
    return directory


def download_bytes(files: Sequence[DryRunFileInfo]) -> int:
    """Returns how much of the files is not cached yet."""
    return sum(file.file_size or 0 for file in files if file.will_download)


def _list_files(source: HubSource, wanted: Wanted, settings: HubSettings) -> list[DryRunFileInfo]:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: PLC0415 - heavy

    index = hf_hub_download(
        source.repository,
        "model_index.json",
        revision=source.revision,
        cache_dir=settings.cache_dir,
        endpoint=settings.endpoint,
    )
    components = components_of(Path(index).parent, exclude=wanted.exclude)
    names = HfApi(endpoint=settings.endpoint).list_repo_files(source.repository, revision=source.revision)
    return snapshot_download(
        source.repository,
        revision=source.revision,
        cache_dir=settings.cache_dir,
        endpoint=settings.endpoint,
        allow_patterns=list(wanted_files(names, components, half=wanted.half)),
        tqdm_class=reporting_bar(lambda done: None),
        dry_run=True,
    )


def _check_disk(source: HubSource, files: Sequence[DryRunFileInfo], settings: HubSettings) -> None:
    needed = download_bytes(files)
    place = _existing(_cache_directory(settings))
    free = settings.free_bytes(place)
    if needed + SPARE_BYTES > free:
        raise WeightsUnavailable(
            f"{source} needs {needed / 1e9:.1f} GB more on {place} and {SPARE_BYTES / 1e9:.1f} GB to spare, "
            f"but {free / 1e9:.1f} GB are free: free some space, or set HF_HOME to a larger disk"
        )


def _download(source: HubSource, files: Sequence[DryRunFileInfo], settings: HubSettings) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy

    total = sum(file.file_size or 0 for file in files)
    report = settings.on_progress
    if report is None and not sys.stderr.isatty():
        report = log_progress()

    def send(done: int) -> None:
        if report is not None:
            report(DownloadProgress(name=str(source), completed_bytes=min(done, total), total_bytes=total))

    _log.info("downloading %.1f GB of %s", download_bytes(files) / 1e9, source)
    directory = _persistently(
        lambda: snapshot_download(
            source.repository,
            revision=source.revision,
            cache_dir=settings.cache_dir,
            endpoint=settings.endpoint,
            allow_patterns=[file.filename for file in files],
            tqdm_class=None if report is None else reporting_bar(send),
        )
    )
    send(total)  # files with equal content are fetched once and counted twice
    return Path(directory)


def _persistently(download: Callable[[], str]) -> str:
    """Repeats a download whose connection was cut; the client goes on where it was, or keeps the complete files.

    Newer clients resume by themselves, older ones raise at a cut in the middle of a file.
    """
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - heavy

    for _ in range(_RETRIES):
        try:
            return download()
        except _transport_error() as error:
            if isinstance(error, HfHubHTTPError):
                raise  # the hub answered; asking again does not help
            _log.warning("the download was cut (%s); going on", _first_line(error))
            time.sleep(_RETRY_SECONDS)
    return download()


def _transport_error() -> type[Exception]:
    """Returns the base of every HTTP failure, from the library that the client uses: httpx or httpx2, by version."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - heavy

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


@contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """Turns the client's failures into one sentence each that says what to do."""
    from huggingface_hub import errors as hub_errors  # noqa: PLC0415 - heavy

    try:
        yield
    except hub_errors.GatedRepoError:
        raise WeightsUnavailable(
            f"{source} is gated: accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise WeightsUnavailable(f"{source.repository} has no revision {source.revision}") from None
    except hub_errors.RepositoryNotFoundError:
        raise WeightsUnavailable(
            f"{source} is not on the hub, or is private: check the name, or log in with `hf auth login`"
        ) from None
    except hub_errors.RemoteEntryNotFoundError as error:
        raise WeightsUnavailable(f"{source} lacks a file that a model needs: {_first_line(error)}") from error
    except (hub_errors.LocalEntryNotFoundError, _transport_error(), OSError, RuntimeError) as error:
        # RuntimeError: some versions of the client close their connections between two attempts.
        raise _unreachable(source, error) from error


def _unreachable(source: HubSource, error: Exception) -> WeightsUnavailable:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsUnavailable(f"the disk was full while {source} was downloaded: free some space and start again")
    return WeightsUnavailable(
        f"{source} is not completely cached and the hub cannot be reached ({_first_line(error)}): check network, proxy "
        "and HF_HUB_OFFLINE and start again (files that are complete are kept), or name a local directory"
    )


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    text = str(cause).strip() or str(error).strip()
    return f"{type(cause).__name__}: {text.splitlines()[0]}" if text else type(cause).__name__


def _cache_directory(settings: HubSettings) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415 - heavy

    return settings.cache_dir if settings.cache_dir is not None else Path(HF_HUB_CACHE)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
