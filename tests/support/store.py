"""A store's parts for tests: images without pixels, an observer that remembers, file systems that fail or hang."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from imagegen_server.core import EncodedImage, KeepFailure
from imagegen_server.output.store import ReadOutcome
from support import generations

REQUEST: Final = dataclasses.replace(
    generations.REQUEST,
    request_id="r-1",
    prompt="a zebra",
    seed=41,
    parameters={"prompt": "a zebra", "negative_prompt": "stripes", "seed": 41},
)
"""A request whose words are told apart from everything else."""
WORDS: Final = (b"zebra", b"stripes")


def picture(content: str = "one", size: int = 1000, mime_type: str = "image/png") -> EncodedImage:
    """Returns bytes that stand for an image file."""
    data = hashlib.sha256(content.encode()).digest() * (size // 32 + 1)
    return EncodedImage(mime_type=mime_type, data=data[:size], sha256=hashlib.sha256(data[:size]).hexdigest())


@dataclass
class Ledger:
    """Remembers what the store tells."""

    writes: Counter[KeepFailure | None] = field(default_factory=Counter)
    reads: Counter[ReadOutcome] = field(default_factory=Counter)
    removals: Counter[str] = field(default_factory=Counter)
    state: tuple[int, int] = (0, 0)
    sweeps: int = 0
    sweep_errors: list[Exception] = field(default_factory=list)

    def written(self, failure: KeepFailure | None, error: Exception | None, seconds: float) -> None:
        assert seconds >= 0
        assert (failure is None) == (error is None)
        self.writes[failure] += 1

    def read(self, outcome: ReadOutcome, error: Exception | None) -> None:
        self.reads[outcome] += 1

    def held(self, images: int, held_bytes: int) -> None:
        self.state = (images, held_bytes)

    def removed(self, reason: str, images: int) -> None:
        self.removals[reason] += images

    def swept(self) -> None:
        self.sweeps += 1

    def sweep_failed(self, error: Exception) -> None:
        self.sweep_errors.append(error)


class Trouble(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """An object store in memory that can be told to raise, to hang and to sign."""

    cachable = False

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.error = error
        self.gate = threading.Event()
        """Everything waits for it."""
        self.gate.set()
        self.entered = threading.Semaphore(0)
        """Released by everything that waits."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._pass()
        super().pipe_file(path, value, mode=mode, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self._pass()
        data: bytes = super().cat_file(path, start, end, **kwargs)
        return data

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._pass()
        return super().ls(path, detail, **kwargs)

    def sign(self, path: str, expiration: int = 100, **kwargs: Any) -> str:
        return f"https://bucket.example/{path}?expires={expiration}"

    def _pass(self) -> None:
        if not self.gate.is_set():
            self.entered.release()
            self.gate.wait(60)
        if self.error is not None:
            raise self.error


def cannot_sign(path: str, expiration: int = 100, **kwargs: Any) -> NoReturn:
    """Stands for a file system that signs nothing."""
    fsspec.AbstractFileSystem().sign(path, expiration, **kwargs)
    raise AssertionError("it signed")
