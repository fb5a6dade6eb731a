"""The embedded pair, `shapes`: a small Stable Diffusion XL base and refiner for 128x128 images of coloured shapes.

`DIRECTORY` holds it in diffusers' format, as the package ships it. The rest of this room is how it was made: the world
that it draws (`words`, `prompts`, `world`, `tokenizer`), the judge that reads images (`judge`) and the trainer
(`train`). Serving needs none of that, and this module imports nothing of it.
"""

from __future__ import annotations

__all__ = ["BASE", "DIRECTORY", "PREVIEW", "REFINER"]

from pathlib import Path

DIRECTORY = Path(__file__).parent / "pair"
"""The shipped pair."""
BASE = DIRECTORY / "base"
"""What `StableDiffusionXLPipeline.from_pretrained` loads."""
REFINER = DIRECTORY / "refiner"
"""What `StableDiffusionXLImg2ImgPipeline.from_pretrained` loads."""
PREVIEW = DIRECTORY / "preview.safetensors"
"""The linear projection that makes step previews."""
