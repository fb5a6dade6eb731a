"""What a starting server must not import, and that what is deferred is there when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagegen_server.models.imports.light import without_distribution

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
        "diffusers.models.transformers.transformer_flux",
        "mpmath",
        "sklearn",
        "sympy",
        "tensorflow",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
        "torch.fx.experimental.symbolic_shapes",
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
exported = "BertModel" in sys.modules["transformers"]._class_to_module
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
told["exported"] = exported
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
    assert not told["exported"], "the sources of all of transformers' models were read"


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
from imagegen_server.models.imports.light import light_imports
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
    _run(program)


def test_symbolic_sizes_are_answered_for_numbers_as_torch_does() -> None:
    """Without torch's module for whole numbers and truth values, by it for anything else."""
    program = """
import itertools, sys
from imagegen_server.models.imports.light import SYMBOLS, light_imports
import torch
cases = {
    "expect_true": [(True,), (False,)],
    "guard_or_false": [(True,), (False,)],
    "guard_or_true": [(True,), (False,)],
    "is_nested_int": [(0,), (7,)],
    "sym_and": list(itertools.product((True, False), repeat=2)) + [(True,), (False,)],
    "sym_eq": [(2, 2), (2, 3), ((1, 2), (1, 2)), ((1, 2), (1, 3)), ((1, 2), (1, 2, 3)), ((), ())],
    "sym_or": list(itertools.product((True, False), repeat=2)) + [(True,), (False,)],
}
def answers():
    module = __import__(SYMBOLS, fromlist=["_"])
    found = {name: [] for name in cases}
    for name, given in cases.items():
        for arguments in given:
            try:
                found[name].append(bool(getattr(module, name)(*arguments)))
            except Exception as error:
                found[name].append(type(error).__name__)
    return found, module
with light_imports(compiler=False):
    fast, stand_in = answers()
    assert "sympy" not in sys.modules
    assert torch.zeros(2, 3, device="meta").shape == (2, 3)
    late = stand_in.ShapeEnv
    assert not isinstance(1, late)
    assert "sympy" in sys.modules
    class Mine(late):
        pass
    assert isinstance(Mine(), late) and stand_in.is_nested_int("no number") is False
real, module = answers()
assert module is not stand_in
assert fast == real, (fast, real)
with light_imports(compiler=False):
    assert sys.modules[SYMBOLS] is module
"""
    _run(program)


def test_the_libraries_see_a_torch_without_distribution_and_nobody_else_does() -> None:
    import torch

    before = torch.distributed.is_available
    with without_distribution():
        assert not torch.distributed.is_available()
    assert torch.distributed.is_available is before
    with pytest.raises(ImportError), without_distribution():
        raise ImportError
    assert torch.distributed.is_available is before


def test_a_package_whose_init_did_not_run_still_has_everything() -> None:
    """Its modules come alone; what is no module of it makes its own `__init__` run, once."""
    program = """
import sys
from imagegen_server.models.imports.light import light_imports
from imagegen_server.models.imports.lazy import lazy_packages
with light_imports(compiler=False), lazy_packages():
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel
    import diffusers.models.transformers as flux
assert "diffusers.models.unets.unet_1d" not in sys.modules
unets = sys.modules["diffusers.models.unets"]
assert unets.unet_1d is sys.modules["diffusers.models.unets.unet_1d"]
assert "diffusers.models.unets.unet_motion_model" not in sys.modules
from diffusers.models.unets import UNet2DConditionModel as same, UNetMotionModel
assert same is UNet2DConditionModel
assert type(unets).__name__ == "module"
try:
    unets.nothing_of_the_kind
except AttributeError as error:
    assert "nothing_of_the_kind" in str(error)
else:
    raise AssertionError
from transformers.models.clip import CLIPTextModel as same
assert same is CLIPTextModel
from transformers import models
assert models.bert.BertConfig.__module__ == "transformers.models.bert.configuration_bert"
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers import FluxTransformer2DModel as same
assert same is FluxTransformer2DModel
assert not any(type(finder).__module__.startswith("imagegen_server") for finder in sys.meta_path)
"""
    _run(program)


EXPORTS = """
print(json.dumps([
    sorted(dir(transformers)),
    sorted(transformers.__all__),
    sorted(transformers._class_to_module.items()),
    sorted((name, sorted(str(one) for one in needs)) for name, needs in transformers._object_missing_backend.items()),
    sorted(transformers._modules),
]))
"""


def test_transformers_exports_everything_when_it_is_asked_for_more() -> None:
    """Whoever asks for another model, or for a list, gets what transformers exports by itself.

    A process for each, forked from one that has imported it.
    """
    by_itself = _run("import json, transformers\nfrom transformers import CLIPTextModel, BertConfig\n" + EXPORTS)
    asking = ("transformers.BertConfig", "transformers.__all__", "dir(transformers)")
    program = f"""
import json, os, sys
from imagegen_server.models.imports.exports import OTHERS, few_exports
with few_exports():
    import transformers
    from transformers import CLIPTextModel, modeling_utils
assert "BertConfig" not in transformers._class_to_module
assert not any(hasattr(transformers, name) for name in OTHERS)
assert "BertConfig" not in transformers._class_to_module
for asking in {asking}:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, asking
        continue
    assert eval(asking)
    assert transformers.BertConfig.__module__ == "transformers.models.bert.configuration_bert"
    assert not hasattr(transformers, "nothing_of_the_kind")
    assert not any(hasattr(transformers, name) for name in OTHERS)
    assert not any(type(finder).__module__.startswith("imagegen_server") for finder in sys.meta_path)
    break
else:
    sys.exit()
"""
    answers = _run(program + EXPORTS).splitlines(keepends=True)
    assert answers == [by_itself] * len(asking)


def test_an_unknown_export_is_looked_for_among_all() -> None:
    """And is as unknown as ever."""
    program = """
from imagegen_server.models.imports.exports import few_exports
with few_exports():
    try:
        from transformers import NothingOfTheKind
    except ImportError as error:
        assert "NothingOfTheKind" in str(error)
import transformers
assert "BertModel" in transformers._class_to_module
"""
    _run(program)


def _run(program: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
