"""Pairs as others save, edit and damage them: what is loaded as diffusers loads it, and how the rest is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagegen_server.errors import StartupError, WeightsUnavailable
from imagegen_server.models import ModelOptions, diagnose, load_runner
from imagegen_server.models.loading import LoadOptions, load_pair
from imagegen_server.models.memory.parts import directory_parts
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.profiles import bare_profile
from imagegen_server.models.sdxl_runner import SDXLRunner
from imagegen_server.warm_up import warm_up_request
from support.denoising import jobs_of, pixels_of
from support.model_files import (
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    VAE,
    as_variant,
    drop_weights,
    edit,
    own_first_encoder,
    perturb,
    shard,
    use_scheduler,
)
from support.pairs import load_stock

PROFILE = bare_profile("shapes")
CPU = LoadOptions(device="cpu")


@pytest.fixture
def pair(shapes_directory: Path, tmp_path: Path) -> Path:
    """The embedded pair's files, which a test may spoil."""
    return shutil.copytree(shapes_directory, tmp_path / "pair")


def loaded(pair: Path, *, refiner: bool = True, precision: str = "fp32") -> LoadedPair:
    options = LoadOptions(device="cpu", precision=precision)
    return load_pair(PROFILE, base=pair / "base", refiner=pair / "refiner" if refiner else None, options=options)


def options_of(pair: Path, *, refiner: bool = True) -> ModelOptions:
    """As an operator names the pair."""
    return ModelOptions(
        device="cpu", base=str(pair / "base"), refiner_source=str(pair / "refiner"), refiner=refiner, tuning="none"
    )


def draws(pair: LoadedPair) -> None:
    """Draws what a server draws before it serves."""
    runner = SDXLRunner(pair)
    (image,) = pixels_of(runner, jobs_of(warm_up_request(runner.describe().profile)))
    assert image.std() > 1
    runner.close()


def test_what_diffusers_saves_is_loaded(shapes_directory: Path, tmp_path: Path) -> None:
    """`save_pretrained` writes every setting, unset ones as null."""
    stock = load_stock(shapes_directory)
    for name, pipeline in (("base", stock.base), ("refiner", stock.refiner)):
        pipeline.save_pretrained(tmp_path / name)
    saved = json.loads((tmp_path / "base/scheduler/scheduler_config.json").read_text())
    assert saved["sigma_min"] is None
    draws(loaded(tmp_path))


