"""What the load consists of: a table of calls for a server on a real model, and one for a server on the fake model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from imagegen.types import GenerationKeywords, OutputOptions, Priority, RefinerMode, RefinerOptions
from imagegen_server.core import Outcome

FAKE_ARGUMENTS: Final = (
    "--model=fake",
    "--queue-capacity=8",
    "--max-running=4",
    "--store=memory://observe",
    "--store-max-bytes=50MB",
    '--fake-script={"evaluation": 0.02, "row": 0.001, "text_encode": 0.005, "vae_decode": 0.02, '
    '"peak_memory_bytes": 22000000000}',
)
"""How to start the server that FAKE_MIX is for: steps that take their time, and a queue that soon overflows."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Kind:
    """One kind of call, always made in the same way."""

    name: str
    prompt: str
    outcome: Outcome
    """How the call ends unless the server has too much to do."""
    options: GenerationKeywords = field(default_factory=GenerationKeywords)
    timeout: float = 120.0
    """The call's deadline in seconds."""
    close_after: int | None = None
    """Steps events after which the caller hangs up."""
    cancel_after: int | None = None
    """Step events after which the caller calls CancelGeneration, and reads on."""
    pause: float = 0.0
    """Seconds that the caller waits before it reads each next message."""
    crowd: bool = False
    """Whether so many calls are made at once that the queue overflows."""


_PROMPT = "a red circle on a blue background"
_SMALL = GenerationKeywords(num_inference_steps=20, refiner=RefinerOptions(num_inference_steps=4))

MODEL_MIX: Final = (
    Kind(name="plain", prompt=_PROMPT, outcome=Outcome.OK, options=_SMALL | {"seed": 1}),
    Kind(name="invalid", prompt=_PROMPT, outcome=Outcome.INVALID, options={"guidance_scale": 1000.0, "width": 63}),
    Kind(name="several_images", prompt=_PROMPT, outcome=Outcome.OK, options=_SMALL | {"num_images": 3, "seed": 2}),
    Kind(
        name="base_only",
        prompt="a green star",
        outcome=Outcome.OK,
        options={"use_refinement": False, "num_inference_steps": 20, "seed": 3},
    ),
    Kind(
        name="hung_up",
        prompt=_PROMPT,
        outcome=Outcome.CANCELLED,
        options={"num_inference_steps": 90, "min_progress_interval": 0.0},
        close_after=3,
    ),
    Kind(
        name="high_guidance",
        prompt=_PROMPT,
        outcome=Outcome.OK,
        options=_SMALL | {"guidance_scale": 20.0, "output": OutputOptions(mime_type="image/jpeg", quality=80)},
    ),
    Kind(name="unknown_model", prompt=_PROMPT, outcome=Outcome.INVALID, options={"model": "no-such-model"}),
    Kind(
        name="batch_priority",
        prompt="two yellow squares",
        outcome=Outcome.OK,
        options=_SMALL | {"priority": Priority.BATCH, "output": OutputOptions(mime_type="image/webp")},
    ),
    Kind(
        name="deadline_too_short",
        prompt=_PROMPT,
        outcome=Outcome.REJECTED,
        # long enough that the refusal comes before the deadline itself, even from a machine that is busy
        options={"num_inference_steps": 100, "num_images": 4},
        timeout=1.0,
    ),
    Kind(
        name="ensemble",
        prompt=_PROMPT,
        outcome=Outcome.OK,
        options={
            "num_inference_steps": 20,
            "refiner": RefinerOptions(mode=RefinerMode.ENSEMBLE, switch_at=0.7),
            "preview_count": 2,
        },
    ),
)
"""For a server on a model that really draws, the embedded pair above all."""

_FAKE = GenerationKeywords(num_inference_steps=20, width=128, height=128, refiner=RefinerOptions(num_inference_steps=6))

FAKE_MIX: Final = (
    Kind(name="plain", prompt="a cat", outcome=Outcome.OK, options=_FAKE),
    Kind(
        name="deadline_before_refiner",
        prompt="a cat",
        outcome=Outcome.DEGRADED,
        # Heun's steps cost two evaluations: the refiner's 199 take longer than the deadline, the base's 39 do not
        options=_FAKE | {"scheduler": "HeunDiscreteScheduler", "refiner": RefinerOptions(num_inference_steps=100)},
        timeout=4.0,
    ),
    Kind(name="refiner_oom", prompt="a cat {refiner:oom@2}", outcome=Outcome.DEGRADED, options=_FAKE),
    Kind(name="several_images", prompt="two cats", outcome=Outcome.OK, options=_FAKE | {"num_images": 4}),
    Kind(name="refiner_nan", prompt="a cat {refiner:nan@1}", outcome=Outcome.DEGRADED, options=_FAKE),
    Kind(
        name="no_fallback",
        prompt="a cat {refiner:nan}",
        outcome=Outcome.ERROR,
        options=_FAKE | {"allowed_fallbacks": ()},
    ),
    Kind(name="refiner_error", prompt="a cat {refiner:error}", outcome=Outcome.DEGRADED, options=_FAKE),
    Kind(name="base_nan", prompt="a cat {base:nan@5}", outcome=Outcome.ERROR, options=_FAKE),
    Kind(name="stall", prompt="a cat {base:stall=0.4@3}", outcome=Outcome.OK, options=_FAKE),
    Kind(
        name="cancelled",
        prompt="a long cat",
        outcome=Outcome.CANCELLED,
        options=_FAKE | {"num_inference_steps": 100, "min_progress_interval": 0.0},
        cancel_after=3,
    ),
    Kind(name="base_oom", prompt="a cat {base:oom@5}", outcome=Outcome.ERROR, options=_FAKE),
    Kind(
        name="deadline_in_base",
        prompt="a cat {base:stall=1.2@4}",
        outcome=Outcome.DEADLINE,
        options=_FAKE,
        timeout=1.0,
    ),
    Kind(
        name="slow_reader",
        prompt="a cat {noise}",
        outcome=Outcome.OK,
        options=_FAKE | {"width": 512, "height": 512},
        pause=0.1,
    ),
    Kind(name="invalid", prompt="", outcome=Outcome.INVALID, options=_FAKE | {"num_inference_steps": 0}),
    Kind(name="crowd", prompt="a crowd", outcome=Outcome.OK, options=_FAKE, crowd=True),
)
"""For a server on the fake model: every fault that one can recover from."""
