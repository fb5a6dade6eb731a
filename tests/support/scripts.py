"""Programs of deploy/, which are no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"


def load(path: str) -> ModuleType:
    """Returns a program as a module that was not run. Raises FileNotFoundError.

    Args:
        path: below deploy/, such as `supply/audit.py`.
    """
    name = path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, DEPLOY / path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
