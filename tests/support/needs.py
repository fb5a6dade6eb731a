"""What a test does where something is missing that it needs."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(text: str) -> NoReturn:
    """Skips the test; under continuous integration (the variable CI is set), where it has to be there, fails it.

    Args:
        text: what is missing, and how to get it.
    """
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
