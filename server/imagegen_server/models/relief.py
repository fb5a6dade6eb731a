"""What is given up, one after the other, when the device's memory runs out.

    1. CUDA graphs: their pool holds the activations of the largest batch a second time
    2. rows: the engine runs smaller batches (`engine/advance.py`)
    3. whole decodes: the VAE decodes overlapping tiles, for callers that allow it
    4. residency: parts of the model take turns on the device
    5. the generation, with RESOURCE_EXHAUSTED

Each rung is taken for good, since what did not fit once will hardly fit the next time, and is told to the engine. Only
for images larger than the native size, of which there may be few, graphs are freed and captured again.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagegen_server.core import LATENT_FACTOR, Adaptation, FallbackKind, Feature, Job, MemoryPlan, Stage
from imagegen_server.models.evaluation.forward import Evaluate, Plain
from imagegen_server.models.evaluation.graphs import Graphed
from imagegen_server.models.evaluation.preparation import pipelines
from imagegen_server.models.failures import device_failure, free_cached_memory
from imagegen_server.models.memory.residency import Swapper
from imagegen_server.models.pair import LoadedPair

Shape = tuple[int, int]


class Relief:
    """Frees device memory step by step. For the device thread."""

    def __init__(self, unets: dict[Stage, Evaluate]) -> None:
        """Takes how the UNets are evaluated, which is changed in place."""
        self._unets = unets
        self._tiled: set[Shape] = set()
        self._taken: list[Adaptation] = []

    def take(self, pair: LoadedPair, stage: Stage, jobs: Sequence[Job], shape: Shape) -> bool:
        """Takes the next rung for a step of these jobs that ran out of memory, and frees what is not used.

        `pair` is changed in place; `shape` is the latent's height and width. Returns whether to try the step again.
        Raises DeviceLost, or OutOfDeviceMemory where even that takes more than there is.
        """
        try:
            free_cached_memory(pair.device)
            taken = self._next(pair, stage, jobs, shape)
            free_cached_memory(pair.device)
            return taken
        except Exception as error:
            failure = device_failure(error, stage)
            if failure is None:
                raise
        raise failure  # outside the handler, whose exception keeps tensors alive

    def _next(self, pair: LoadedPair, stage: Stage, jobs: Sequence[Job], shape: Shape) -> bool:
        if shape[0] * shape[1] > pair.profile.native_area:
            if self._free_graphs():
                return True
        elif self._drop_graphs(pair, "their memory is needed"):
            return True
        if len(jobs) > 1 and stage in self._unets:
            return False  # the engine tries fewer
        return self._decode_in_tiles(stage, jobs, shape) or self._swap(pair)

    def tiled(self, job: Job, shape: Shape) -> bool:
        """Returns whether a job's latent of that shape is to be decoded in tiles."""
        return shape in self._tiled and FallbackKind.TILED_DECODE in job.request.allowed_fallbacks

    def note(self, feature: Feature, message: str, memory_plan: MemoryPlan | None = None) -> None:
        """Notes something that was given up; what is noted twice is told once."""
        adaptation = Adaptation(feature=feature, message=message, memory_plan=memory_plan)
        if adaptation not in self._taken:
            self._taken.append(adaptation)

    def adaptations(self) -> Sequence[Adaptation]:
        """Returns what was given up since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        """Frees all graphs, and lets go of the UNets."""
        for unet in self._unets.values():
            unet.clear()
        self._unets.clear()

    def _free_graphs(self) -> bool:
        """Frees the graphs that there are, until they are captured again."""
        captured = [unet for unet in self._unets.values() if isinstance(unet, Graphed) and unet.captured_keys()]
        for unet in captured:
            unet.clear()
        return bool(captured)

    def _drop_graphs(self, pair: LoadedPair, why: str) -> bool:
        """Frees all graphs and captures no more."""
        graphed = [stage for stage, unet in self._unets.items() if isinstance(unet, Graphed)]
        for stage in graphed:
            self._unets[stage].clear()
            self._unets[stage] = Plain(pipelines(pair)[stage].unet)
        if graphed:
            self.note(Feature.CUDA_GRAPHS, why)
        return bool(graphed)

    def _decode_in_tiles(self, stage: Stage, jobs: Sequence[Job], shape: Shape) -> bool:
        allowed = any(FallbackKind.TILED_DECODE in job.request.allowed_fallbacks for job in jobs)
        if stage is not Stage.VAE_DECODE or shape in self._tiled or not allowed:
            return False
        self._tiled.add(shape)
        self.note(
            Feature.FULL_DECODE, f"{shape[1] * LATENT_FACTOR}x{shape[0] * LATENT_FACTOR} images are decoded in tiles"
        )
        return True

    def _swap(self, pair: LoadedPair) -> bool:
        if not pair.smaller:
            return False
        self._drop_graphs(pair, "the weights that they read no longer stay where they are")
        planned = pair.smaller[0]
        pair.activate = Swapper(planned.layout, pair.modules(), pair.device).activate
        pair.layout, pair.memory_plan, pair.smaller = planned.layout, planned.plan, pair.smaller[1:]
        self.note(Feature.RESIDENCY, pair.layout.summary, pair.memory_plan)
        return True
