"""An operator's limits bind those who ask for nothing as well: a real server on the fake model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from imagegen import Client
from support.live_server import live_server

FIRST: Final = ("--max-side=512", "--max-steps=30", "--max-guidance-scale=5", "--max-refiner-steps=10")
SECOND: Final = ("--min-steps=40", "--max-pixels=262144")


def test_a_bare_prompt_keeps_to_the_limits(tmp_path: Path) -> None:
    """The plan of a request that leaves all unset, and the defaults that are listed, lie within; the log names them."""
    with live_server(tmp_path, *FIRST) as server, Client(server.address) as client:
        plan = client.plan("a cat").plan
        assert (plan.size.width, plan.size.height) == (512, 512)
        assert {stage.stage: (stage.steps, stage.guidance_scale) for stage in plan.stages if stage.steps} == {
            "base": (30, 5.0),
            "refiner": (10, 5.0),
        }
        listed = client.models()[0].defaults
        assert (listed.num_inference_steps, listed.guidance_scale, listed.size.width) == (30, 5.0, 512)
        (line,) = server.log("defaults brought into the limits")
        assert (line["level"], line["width"], line["num_inference_steps"]) == ("warning", 512, 30)
        assert "fast_num_inference_steps" not in line  # they are 30 anyway


def test_less_quality_keeps_to_the_limits(tmp_path: Path) -> None:
    """What high_quality=false leaves unset is not below the least either."""
    with live_server(tmp_path, *SECOND) as server, Client(server.address) as client:
        plan = client.plan("a cat", high_quality=False).plan
        assert (plan.size.width, plan.size.height) == (512, 512)
        assert [stage.steps for stage in plan.stages if stage.stage == "base"] == [40]
