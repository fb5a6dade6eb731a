"""The state of this process, as the edge sees it."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from imagegen_server import api
from imagegen_server.core import LoadedModel, ModelProfile
from imagegen_server.engine import Engine
from imagegen_server.errors import Unavailable, UnavailableReason

VERSION: Final = importlib.metadata.version("imagegen")


class Process:
    """What the edge sees of this process (`api.Backend`)."""

    def __init__(self, profiles: Sequence[ModelProfile]) -> None:
        self._profiles = tuple(profiles)
        self._engine: Engine | None = None
        self._loaded: LoadedModel | None = None
        self._draining = False
        self.version = VERSION
        self.start_time = time.time()

    def state(self) -> api.ServerState:
        """Returns whether requests are taken."""
        if self._draining:
            return api.ServerState.DRAINING
        return api.ServerState.LOADING if self._engine is None else api.ServerState.SERVING

    def engine(self) -> Engine:
        """Returns the engine. Raises Unavailable while there is none."""
        if self._engine is None:
            reason = UnavailableReason.DRAINING if self._draining else UnavailableReason.LOADING
            raise Unavailable(reason, f"the server is {reason.lower()}")
        return self._engine

    def loaded(self) -> LoadedModel | None:
        """Returns what is loaded, with the memory plan in force; None while loading."""
        if self._engine is None or self._loaded is None:
            return None
        return replace(self._loaded, memory_plan=self._engine.loaded().memory_plan)

    def profiles(self) -> Sequence[ModelProfile]:
        """Returns every profile, the loaded one as it was loaded."""
        if self._loaded is None:
            return self._profiles
        mine = self._loaded.profile
        return (mine, *(p for p in self._profiles if p.name != mine.name))

    def serve(self, engine: Engine, loaded: LoadedModel) -> None:
        """Begins to take requests."""
        self._engine, self._loaded = engine, loaded

    def drain(self) -> None:
        """Begins to refuse requests."""
        self._draining = True
