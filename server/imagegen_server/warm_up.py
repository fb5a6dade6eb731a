"""The generation that warms a model up before it serves."""

from __future__ import annotations

from imagegen_server.core import (
    FallbackKind,
    GenerationRequest,
    MicroConditioning,
    ModelProfile,
    OutputSettings,
    Priority,
    RefinerMode,
    RefinerSettings,
)


def warm_up_request(profile: ModelProfile) -> GenerationRequest:
    """Returns a small generation through every stage at the size that a request has by default."""
    defaults = profile.defaults
    refiner = RefinerSettings(
        mode=RefinerMode.IMAGE_TO_IMAGE,
        num_inference_steps=3,
        strength=defaults.refiner_strength,
        switch_at=None,
        guidance_scale=defaults.guidance_scale,
        aesthetic_score=defaults.aesthetic_score,
        negative_aesthetic_score=defaults.negative_aesthetic_score,
        prompt="",
    )
    return GenerationRequest(
        request_id="warm-up",
        model=profile.name,
        prompt="warm-up",
        prompt_2="",
        negative_prompt=None,
        negative_prompt_2="",
        num_inference_steps=3,
        guidance_scale=defaults.guidance_scale,
        width=defaults.width,
        height=defaults.height,
        num_images=1,
        seed=0,
        scheduler=defaults.scheduler,
        use_refinement=True,
        refiner=refiner,
        micro_conditioning=MicroConditioning(),
        output=OutputSettings(mime_type="image/png", quality=90, embed_parameters=False),
        min_progress_interval=0.0,
        priority=Priority.INTERACTIVE,
        allowed_fallbacks=frozenset(FallbackKind),
        isolate_batch=False,
    )
