"""Schedulers: which of diffusers' compatible classes run here, and a fresh instance for each job and stage."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps

from imagegen_server.errors import NotFound
from imagegen_server.models.quiet import scheduler_configured

_TRIAL_STEPS = 4
_CACHED_SCHEDULES = 256


def available_schedulers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the sorted names of the schedulers that run with a model's scheduler configuration.

    These are the class that the configuration names (EulerDiscreteScheduler if none) and all that diffusers lists
    as compatible with it, less those whose optional packages are missing (torchsde, scipy) or that refuse the
    configuration.
    """
    return tuple(sorted(SchedulerFactory(config).names))


class SchedulerFactory:
    """Makes schedulers for one pipeline. Thread-safe: its prototypes are copied, never used.

    A copy costs a quarter of a millisecond, while some classes take 80 ms to make and up to 150 ms to set up.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._prototypes = _prototypes(config)
        self._set_up = lru_cache(maxsize=_CACHED_SCHEDULES)(self._set_up_anew)

    @property
    def names(self) -> frozenset[str]:
        """Class names that `make` accepts."""
        return frozenset(self._prototypes)

    def make(self, name: str) -> Any:
        """Returns a new scheduler, as `from_config` of the class gives it. Raises NotFound for an unknown name."""
        prototype = self._prototypes.get(name)
        if prototype is None:
            raise NotFound("scheduler", name, f"no scheduler {name}; there are {', '.join(sorted(self._prototypes))}")
        return copy.deepcopy(prototype)

    def prepare(self, name: str, num_inference_steps: int) -> Any:
        """Returns a new scheduler with its timesteps set, on the CPU.

        Schedulers index CPU tables with timesteps: on a GPU each step would make the host wait for the device. The
        values are the same. Raises NotFound for an unknown name and ValueError where the scheduler does.
        """
        return copy.deepcopy(self._set_up(name, num_inference_steps))

    def _set_up_anew(self, name: str, num_inference_steps: int) -> Any:
        scheduler = self.make(name)
        with scheduler_configured():
            retrieve_timesteps(scheduler, num_inference_steps, torch.device("cpu"))
        return scheduler


def _prototypes(config: Mapping[str, Any]) -> dict[str, Any]:
    own = config.get("_class_name", "EulerDiscreteScheduler")
    prototypes: dict[str, Any] = {}
    with scheduler_configured():
        # `compatibles` of an instance would do, but it is a property of the instance and these are its class's.
        for name in {own, *getattr(diffusers, own)._compatibles}:
            prototype = _prototype(name, config)
            if prototype is not None:
                prototypes[name] = prototype
    return prototypes


def _prototype(name: str, config: Mapping[str, Any]) -> Any | None:
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config"):
        return None
    try:
        scheduler = scheduler_class.from_config(dict(config))
        copy.deepcopy(scheduler).set_timesteps(_TRIAL_STEPS)
    except (ImportError, NotImplementedError, ValueError):
        return None  # an optional package is missing, or the class refuses the configuration: not on offer
    return scheduler
