"""The whole service, over gRPC, against stock diffusers pipelines called directly with the same weights."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagegen import Client, RefinerMode, RefinerOptions, types
from imagegen_server import shapes
from imagegen_server.models.profiles import SHAPES, bare_profile
from support.live_server import LiveServer, live_server
from support.load import size as scaled

pytestmark = pytest.mark.slow

SCHEDULERS = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
)
REFINER_GUIDANCE = bare_profile(SHAPES).defaults.refiner_guidance_scale
WORDS = ("red", "blue", "green", "circle", "square", "star", "above", "a", "on", "background", "zebra")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("server")
    arguments = ("--min-steps", "1")
    with live_server(directory, *arguments, model="shapes") as started:
        yield started


@pytest.fixture(scope="module")
def pipelines() -> tuple[Any, Any]:
    """Stock pipelines, loaded from what the package ships."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    base = StableDiffusionXLPipeline.from_pretrained(shapes.BASE)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(shapes.REFINER)
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return base, refiner


def random_options(chance: random.Random) -> dict[str, Any]:
    """Returns what one random caller asks for."""
    options: dict[str, Any] = {
        "prompt": " ".join(chance.choices(WORDS, k=chance.randint(1, 12))),
        "num_inference_steps": chance.randint(2, 14),
        "guidance_scale": chance.choice([1.0, 1.5, 5.0, 8.0, round(chance.uniform(1, 20), 3)]),
        "width": 8 * chance.randint(8, 18),
        "height": 8 * chance.randint(8, 18),
        "scheduler": chance.choice(SCHEDULERS),
        "num_images": chance.choice([1, 1, 1, 2]),
        "seed": chance.randrange(2**63 - 8),
    }
    if chance.random() < 0.5:
        options["negative_prompt"] = chance.choice(["", "yellow triangle"])
    guidance = chance.choice([None, options["guidance_scale"]])  # the profile's own, or the base's
    kind = chance.choice(["image to image", "image to image", "ensemble", "off"])
    if kind == "off":
        options["use_refinement"] = False
    elif kind == "ensemble":
        options["num_inference_steps"] += 4
        options["refiner"] = RefinerOptions(
            mode=RefinerMode.ENSEMBLE, switch_at=chance.choice([0.5, 0.75]), guidance_scale=guidance
        )
    else:
        options["refiner"] = RefinerOptions(
            num_inference_steps=chance.randint(1, 5), strength=chance.choice([0.3, 0.45, 1.0]), guidance_scale=guidance
        )
    return options


def oracle(pipelines: tuple[Any, Any], options: dict[str, Any], index: int) -> np.ndarray[Any, Any]:
    """Returns the pixels of image `index` as a caller of diffusers would make them, with one generator object."""
    import diffusers
    import torch

    base, refiner = pipelines
    scheduler = getattr(diffusers, options["scheduler"])
    for pipeline in pipelines:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(options["seed"] + index)
    common = {
        "prompt": options["prompt"],
        "negative_prompt": options.get("negative_prompt"),
        "guidance_scale": options["guidance_scale"],
        "generator": generator,
    }
    size = {"width": options["width"], "height": options["height"]}
    steps = options["num_inference_steps"]
    chosen: RefinerOptions | None = options.get("refiner")
    if chosen is None:
        return np.asarray(base(**common, **size, num_inference_steps=steps).images[0])
    guidance = chosen.guidance_scale
    own = common | {"guidance_scale": REFINER_GUIDANCE if guidance is None else guidance}
    if chosen.mode is RefinerMode.ENSEMBLE:
        latent = base(
            **common, **size, num_inference_steps=steps, denoising_end=chosen.switch_at, output_type="latent"
        ).images
        refined = refiner(**own, image=latent, num_inference_steps=steps, denoising_start=chosen.switch_at)
        return np.asarray(refined.images[0])
    assert chosen.num_inference_steps is not None
    assert chosen.strength is not None
    latent = base(**common, **size, num_inference_steps=steps, output_type="latent").images
    whole = next(n for n in range(1, 10_000) if int(n * chosen.strength) == chosen.num_inference_steps)
    refined = refiner(**own, image=latent, num_inference_steps=whole, strength=chosen.strength)
    return np.asarray(refined.images[0])


def served(server: LiveServer, options: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Returns the pixels that the service makes."""
    with Client(server.address) as client:
        images = client.generate_images(**options)
    return [np.asarray(Image.open(io.BytesIO(image.data))) for image in images]


@pytest.mark.parametrize("number", range(scaled(reduced=8, full=40)))
def test_alone_the_service_is_identical_to_diffusers(
    server: LiveServer, pipelines: tuple[Any, Any], number: int
) -> None:
    """A random request, alone on the server, gives the very pixels that diffusers gives."""
    options = random_options(random.Random(number))
    for index, pixels in enumerate(served(server, options)):
        assert np.array_equal(pixels, oracle(pipelines, options, index)), options


def test_in_company_the_service_is_within_one_level(server: LiveServer, pipelines: tuple[Any, Any]) -> None:
    """With eight strangers joining and leaving meanwhile, no pixel differs by more than one level of 255."""
    cases = [random_options(random.Random(1000 + number)) for number in range(scaled(reduced=8, full=40))]
    for options in cases:  # the same latent shape, so that they do share batches
        options["width"] = options["height"] = 64
    with ThreadPoolExecutor(9) as callers:
        results = list(callers.map(lambda options: served(server, options), cases))
    rows = server.metrics()
    batches = rows.total("imagegen_batch_rows_count")
    assert rows.total("imagegen_batch_rows_bucket", le="2.0") < batches, "nobody shared a batch"
    for options, images in zip(cases, results, strict=True):
        for index, pixels in enumerate(images):
            difference = np.abs(pixels.astype(int) - oracle(pipelines, options, index).astype(int))
            assert difference.max() <= 1, options


def test_the_same_seed_gives_the_same_file(server: LiveServer, tmp_path: Path) -> None:
    """Isolated from the batch, repeated runs give identical bytes although strangers run beside them."""
    strangers = [random_options(random.Random(2000 + number)) for number in range(4)]
    mine: types.GenerationKeywords = {"num_inference_steps": 8, "seed": 3, "isolate_batch": True}
    with ThreadPoolExecutor(6) as callers, Client(server.address) as client:
        noise = [callers.submit(served, server, options) for options in strangers]
        files = list(callers.map(lambda _: client.generate_image("a red circle", **mine).data, range(3)))
        assert all(future.result() for future in noise)
    assert len(set(files)) == 1
