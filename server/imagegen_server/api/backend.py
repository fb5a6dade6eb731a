"""What the edge asks of the process around it: whether there is an engine yet, and what is loaded."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from imagegen_server.core import LoadedModel, ModelProfile
from imagegen_server.engine import Engine


class ServerState(enum.StrEnum):
    """Whether the server takes requests."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"


class Backend(Protocol):
    """The process as the edge sees it. Every member returns at once and may be called at any time."""

    @property
    def version(self) -> str:
        """Version of ImageGen."""
        ...

    @property
    def start_time(self) -> float:
        """When the process started, in seconds since the epoch."""
        ...

    def state(self) -> ServerState:
        """Returns whether requests are taken."""
        ...

    def engine(self) -> Engine:
        """Returns the engine. Raises `errors.Unavailable` while there is none."""
        ...

    def loaded(self) -> LoadedModel | None:
        """Returns what is loaded; None while loading."""
        ...

    def profiles(self) -> Sequence[ModelProfile]:
        """Returns every profile this server knows, the loaded one included."""
        ...
