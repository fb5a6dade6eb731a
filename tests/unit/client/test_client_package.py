"""The façade: what it exports and what importing it needs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

import imagegen
from imagegen import errors, types

BLOCKED = ("torch", "numpy", "PIL", "diffusers", "transformers", "rich", "google.rpc", "grpc_status", "grpc_health")


@pytest.mark.parametrize("module", [imagegen, errors, types], ids=lambda module: module.__name__)
def test_every_exported_name_exists_once_and_in_order(module: ModuleType) -> None:
    """`__all__` is sorted, free of repetition, and each of its names is an attribute."""
    assert list(module.__all__) == sorted(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_types_exports_every_public_value() -> None:
    """Nothing public that `types` imports is missing from its `__all__`."""
    public = {name for name, value in vars(types).items() if isinstance(value, type) and not name.startswith("_")}
    assert public <= set(types.__all__)


@pytest.mark.parametrize("name", [name for name in imagegen.__all__ if name not in {"errors", "types"}])
def test_every_facade_name_is_documented(name: str) -> None:
    """A name of the façade has a docstring or is a union of names that have one."""
    value = getattr(imagegen, name)
    parts = getattr(value, "__args__", (value,))
    assert all(part.__doc__ for part in parts)


def test_the_bare_install_needs_grpcio_and_protobuf_only() -> None:
    """Importing the client and its command line loads none of the optional or server-side packages, nor needs them."""
    program = f"""
        import importlib.abc, sys

        class Refuse(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                blocked = {(*BLOCKED, "imagegen_server")!r}
                if any(name == one or name.startswith(one + ".") for one in blocked):
                    raise ImportError(f"{{name}} is not installed")

        sys.meta_path.insert(0, Refuse())
        import imagegen, imagegen.cli
        from imagegen._details import decode_details
        assert decode_details(b"").reason == ""
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
