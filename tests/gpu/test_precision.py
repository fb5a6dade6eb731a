"""Half precision against fp32 with the same weights."""

from __future__ import annotations

from typing import Any

from gpu.drive import array, generate, psnr
from gpu.figures import Figures
from gpu.site import Site, asked, load, load_or_skip, running
from imagegen_server.core import Precision
from imagegen_server.models.pair import LoadedPair

LEAST_PSNR = 20.0
"""dB. Random weights make noise-like pictures, in which every rounding shows; trained ones come out closer."""


def test_half_precision_shows_the_same_picture(site: Site, measured: Figures) -> None:
    """With weights rounded from fp32, the picture in half precision is the fp32 one but for noise."""
    request = asked(site, num_inference_steps=4)
    full = load_or_skip(site, Precision.FP32)
    weights = _weights(full)
    with running(full) as runner:
        del full
        reference = generate(site, runner, request).pixels
    half = load(site, site.half)
    for name, module in _modules(half).items():
        module.load_state_dict(weights[name])
    with running(half) as runner:
        picture = generate(site, runner, request).pixels
        again = generate(site, runner, request).pixels
    decibels = psnr(reference, picture)
    measured.add("half precision against fp32", precision=str(site.half), psnr_db=decibels)
    assert array(reference).std() > 1, "a flat image proves nothing"
    assert again == picture
    assert decibels >= LEAST_PSNR


def _weights(pair: LoadedPair) -> dict[str, dict[str, Any]]:
    """Returns copies in host memory, so that the device needs to hold one pair at a time."""
    return {
        name: {key: tensor.to("cpu", copy=True) for key, tensor in module.state_dict().items()}
        for name, module in _modules(pair).items()
    }


def _modules(pair: LoadedPair) -> dict[str, Any]:
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    base: dict[str, Any] = {name: getattr(pair.base, name) for name in names}
    return {**base, "refiner.unet": pair.refiner.unet}