@pytest.mark.parametrize("name", ["LCMScheduler", "EDMDPMSolverMultistepScheduler"])
def test_a_model_with_a_scheduler_of_another_family_has_that_by_default(
    pair: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the only one on offer, and the log says that it is not the profile's."""
    for half in ("base", "refiner"):
        use_scheduler(pair / half, name, prediction_type="epsilon")
    found = loaded(pair)
    assert (found.profile.schedulers, found.profile.defaults.scheduler) == ((name,), name)
    assert f"the default scheduler is {name}" in caplog.text
    draws(found)


def test_a_pair_without_a_common_scheduler_is_refused_with_what_to_do(pair: Path) -> None:
    """One scheduler draws both stages; the base may run alone, unless nothing runs it."""
    use_scheduler(pair / "base", "EDMEulerScheduler", prediction_type="epsilon")
    with pytest.raises(StartupError, match=r"EDMEulerScheduler and EulerDiscreteScheduler\).*--no-use-refiner"):
        loaded(pair)
    assert loaded(pair, refiner=False).profile.schedulers == ("EDMEulerScheduler",)
    use_scheduler(pair / "base", "FlowMatchEulerDiscreteScheduler")
    with pytest.raises(StartupError, match=r"\(FlowMatchEulerDiscreteScheduler\)$"):
        loaded(pair, refiner=False)


def test_a_refiners_own_first_encoder_is_a_part_of_the_pair(pair: Path) -> None:
    """It is planned, moved and swapped under a name of its own; the second is the base's whatever the files say."""
    own_first_encoder(pair)
    perturb(pair / "refiner" / TEXT_ENCODER_2)
    found = loaded(pair)
    modules = found.modules()
    assert modules["refiner.text_encoder"] is found.refiner.text_encoder is not found.base.text_encoder
    assert found.refiner.text_encoder_2 is found.base.text_encoder_2
    planned = {size.name: size.parameters for size in found.memory_plan.components}
    assert planned == {name: sum(each.numel() for each in module.parameters()) for name, module in modules.items()}
    assert planned["refiner.text_encoder"] == planned["text_encoder"]


def test_modules_may_come_in_different_variants(pair: Path) -> None:
    """Each is read from the full file where there is one, in full precision; what is planned is what is read."""
    as_variant(pair / "base" / UNET)
    shutil.copyfile(pair / "base" / VAE, pair / "base" / VAE.replace(".safetensors", ".fp16.safetensors"))
    perturb(pair / "base" / VAE.replace(".safetensors", ".fp16.safetensors"))
    found, stock = loaded(pair), load_stock_of_full_files(pair)
    assert found.base.unet.dtype is torch.float32
    for name in ("unet", "vae"):
        mine, theirs = getattr(found.base, name).state_dict(), getattr(stock, name).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert loaded(pair, precision="bf16").base.unet.dtype is torch.bfloat16


def load_stock_of_full_files(pair: Path) -> object:
    """The base as diffusers loads it when no file is a variant."""
    whole = shutil.copytree(pair, pair.with_name("whole"))
    for file in whole.rglob("*.fp16.safetensors"):
        full = file.with_name(file.name.replace(".fp16", ""))
        if full.exists():
            file.unlink()
        else:
            file.rename(full)
    return load_stock(whole).base


def test_shards_are_loaded_and_counted(pair: Path) -> None:
    """Of either library."""
    before = directory_parts(pair / "base", None, half=False)
    for name in (UNET, TEXT_ENCODER_2):
        shard(pair / "base" / name)
    assert directory_parts(pair / "base", None, half=False) == before
    loaded(pair)


Damage = Callable[[Path], object]

LACKING: dict[str, tuple[str, str]] = {
    "text_encoder": (TEXT_ENCODER, "layers.0.mlp.fc1"),
    "text_encoder_2": (TEXT_ENCODER_2, "text_projection"),
    "unet": (UNET, "conv_in.bias"),
    "vae": (VAE, "decoder.conv_in"),
}


@pytest.mark.parametrize("component", LACKING)
def test_missing_weights_are_refused_by_name(pair: Path, component: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No weights are drawn at random for them; the libraries' own tables stay out of sight."""
    file, part = LACKING[component]
    drop_weights(pair / "base" / file, part)
    capfd.readouterr()
    with pytest.raises(WeightsUnavailable, match=rf"base cannot be loaded: the weights of {component} lack: .*{part}"):
        loaded(pair)
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_shape_are_refused_by_name(pair: Path) -> None:
    """Of the text encoders, too, whose library says so in a table only."""
    edit(pair / "base" / "text_encoder" / "config.json", intermediate_size=24)
    with pytest.raises(WeightsUnavailable, match=r"the weights of text_encoder have another shape: .*fc1"):
        loaded(pair)


def test_position_ids_are_no_weights(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files from before transformers left them out have them, those of Stable Diffusion XL among them."""
    file = pair / "base" / TEXT_ENCODER
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file({**load_file(file), **ids}, file, metadata={"format": "pt"})
    loaded(pair, refiner=False)
    assert caplog.records == []


def test_weights_that_are_left_over_are_one_line_in_the_log(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A layer less than the file has: as diffusers loads it."""
    config = pair / "base" / "text_encoder" / "config.json"
    edit(config, num_hidden_layers=json.loads(config.read_text())["num_hidden_layers"] - 1)
    loaded(pair, refiner=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "weights for which text_encoder has no place" in line
    assert "\n" not in line


QUANTIZED = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def swap(pair: Path) -> None:
    """Names the base as the refiner, and the other way round."""
    (pair / "base").rename(pair / "other")
    (pair / "refiner").rename(pair / "base")
    (pair / "other").rename(pair / "refiner")


def cut(file: Path) -> None:
    """Leaves out the last bytes of a file."""
    file.write_bytes(file.read_bytes()[:-1000])


def spoil_index(pair: Path) -> None:
    """Divides the UNet's weights, and leaves an index that names nothing."""
    shard(pair / "base" / UNET)
    (pair / "base" / f"{UNET}.index.json").write_text("{}")


DAMAGED: dict[str, tuple[Damage, str, bool]] = {
    "swapped": (swap, "base is no base", True),
    "cut": (lambda pair: cut(pair / "base" / TEXT_ENCODER), r"text_encoder/model\.safetensors has", True),
    "index": (spoil_index, "is no index of shards", True),
    "no index": (lambda pair: shard(pair / "base" / UNET, index=False), "without their index", True),
    "json": (lambda pair: (pair / "base/vae/config.json").write_text("{"), r"vae/config\.json cannot be read", True),
    "quantized": (
        lambda pair: edit(pair / "base/text_encoder/config.json", quantization_config=QUANTIZED),
        "base cannot be loaded: text_encoder: ",
        False,
    ),
    "no scheduler": (
        lambda pair: use_scheduler(pair / "base", "NoSuchScheduler"),
        "base cannot be loaded: .*NoSuchScheduler",
        False,
    ),
}
"""What is done to the pair, what is said of it, and whether the doctor finds it out without loading."""


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_loaded_is_refused_with_its_place(pair: Path, name: str) -> None:
    """In one error that ends a start with its own status, whatever a library raised; the doctor says the same."""
    damage, message, seen = DAMAGED[name]
    damage(pair)
    with pytest.raises(WeightsUnavailable, match=message):
        load_runner("sdxl", options_of(pair))
    report = diagnose("sdxl", options_of(pair))
    assert report.healthy is not seen


def test_the_server_ends_with_its_own_status_and_no_table(pair: Path) -> None:
    """Lines of JSON, and the reason."""
    drop_weights(pair / "base" / TEXT_ENCODER, "layers.0")
    command = [sys.executable, "-m", "imagegen_server", "--model", "sdxl", "--base", str(pair / "base")]
    command += ["--port", "0", "--metrics-port", "none", "--no-use-refiner", "--device", "cpu", "--log-format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    *log, reason = ended.stderr.splitlines()
    assert "the weights of text_encoder lack" in reason
    assert [json.loads(line) for line in log]
