"""What the engine asks of the object that owns the models and the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from imagegen_server.core import Adaptation, GenerationRequest, Job, LoadedModel, Plan, Stage, StepResult


class Runner(Protocol):
    """Owns the models and the device; the only object that touches tensors.

    All methods but `plan` and `describe` are called from one thread, the engine's device thread.
    """

    def plan(self, request: GenerationRequest) -> Plan:
        """Returns what the request will execute, exactly. Pure, cheap and callable from any thread.

        Raises `errors.NotFound` for an unknown scheduler, `errors.InvalidRequest` for a combination that a
        scheduler cannot run, and `errors.RefinerUnavailable` if the refiner is asked for, not loaded, and the
        fallback to the base is not allowed.
        """
        ...

    def describe(self) -> LoadedModel:
        """Returns what is loaded. Callable from any thread."""
        ...

    def step(self, stage: Stage, jobs: Sequence[Job]) -> Sequence[StepResult]:
        """Executes one evaluation of `stage` for every job and returns their results in the same order.

        - text_encode: the jobs are all images of one generation; prepares their `state`.
        - base, refiner: one UNet evaluation; jobs share the latent shape, nothing else. The first refiner
          evaluation of a job performs the hand-off.
        - vae_decode: decodes the latent of `job.decode_from`.

        A failure of one job is reported in its result and leaves the others advanced. If the call raises
        (OutOfDeviceMemory, DeviceLost or anything else) no job has advanced, and the engine may call again
        with fewer jobs.
        """
        ...

    def ahead(self) -> bool:
        """Returns whether the device may still be at the last step, which returned before it had ended.

        Whatever came before that step has ended.
        """
        ...

    def settle(self) -> None:
        """Waits until the device has done all that it was given."""
        ...

    def release(self, job: Job) -> None:
        """Frees what the job holds. Called exactly once for each job that was stepped, in whatever state it ended."""
        ...

    def adaptations(self) -> Sequence[Adaptation]:
        """Returns what the runner gave up since the last call, so that the engine can tell; usually nothing."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """Most device memory held since the last call of `reset_peak_memory`; None without a GPU."""
        ...

    def reset_peak_memory(self) -> None:
        """Begins a new measurement of `peak_memory_bytes`."""
        ...

    def close(self) -> None:
        """Frees the models. The runner is not used afterwards."""
        ...
