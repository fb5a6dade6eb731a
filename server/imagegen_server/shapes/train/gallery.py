"""Writes docs/gallery.md and its pictures: what the pair draws, every image made by the service.

`python -m imagegen_server.shapes.train.gallery` starts a server of its own.
"""

from __future__ import annotations

import argparse
import io
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from imagegen import Client, ImageReceived, Preview, RefinerMode, RefinerOptions
from imagegen_server.local import serving
from imagegen_server.models.profiles import SHAPES, bare_profile

CONTACT = (
    "a red circle on a blue background",
    "a small yellow star on a black background",
    "a large white square on a green background",
    "a purple triangle on an orange background",
    "a green circle at the top on a white background",
    "a black star on the left on a yellow background",
    "an orange square at the bottom on a purple background",
    "a blue triangle on the right on a red background",
    "a red star above a white circle on a black background",
    "a yellow square below a blue star on a purple background",
    "a green triangle left of an orange circle on a blue background",
    "a white star right of a black square on a red background",
    "two yellow circles on a green background",
    "a purple star and an orange triangle on a white background",
    "a large blue circle in the centre on an orange background",
    "a plain green background",
)
SHOWN = CONTACT[0]
"""The prompt of most strips, and of the README's picture."""
_STAGES = (CONTACT[0], CONTACT[1], CONTACT[8], CONTACT[10], CONTACT[13])
_SEED = 7
_ENLARGED = 2
_LABEL = 14
_MARGIN = 4


@dataclass(kw_only=True, frozen=True, slots=True)
class Shot:
    """One image of a sheet."""

    label: str
    prompt: str = SHOWN
    options: Mapping[str, Any] = field(default_factory=dict)
    """The client's."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Sheet:
    """Several images in one picture, with what the page says of them."""

    name: str
    title: str
    text: str
    command: str
    """A command that makes one of the images; PROMPT is the prompt's place."""
    shots: tuple[Shot, ...]
    columns: int
    enlarged: int = 1


def sheets(schedulers: Iterable[str]) -> list[Sheet]:
    """Returns every sheet of the page."""
    image_to_image = RefinerOptions(mode=RefinerMode.IMAGE_TO_IMAGE)
    ensemble = RefinerOptions(mode=RefinerMode.ENSEMBLE)
    no_refiner = {"use_refinement": False}
    defaults = bare_profile(SHAPES).defaults
    return [
        Sheet(
            name="contact",
            title="Contact sheet",
            text="The profile's defaults, both stages; the first seed, nothing was picked.",
            command=f'imagegen generate "PROMPT" --seed {_SEED}',
            shots=tuple(Shot(label=prompt, prompt=prompt) for prompt in CONTACT),
            columns=4,
            enlarged=_ENLARGED,
        ),
        Sheet(
            name="stages",
            title="Base and refiner",
            text="The same seed without (above) and with (below) the refiner: it makes the edges crisp and adds the "
            "hatching of the shapes and the weave of the background.",
            command=f'imagegen generate "PROMPT" --seed {_SEED} --no-refiner',
            shots=tuple(
                Shot(label=label, prompt=prompt, options=options)
                for label, options in (("base", no_refiner), ("base + refiner", {}))
                for prompt in _STAGES
            ),
            columns=len(_STAGES),
            enlarged=_ENLARGED,
        ),
        Sheet(
            name="guidance",
            title="Guidance",
            text="From unguided to the contract's usual 8 and beyond.",
            command=f'imagegen generate "{SHOWN}" --seed {_SEED} --guidance 8',
            shots=tuple(
                Shot(label=f"guidance {scale:g}", prompt=prompt, options={"guidance_scale": float(scale)})
                for prompt in (SHOWN, CONTACT[10])
                for scale in (1, 2, 3, 5, 8, 10, 12)
            ),
            columns=7,
        ),
        Sheet(
            name="steps",
            title="Steps",
            text="Base steps; the refiner's are the same in all.",
            command=f'imagegen generate "{SHOWN}" --seed {_SEED} --steps 20',
            shots=tuple(
                Shot(label=f"{steps} steps", prompt=prompt, options={"num_inference_steps": steps})
                for prompt in (SHOWN, CONTACT[10])
                for steps in (20, 30, 50, 75, 100)
            ),
            columns=5,
        ),
        Sheet(
            name="modes",
            title="Both refiner modes",
            text=f"The base's image, refined image to image (strength {defaults.refiner_strength:g}), and with one "
            f"schedule shared by both stages (switched at {defaults.refiner_switch_at:g}).",
            command=f'imagegen generate "PROMPT" --seed {_SEED} --refiner-mode ensemble',
            shots=tuple(
                Shot(label=label, prompt=prompt, options=options)
                for label, options in (
                    ("base", no_refiner),
                    ("image to image", {"refiner": image_to_image}),
                    ("ensemble", {"refiner": ensemble}),
                )
                for prompt in _STAGES
            ),
            columns=len(_STAGES),
        ),
        Sheet(
            name="schedulers",
            title="Schedulers",
            text="Every scheduler that `imagegen models` lists, at the default steps. Ancestral and SDE schedulers add "
            "noise at each step and end elsewhere.",
            command=f'imagegen generate "{SHOWN}" --seed {_SEED} --scheduler DDIMScheduler',
            shots=tuple(Shot(label=name.removesuffix("Scheduler"), options={"scheduler": name}) for name in schedulers),
            columns=6,
        ),
        Sheet(
            name="sizes",
            title="Sizes",
            text="64x64, the native 128x128, 192x128 and 256x256 (see the model card).",
            command=f'imagegen generate "{SHOWN}" --seed {_SEED} --width 256 --height 256',
            shots=tuple(
                Shot(label=f"{width}x{height}", prompt=prompt, options={"width": width, "height": height})
                for prompt in (SHOWN, CONTACT[10])
                for width, height in ((64, 64), (128, 128), (192, 128), (256, 256))
            ),
            columns=4,
        ),
    ]


