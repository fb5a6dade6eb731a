"""The embedded pair, `shapes`: a small Stable Diffusion XL base and refiner for 128x128 images.

It has SDXL's architecture at toy widths, in the format of diffusers, and is built on the machine that needs it.
"""

from __future__ import annotations

__all__ = [
    "BUILDER_VERSION",
    "DEFAULT_SEED",
    "WORDS",
    "build",
    "build_tokenizer",
    "ensure",
    "user_cache_dir",
]

from imagegen_server.models.shapes._builder import (
    BUILDER_VERSION,
    DEFAULT_SEED,
    build,
    ensure,
    user_cache_dir,
)
from imagegen_server.models.shapes._tokenizer import build_tokenizer
from imagegen_server.models.shapes._words import WORDS
