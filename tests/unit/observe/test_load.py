"""What the load is made of, and how an error of the client is counted."""

from __future__ import annotations

import json

import pytest

from imagegen import errors
from imagegen_server.core import Outcome
from imagegen_server.models.fake.script import parse_script
from imagegen_server.observe.__main__ import ILL_GPU, WELL_GPU
from imagegen_server.observe.kinds import FAKE_ARGUMENTS, FAKE_MIX, MODEL_MIX, Kind
from imagegen_server.observe.load import outcome_of
from imagegen_server.settings import parse
from imagegen_server.telemetry import parse_gpu_script


@pytest.mark.parametrize(
    ("error", "accepted", "outcome"),
    [
        (errors.QueueFullError, False, Outcome.REJECTED),
        (errors.ServiceUnavailableError, False, Outcome.REJECTED),
        (errors.DeadlineExceededError, False, Outcome.REJECTED),
        (errors.DeadlineExceededError, True, Outcome.DEADLINE),
        (errors.ServiceUnavailableError, True, Outcome.ERROR),
        (errors.OutOfMemoryError, True, Outcome.ERROR),
        (errors.InternalError, True, Outcome.ERROR),
        (errors.InvalidRequestError, False, Outcome.INVALID),
        (errors.NotFoundError, False, Outcome.INVALID),
        (errors.GenerationCancelledError, True, Outcome.CANCELLED),
    ],
)
def test_errors_are_counted_as_the_server_counts_them(
    error: type[errors.ImageGenError], accepted: bool, outcome: Outcome
) -> None:
    """A refusal comes before the plan, a failure after it."""
    assert outcome_of(error("because"), accepted=accepted) is outcome


@pytest.mark.parametrize("mix", [MODEL_MIX, FAKE_MIX])
def test_kinds_have_names_of_their_own(mix: tuple[Kind, ...]) -> None:
    """They are told apart in what `on_end` hears."""
    assert len({kind.name for kind in mix}) == len(mix)


def test_together_the_mixes_end_in_every_way() -> None:
    """Every outcome but the crowd's refusals is somebody's purpose."""
    assert {kind.outcome for kind in (*MODEL_MIX, *FAKE_MIX)} == set(Outcome)
    assert any(kind.crowd for kind in FAKE_MIX)


def test_the_servers_arguments_are_valid() -> None:
    """The fake server's, and both simulated GPUs."""
    settings = parse([*FAKE_ARGUMENTS, f"--gpu-script={ILL_GPU}"], {})
    assert parse_script(settings.fake_script).evaluation > 0
    for script in (settings.gpu_script, WELL_GPU):
        parse_gpu_script(script)
        assert json.loads(script)
