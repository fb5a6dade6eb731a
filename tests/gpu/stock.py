"""The same work done by diffusers' own pipelines on the same weights: what a user would run instead."""

from __future__ import annotations

from typing import Any, Final

from gpu.drive import mean_seconds, median_seconds, prompts, seconds_of
from gpu.site import Site
from imagegen_server.core import Stage
from imagegen_server.models.pair import LoadedPair

GUIDANCE: Final = 8.0


def generation_seconds(site: Site, pair: LoadedPair, steps: int, refiner_steps: int) -> float:
    """Returns the seconds of one image of the native size through base and refiner."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    common: dict[str, Any] = {"prompt": "a red circle", "guidance_scale": GUIDANCE, "generator": generator}
    side = site.native

    def work() -> None:
        latents = pair.base(**common, num_inference_steps=steps, height=side, width=side, output_type="latent").images
        pair.refiner(**common, image=latents, num_inference_steps=2 * refiner_steps, strength=0.5, output_type="np")

    return seconds_of(site, work)


def offline_seconds(site: Site, pair: LoadedPair, *, images: int, steps: int, call: str) -> float:
    """Returns the seconds of one call of the base for several images of the native size, each of its own prompt."""
    return seconds_of(
        site,
        lambda: pair.base(
            prompt=prompts(images, call),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            height=site.native,
            width=site.native,
            output_type="np",
        ),
    )


def step_seconds(site: Site, pair: LoadedPair, stage: Stage, *, rows: int, side: int) -> float:
    """Returns the mean seconds of one call of a UNet, whatever the pipeline does around it left out."""
    import torch

    from imagegen_server.models.evaluation.forward import Plain
    from imagegen_server.models.evaluation.preparation import example, pipelines

    inputs = example(pair, stage, (rows, side // 8, side // 8))
    unet = Plain(pipelines(pair)[stage].unet)
    with torch.no_grad():
        return mean_seconds(site, lambda: unet(*inputs), before=2)


def decode_seconds(site: Site, pair: LoadedPair) -> float:
    """Returns the median seconds from a latent to an image on the host, as the end of a pipeline's call does it."""
    import torch

    vae, processor = pair.base.vae, pair.base.image_processor
    side = site.native // pair.base.vae_scale_factor
    latents = torch.randn(1, vae.config.latent_channels, side, side, device=pair.device, dtype=vae.dtype)

    def work() -> None:
        image = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        processor.postprocess(image, output_type="np")

    with torch.no_grad():
        return median_seconds(site, work)
