"""What a starting server must not import, and that what is deferred is there when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[2]
UNNEEDED = frozenset(
    {
        "scipy.integrate",
        "scipy.optimize",
        "scipy.stats",
        "IPython",
        "jax",
        "matplotlib",
        "pandas",
        "pytest",
        "sklearn",
        "tensorflow",
        "torch._dynamo",
        "torchvision",
        "imagegen_server.observe",
        "imagegen_server.shapes.judge",
        "imagegen_server.shapes.train",
        "imagegen_server.top",
        "opentelemetry",
    }
)
"""Each costs time at every start and gives a server on a CPU nothing; `-X importtime` says how much."""

PROGRAM = """
import json, sys
from imagegen_server import app, models
from imagegen_server.core import Job
runner = models.load_runner("shapes", models.ModelOptions(device="cpu"))
started = sorted(sys.modules)
sys.path.insert(0, sys.argv[1])
from support.pairs import image_to_image, request
failures = []
for scheduler in ("EulerDiscreteScheduler", "LMSDiscreteScheduler"):
    refiner = image_to_image(num_inference_steps=1, strength=0.3)
    asked = request(model="shapes", scheduler=scheduler, num_inference_steps=4, width=64, height=64, refiner=refiner)
    job = Job(asked, 0)
    for planned in runner.plan(asked).stages:
        for _ in range(planned.evaluations):
            failures += [str(r.failure) for r in runner.step(planned.stage, [job]) if r.failure is not None]
    runner.release(job)
    if scheduler == "EulerDiscreteScheduler":
        used = sorted(sys.modules)
after = sorted(sys.modules)
import torch
compiled = torch.compile(runner._pair.base.unet.time_embedding, backend="eager", fullgraph=True)
noise = torch.randn(1, compiled.linear_1.in_features)
same = torch.equal(compiled(noise), runner._pair.base.unet.time_embedding(noise))
told = {"started": started, "used": used, "after": after, "failures": failures, "compiled": same}
told["real"] = torch._dynamo.__file__
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """A process that loads the embedded pair as a server does, and generates with and without scipy."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_start_imports_nothing_that_serving_does_not_need(told: dict[str, Any]) -> None:
    assert not UNNEEDED & set(told["started"])


def test_an_image_of_the_default_scheduler_imports_nothing_more(told: dict[str, Any]) -> None:
    """The first caller does not wait for imports."""
    assert not {name for name in set(told["used"]) - set(told["started"]) if name.startswith(("scipy", "torch"))}


def test_what_was_deferred_works_when_it_is_asked_for(told: dict[str, Any]) -> None:
    """The LMS scheduler integrates with scipy."""
    assert told["failures"] == []
    assert "scipy.integrate" in told["after"]
    assert told["compiled"] is True
    assert str(told["real"]).endswith("__init__.py")


def test_what_stands_for_a_module_gives_the_real_one_when_it_is_used() -> None:
    """Inside the context too: called or asked for an attribute, it makes way for the module."""
    program = """
import sys
from imagegen_server.models.light_imports import light_imports
import torch
with light_imports(compiler=False):
    from torch._dynamo import config, list_backends, allow_in_graph, disable
    assert allow_in_graph(int) is int and disable(int) is int and disable(recursive=False)(int) is int
    assert "eager" in list_backends(exclude_tags=())
    assert sys.modules["torch._dynamo"].__file__
    assert config.cache_size_limit > 0
with light_imports(compiler=True):
    assert sys.modules["torch._dynamo"].__file__
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
