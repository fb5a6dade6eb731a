"""The defaults of a profile under limits that are not its own."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_server.core import Defaults, Limits


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Returns limits that admit something."""
    least = 8 * draw(st.integers(1, 64))
    steps = draw(st.integers(1, 1000))
    scale = draw(st.floats(0, 100))
    return Limits(
        min_steps=steps,
        max_steps=draw(st.integers(steps, 1000)),
        max_refiner_steps=draw(st.integers(1, 1000)),
        min_guidance_scale=scale,
        max_guidance_scale=draw(st.floats(scale, 100)),
        min_side=least,
        max_side=draw(st.integers(least, 16384)),
        max_pixels=draw(st.integers(least**2, 2**28)),
    )


_SIDES = st.integers(8, 512).map(lambda eighth: 8 * eighth)


@given(limits(), _SIDES, _SIDES)
def test_defaults_come_to_lie_within_the_limits(allowed: Limits, width: int, height: int) -> None:
    """Whatever the limits admit, a request that sets nothing keeps to them."""
    defaults = Defaults(width=width, height=height, refiner_guidance_scale=9.0).within(allowed)
    for steps in (defaults.num_inference_steps, defaults.fast_num_inference_steps):
        assert allowed.min_steps <= steps <= allowed.max_steps
    for scale in (defaults.guidance_scale, defaults.fast_guidance_scale, defaults.refiner_guidance_scale):
        assert scale is not None
        assert allowed.min_guidance_scale <= scale <= allowed.max_guidance_scale
    assert defaults.refiner_num_inference_steps <= allowed.max_refiner_steps
    for side in (defaults.width, defaults.height):
        assert allowed.min_side <= side <= allowed.max_side
        assert side % allowed.side_multiple == 0
    assert defaults.width * defaults.height <= allowed.max_pixels


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((1024, 1024), {"max_side": 512}, (512, 512)),
        ((1024, 1024), {"max_pixels": 512 * 512}, (512, 512)),
        ((1024, 1024), {"max_pixels": 300_000}, (544, 544)),
        ((1024, 512), {"max_side": 1001}, (1000, 496)),
        ((1024, 512), {"max_side": 768, "max_pixels": 512 * 256}, (512, 256)),
        ((2048, 256), {"min_side": 256, "max_pixels": 256 * 512}, (512, 256)),
        ((128, 128), {"min_side": 256}, (256, 256)),
    ],
)
def test_a_size_keeps_its_ratio_where_it_can(
    size: tuple[int, int], bounds: dict[str, int], expected: tuple[int, int]
) -> None:
    """Both sides shrink together, down to the least."""
    defaults = Defaults(width=size[0], height=size[1]).within(dataclasses.replace(Limits(), **bounds))
    assert (defaults.width, defaults.height) == expected


def test_what_is_within_stays() -> None:
    """Limits change nothing that keeps to them."""
    assert Defaults(refiner_guidance_scale=3.0).within(Limits()) == Defaults(refiner_guidance_scale=3.0)
