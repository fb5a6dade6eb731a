"""Schedulers: which of diffusers' compatible classes run here, and a fresh instance for each job and stage."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from typing import Any, Final

import diffusers
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import retrieve_timesteps

from imagegen_server.errors import NotFound
from imagegen_server.models.quiet import scheduler_configured

_TRIAL_STEPS = 4
_TRIAL_TRAIN_TIMESTEPS = 50
"""Enough for every class, unless LCM and TCD are told to select from more; some take half a second for the usual
thousand."""
_TRIAL_SHAPE = (1, 4, 2, 2)
_STEPS_WITH: Final = {"LMSDiscreteScheduler": ("epsilon", "v_prediction", "sample")}
"""Predictions with which a class is known to make a step: to try that would import scipy at every start."""
_CACHED_SCHEDULES = 256


def available_schedulers(*configs: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the sorted names of the schedulers that run with every one of some models' scheduler configurations.

    Of each these are the class that the configuration names (EulerDiscreteScheduler if none) and all that diffusers
    lists as compatible with it, less those whose optional packages are missing (torchsde, scipy), that refuse the
    configuration, or that expect another kind of model.
    """
    return tuple(sorted(frozenset.intersection(*(SchedulerFactory(config).names for config in configs))))


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
    listed = {own, *getattr(diffusers, own)._compatibles}
    fitting = (name for name in listed if _is_preconditioned(name) == _is_preconditioned(own))
    return frozenset(name for name in fitting if _runs(name, config))


def _is_preconditioned(name: str) -> bool:
    """Returns whether a class scales inputs and outputs as EDM's training does; other models draw something else so.

    diffusers lists EDMEulerScheduler as compatible with every model's scheduler.
    """
    return name.startswith("EDM")


def _runs(name: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a class takes a configuration and makes a step, tried with a short table of sigmas."""
    if not hasattr(getattr(diffusers, name, None), "from_config"):
        return False
    try:
        with scheduler_configured(), torch.random.fork_rng(devices=()):
            _make_a_step(_made(name, _shortened(config)))
    except Exception:  # noqa: BLE001 - for want of a package, or whatever it does not get on with: not on offer
        return False
    return True


def _shortened(config: Mapping[str, Any]) -> dict[str, Any]:
    timesteps = max(_TRIAL_TRAIN_TIMESTEPS, config.get("original_inference_steps") or 0)
    given = set(config.get("_use_default_values", ())) - {"num_train_timesteps"}  # what diffusers would set back
    short = {**config, "num_train_timesteps": timesteps, "_use_default_values": sorted(given)}
    if short.get("trained_betas") is not None:
        short["trained_betas"] = short["trained_betas"][:timesteps]
    return short


def _make_a_step(scheduler: Any) -> None:
    """Raises whatever the class raises where it cannot be set up, or cannot make a step."""
    scheduler.set_timesteps(_TRIAL_STEPS)
    if scheduler.config.get("prediction_type") in _STEPS_WITH.get(type(scheduler).__name__, ()):
        return
    timestep, latents = scheduler.timesteps[0], torch.zeros(_TRIAL_SHAPE)
    scheduler.step(scheduler.scale_model_input(latents, timestep), timestep, latents)


def _made(name: str, config: Mapping[str, Any]) -> Any:
    with scheduler_configured():
        return getattr(diffusers, name).from_config(dict(config))
