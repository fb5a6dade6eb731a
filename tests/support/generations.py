"""A plain request as the rooms behind the edge take it; tests replace what they are about. Needs no torch."""

from __future__ import annotations

from imagegen_server import core

REFINER = core.RefinerSettings(
    mode=core.RefinerMode.IMAGE_TO_IMAGE,
    num_inference_steps=30,
    strength=0.3,
    switch_at=None,
    guidance_scale=8.0,
    aesthetic_score=6.0,
    negative_aesthetic_score=2.5,
    prompt="",
)

REQUEST = core.GenerationRequest(
    request_id="r-1",
    model="shapes",
    prompt="a red circle on a blue background",
    prompt_2="",
    negative_prompt=None,
    negative_prompt_2="",
    num_inference_steps=50,
    guidance_scale=8.0,
    width=64,
    height=64,
    num_images=1,
    seed=7,
    scheduler="EulerDiscreteScheduler",
    use_refinement=True,
    refiner=REFINER,
    micro_conditioning=core.MicroConditioning(),
    output=core.OutputSettings(mime_type="image/png", quality=90, embed_parameters=True),
    min_progress_interval=0.0,
    priority=core.Priority.INTERACTIVE,
    allowed_fallbacks=frozenset(core.FallbackKind),
    isolate_batch=False,
)
