"""Which schedulers are on offer, and that their instances share nothing."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import diffusers
import pytest
import torch
from diffusers import KDPM2DiscreteScheduler

from imagegen_server.errors import NotFound
from imagegen_server.models.stages.schedulers import SchedulerFactory, available_schedulers
from support.pairs import scheduler_config

CONFIG = scheduler_config() | {"clip_sample": False}


def own_config(name: str, **settings: Any) -> dict[str, Any]:
    """Returns the configuration of a model whose own scheduler is of a class."""
    return dict(getattr(diffusers, name).from_config(CONFIG | settings | {"_class_name": name}).config)


def test_what_is_offered_is_sorted_and_without_repetition() -> None:
    """The names are in alphabetical order, each once."""
    names = available_schedulers(CONFIG)
    assert list(names) == sorted(set(names))


def test_the_compatible_schedulers_are_offered() -> None:
    """First-order, second-order, ancestral and multistep schedulers are all there."""
    offered = set(available_schedulers(CONFIG))
    assert {
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "UniPCMultistepScheduler",
    } <= offered


def test_a_scheduler_that_lacks_its_package_is_not_offered() -> None:
    """DPMSolverSDEScheduler is listed by diffusers always, and offered exactly if torchsde is installed."""
    installed = importlib.util.find_spec("torchsde") is not None
    assert ("DPMSolverSDEScheduler" in available_schedulers(CONFIG)) == installed


def test_flow_matching_and_flax_schedulers_are_not_offered() -> None:
    """Nothing that SDXL's pipelines cannot drive is offered."""
    assert not [name for name in available_schedulers(CONFIG) if "Flow" in name or "Flax" in name]


def test_a_configuration_as_diffusers_saves_it_is_taken() -> None:
    """`save_pretrained` writes every setting, unset ones as null."""
    saved = {name: value for name, value in CONFIG.items() if not name.startswith("_use")}
    assert saved["sigma_min"] is None
    assert available_schedulers(saved) == available_schedulers(CONFIG)


@pytest.mark.parametrize(
    "name", ["LCMScheduler", "TCDScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"]
)
@pytest.mark.parametrize("settings", [{}, {"original_inference_steps": 100}])
def test_a_scheduler_of_another_family_is_offered_to_its_own_models(name: str, settings: dict[str, int]) -> None:
    """By itself: diffusers lists no compatible ones."""
    assert available_schedulers(own_config(name, **settings)) == (name,)


def test_a_model_that_is_not_trained_with_edm_gets_no_scheduler_of_edm() -> None:
    """It scales what the UNet gets and says, and would draw something else."""
    assert not [name for name in available_schedulers(CONFIG) if name.startswith("EDM")]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_what_is_offered_runs_to_its_end(prediction: str) -> None:
    """Not only its schedule can be made: classes know different predictions, and say so in the first step."""
    factory = SchedulerFactory(CONFIG | {"prediction_type": prediction})
    assert factory.names
    for name in factory.names:
        scheduler, latents = factory.prepare(name, 6), torch.ones(1, 4, 2, 2)
        for timestep in scheduler.timesteps:
            output = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(output, timestep, latents).prev_sample


def test_a_pair_is_offered_what_runs_in_both_stages() -> None:
    """A request names one scheduler for them."""
    sample = CONFIG | {"prediction_type": "sample"}
    both = available_schedulers(CONFIG, sample)
    assert set(both) == set(available_schedulers(CONFIG)) & set(available_schedulers(sample))
    assert available_schedulers(CONFIG, own_config("LCMScheduler")) == ()


def test_the_trial_leaves_the_random_numbers_alone() -> None:
    """Ancestral schedulers draw some in a step."""
    state = torch.get_rng_state()
    SchedulerFactory(scheduler_config(beta_end=0.0119))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_instance_is_what_from_config_gives() -> None:
    """A made scheduler has the configuration and the tables of one that diffusers makes."""
    made = SchedulerFactory(CONFIG).make("KDPM2DiscreteScheduler")
    stock_class: Any = KDPM2DiscreteScheduler
    stock = stock_class.from_config(CONFIG)
    assert dict(made.config) == dict(stock.config)
    assert made.sigmas.equal(stock.sigmas)


def test_instances_share_no_state() -> None:
    """Setting one instance's timesteps leaves the next one untouched."""
    factory = SchedulerFactory(CONFIG)
    factory.make("DPMSolverSinglestepScheduler").set_timesteps(7)
    fresh = factory.make("DPMSolverSinglestepScheduler")
    assert fresh.num_inference_steps is None
    assert len(fresh.timesteps) == 1000


def test_a_prepared_instance_is_the_callers_own() -> None:
    """Stepping one prepared scheduler leaves the next one for the same steps at its beginning."""
    factory = SchedulerFactory(CONFIG)
    first = factory.prepare("HeunDiscreteScheduler", 5)
    sample = torch.ones(1, 4, 2, 2)
    first.step(sample, first.timesteps[0], sample)
    first.timesteps.zero_()
    second = factory.prepare("HeunDiscreteScheduler", 5)
    assert second.step_index is None
    assert second.state_in_first_order
    assert len(second.timesteps) == 9
    assert second.timesteps[0] > second.timesteps[-1]


def test_an_unknown_name_is_not_found() -> None:
    """The error carries the kind and the name, and its message the names there are."""
    with pytest.raises(NotFound, match="EulerDiscreteScheduler") as caught:
        SchedulerFactory(CONFIG).make("TurboScheduler")
    assert (caught.value.kind, caught.value.name) == ("scheduler", "TurboScheduler")


@pytest.mark.parametrize("name", ["__init__", "StableDiffusionXLPipeline", "EulerDiscreteScheduler.from_config", ""])
def test_only_offered_names_are_looked_up(name: str) -> None:
    """A name is compared with what is offered; it never reaches an attribute look-up."""
    with pytest.raises(NotFound):
        SchedulerFactory(CONFIG).make(name)


def test_making_the_prototypes_writes_no_log_lines() -> None:
    """diffusers' remarks on settings that a class does not know are no news to an operator."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    library, listener = logging.getLogger("diffusers"), Listener()
    library.addHandler(listener)
    try:
        SchedulerFactory(CONFIG)
    finally:
        library.removeHandler(listener)
    assert lines == []
