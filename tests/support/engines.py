"""An engine as the server puts it together, around any runner."""

from __future__ import annotations

from typing import Any

from imagegen_server import output
from imagegen_server.core import EngineObserver
from imagegen_server.engine import Engine, EngineSettings, Runner


def engine_of(runner: Runner, observer: EngineObserver | None = None, **settings: Any) -> Engine:
    """Returns an engine that makes files; `settings` are fields of EngineSettings. Nobody turns it yet."""
    return Engine(
        runner=runner,
        encode=output.encode,
        encode_preview=output.encode_preview,
        observer=observer or EngineObserver(),
        settings=EngineSettings(**settings),
    )
