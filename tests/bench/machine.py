"""What the figures depend on: versions, processor and load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any, Final

from imagegen_server.models.device import processor

PACKAGES: Final = ("imagegen", "torch", "diffusers", "transformers", "numpy", "grpcio", "protobuf", "pillow")
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Returns a JSON-able description of this machine and the versions of what runs on it."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "environment": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }


def load() -> float:
    """Returns the processes that were ready to run on average in the last minute."""
    return os.getloadavg()[0]
