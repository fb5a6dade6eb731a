"""Schedulers: which of diffusers' compatible classes run here, and a fresh instance for each job and stage."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps

from imagegen_server.errors import NotFound
from imagegen_server.models.quiet import scheduler_configured

_TRIAL_STEPS = 4
_TRIAL_TRAIN_TIMESTEPS = 40
"""Enough for every class; some take half a second for the usual thousand."""
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

    A copy costs a quarter of a millisecond, while some classes take 0.1 to 0.5 s to make, once they are asked for, and
    as long to set up.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._names = _running(json.dumps(self._config, sort_keys=True))
        self._prototype = cache(partial(_made, config=self._config))
        self._set_up = lru_cache(maxsize=_CACHED_SCHEDULES)(self._set_up_anew)

    @property
    def names(self) -> frozenset[str]:
        """Class names that `make` accepts."""
        return self._names

    def make(self, name: str) -> Any:
        """Returns a new scheduler, as `from_config` of the class gives it. Raises NotFound for an unknown name."""
        if name not in self._names:
            raise NotFound("scheduler", name, f"no scheduler {name}; there are {', '.join(sorted(self._names))}")
        return copy.deepcopy(self._prototype(name))

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


@cache
def _running(config_text: str) -> frozenset[str]:
    """Returns the names of the classes that run with a configuration in JSON, as diffusers keeps it in a file."""
    config = json.loads(config_text)
    own = config.get("_class_name", "EulerDiscreteScheduler")
    # `compatibles` of an instance would do, but it is a property of the instance and these are its class's.
    return frozenset(name for name in {own, *getattr(diffusers, own)._compatibles} if _runs(name, config))


def _runs(name: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a class takes a configuration and can be set up, tried with a short table of sigmas."""
    if not hasattr(getattr(diffusers, name, None), "from_config"):
        return False
    given = set(config.get("_use_default_values", ())) - {"num_train_timesteps"}  # what diffusers would set back
    short = {**config, "num_train_timesteps": _TRIAL_TRAIN_TIMESTEPS, "_use_default_values": sorted(given)}
    if short.get("trained_betas") is not None:
        short["trained_betas"] = short["trained_betas"][:_TRIAL_TRAIN_TIMESTEPS]
    try:
        with scheduler_configured():
            _made(name, short).set_timesteps(_TRIAL_STEPS)
    except (ImportError, NotImplementedError, ValueError):
        return False  # an optional package is missing, or the class refuses the configuration: not on offer
    return True


def _made(name: str, config: Mapping[str, Any]) -> Any:
    with scheduler_configured():
        return getattr(diffusers, name).from_config(dict(config))
