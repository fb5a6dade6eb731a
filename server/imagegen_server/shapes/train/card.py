"""Writes the model card: the text of card.md with the figures from `measure`'s JSON.

`python -m imagegen_server.shapes.train.card` rewrites the card of the shipped pair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from imagegen_server import shapes
from imagegen_server.models.profiles import SHAPES, bare_profile
from imagegen_server.models.sources.weight_files import parameter_count
from imagegen_server.shapes.train.__main__ import CORPORA, LONG_STEPS, STEPS

FIGURES = "accuracy.json"
"""What `measure` writes, beside the card."""

_PARTS = (
    ("base UNet", shapes.BASE, "unet"),
    ("refiner UNet", shapes.REFINER, "unet"),
    ("VAE", shapes.BASE, "vae"),
    ("text encoder 1", shapes.BASE, "text_encoder"),
    ("text encoder 2", shapes.BASE, "text_encoder_2"),
)

_TEXT = Path(__file__).with_name("card.md")


def write(pair: Path) -> None:
    """Writes the card of a pair from the figures beside it."""
    from imagegen_server.shapes.train.unet import REFINER_TIMESTEPS  # noqa: PLC0415 - heavy
    from imagegen_server.shapes.words import COLOURS  # noqa: PLC0415 - as above
    from imagegen_server.shapes.words import SHAPES as SHAPE_WORDS  # noqa: PLC0415 - as above

    defaults = bare_profile(SHAPES).defaults
    found: dict[str, dict[str, Any]] = json.loads((pair / FIGURES).read_text(encoding="utf-8"))
    rows = [
        f"| {name} | {one['share']:.1%} | {one['of']} | {one['low']:.1%} to {one['high']:.1%} |"
        for name, one in found.items()
    ]
    counts = {name: parameter_count(directory, module) for name, directory, module in _PARTS}
    text = _TEXT.read_text(encoding="utf-8").format(
        megabytes=2 * sum(counts.values()) / 1e6,
        parts="\n".join(f"| {name} | {count:,} |" for name, count in counts.items()),
        side=defaults.width,
        steps=defaults.num_inference_steps,
        refiner_steps=defaults.refiner_num_inference_steps,
        guidance=defaults.guidance_scale,
        scheduler=defaults.scheduler,
        colours=len(COLOURS),
        shapes=len(SHAPE_WORDS),
        text_steps=STEPS["text"],
        vae_steps=STEPS["vae"],
        decoder_steps=STEPS["decoder"],
        base_steps=STEPS["base"],
        refiner_train_steps=STEPS["refiner"],
        long_base_steps=f"{LONG_STEPS['base']:,}",
        long_refiner_steps=f"{LONG_STEPS['refiner']:,}",
        scenes=f"{sum(count for _, count in CORPORA.values()):,}",
        prompts=found["all: all right"]["of"],
        figures="\n".join(rows),
        refiner_timesteps=REFINER_TIMESTEPS,
    )
    (pair / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Rewrites the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=shapes.DIRECTORY)
    options = parser.parse_args()
    write(options.pair)


if __name__ == "__main__":
    main()