def take(client: Client, shot: Shot) -> Image.Image:
    """Returns a shot's image."""
    return _open(client.generate_image(shot.prompt, seed=_SEED, **shot.options).data)


def previews(client: Client, count: int) -> list[tuple[str, Image.Image]]:
    """Returns the previews of one generation, and its image."""
    frames = []
    for event in client.generate(SHOWN, seed=_SEED, preview_count=count):
        if isinstance(event, Preview):
            frames.append((f"{event.stage} {event.completed_steps}", _open(event.data)))
        elif isinstance(event, ImageReceived):
            frames.append(("image", _open(event.image.data)))
    return frames


def lay_out(frames: list[tuple[str, Image.Image]], columns: int, enlarged: int) -> Image.Image:
    """Returns the images in rows, each above its label."""
    width = max(image.width for _, image in frames) * enlarged
    height = max(image.height for _, image in frames) * enlarged
    rows = -(-len(frames) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + _MARGIN) + _MARGIN, rows * (height + _LABEL + _MARGIN) + _MARGIN), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, (label, image) in enumerate(frames):
        x = _MARGIN + index % columns * (width + _MARGIN)
        y = _MARGIN + index // columns * (height + _LABEL + _MARGIN)
        sheet.paste(image.resize((image.width * enlarged, image.height * enlarged), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + height + 1), _fitted(label, font, width), fill="black", font=font)
    return sheet


def write(address: str, docs: Path) -> None:
    """Writes the page and its pictures."""
    pictures = docs / "images" / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    page = [_HEAD]
    with Client(address) as client, ThreadPoolExecutor(8) as threads:
        (model,) = (model for model in client.models() if model.loaded)
        for sheet in sheets(model.schedulers):
            images = list(threads.map(lambda shot: take(client, shot), sheet.shots))
            frames = list(zip((shot.label for shot in sheet.shots), images, strict=True))
            _save(lay_out(frames, sheet.columns, sheet.enlarged), pictures / f"{sheet.name}.webp")
            page.append(_section(sheet.name, sheet.title, sheet.text, sheet.command))
            print(f"{sheet.name}: {len(frames)} images")
        _save(lay_out(previews(client, 9), 10, 1), pictures / "previews.webp")
        text = "Nine previews of one generation and its image: the denoised estimate through a linear projection."
        command = f"imagegen generate {shlex.quote(SHOWN)} --seed {_SEED} --preview --previews 9"
        page.append(_section("previews", "Previews", text, command))
        client.generate_image(SHOWN, seed=_SEED).save(docs / "images" / "first.png")
    (docs / "gallery.md").write_text("\n".join(page), encoding="utf-8")


_HEAD = """\
# Gallery

What the embedded pair, `shapes`, draws. Every image came over gRPC from `imagegen-server --model shapes`; this page is
written by `make gallery`. How good the pair is, in figures, is in its
[model card](../server/imagegen_server/shapes/pair/README.md).
"""


def _section(name: str, title: str, text: str, command: str) -> str:
    return f"## {title}\n\n{text}\n\n    {command}\n\n![{title}](images/gallery/{name}.webp)\n"


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "WEBP", quality=90, method=6)


def _fitted(label: str, font: Any, width: int) -> str:
    while label and font.getlength(label) > width:
        label = label[:-2] + "…" if label.endswith("…") else label[:-1] + "…"
    return label


def main() -> None:
    """Writes the gallery with a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="directory to write to")
    options = parser.parse_args()
    with serving("--model", "shapes", "--log-level", "warning") as server:
        write(server.address, options.docs)


if __name__ == "__main__":
    main()
