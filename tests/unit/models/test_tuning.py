"""The file that holds how a device runs fastest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen_server.engine import EngineSettings
from imagegen_server.errors import StartupError
from imagegen_server.models.evaluation.tuning import Identity, Tuning, TuningFile, default_path, read
from imagegen_server.models.factory import ModelOptions, chosen_tuning, identity_of, load_pair_of, load_runner
from imagegen_server.models.profiles import bare_profile

IDENTITY = Identity(device="NVIDIA H100 80GB HBM3", model="sdxl", precision="bf16", torch="2.11.0", diffusers="0.42.1")
TUNING = Tuning(
    compile="regional", compile_vae=True, rows={(128, 128): 4, (64, 64): 16}, warm=((2, 128, 128), (4, 128, 128))
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The file holds the tuning, what it is for and the figures; it can be read by people as well."""
    path = tmp_path / "below" / "t.json"
    tuning = dataclasses.replace(TUNING, rows={**TUNING.rows, (64, 96): 12}, warm=(*TUNING.warm, (2, 64, 96)))
    whole = TuningFile(identity=IDENTITY, tuning=tuning, measured=({"rows": 2, "ms_per_step": 40.5},))
    whole.write(path)
    assert read(path) == whole
    assert [child.name for child in path.parent.iterdir()] == ["t.json"]


def test_every_device_model_and_precision_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Names are safe for any file system."""
    names = {
        default_path(tmp_path, dataclasses.replace(IDENTITY, **change)).name
        for change in ({}, {"device": "NVIDIA GeForce RTX 5090"}, {"model": "synthetic-sdxl"}, {"precision": "fp16"})
    }
    assert len(names) == 4
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)


def test_what_differs_is_named() -> None:
    """Another version of torch may have another fastest way."""
    assert IDENTITY.differences(IDENTITY) == ()
    assert IDENTITY.differences(dataclasses.replace(IDENTITY, torch="2.6.0", device="a CPU")) == (
        "device is a CPU, not NVIDIA H100 80GB HBM3",
        "torch is 2.6.0, not 2.11.0",
    )


def _spoilt(**changes: Any) -> dict[str, Any]:
    tuning = {
        "cuda_graphs": True,
        "compile": "none",
        "channels_last": False,
        "compile_vae": False,
        "rows": {},
        "warm": [],
    }
    return {"format": 1, "identity": dataclasses.asdict(IDENTITY), "tuning": tuning | changes}


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    """Not the first fault only."""
    path = tmp_path / "t.json"
    spoilt = _spoilt(cuda_graphs="yes", compile="all", rows={"128": 4}, warm=[[2, 128]])
    spoilt["identity"].pop("torch")
    path.write_text(json.dumps(spoilt))
    with pytest.raises(StartupError) as refused:
        read(path)
    for part in ("identity must be texts", "cuda_graphs must be", "compile must be", "rows must map", "warm must be"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", json.dumps({"format": 2}), json.dumps(_spoilt(more=1)), json.dumps(_spoilt(rows={"8x8": 1}))],
)
def test_a_file_that_is_no_tuning_is_refused(tmp_path: Path, content: str) -> None:
    """With what to do."""
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(StartupError, match=r"t\.json"):
        read(path)


def test_a_named_file_for_something_else_stops_the_start_and_one_in_the_cache_does_not(tmp_path: Path) -> None:
    """What an operator names is used or refused; what was found is used or left alone."""
    named = tmp_path / "t.json"
    TuningFile(identity=IDENTITY, tuning=TUNING).write(named)
    with pytest.raises(StartupError, match=r"its model is sdxl, not shapes.*its precision is bf16, not fp32"):
        load_runner("shapes", ModelOptions(device="cpu", tuning=str(named)))
    runner = load_runner("shapes", ModelOptions(device="cpu", cache_dir=tmp_path))
    model = runner.describe()
    assert model.row_knees == {}
    mine = Identity(
        device=f"{model.device.name}, {torch.get_num_threads()} threads",
        model="shapes",
        precision="fp32",
        torch=model.packages["torch"],
        diffusers=model.packages["diffusers"],
    )
    stale = dataclasses.replace(mine, torch="2.6.0")
    rows = {(16, 16): 24}
    for identity, expected in ((stale, {}), (mine, rows)):
        path = default_path(tmp_path / "imagegen", identity)
        TuningFile(identity=identity, tuning=Tuning(rows=rows)).write(path)
        found = load_runner("shapes", ModelOptions(device="cpu", cache_dir=tmp_path)).describe()
        assert found.row_knees == expected
    without = load_runner("shapes", ModelOptions(device="cpu", cache_dir=tmp_path, tuning="none")).describe()
    assert without.row_knees == {}


def test_a_damaged_file_in_the_cache_does_not_stop_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is named in the log; the same file named by an operator is refused."""
    pair = load_pair_of(bare_profile("shapes"), ModelOptions(device="cpu"))
    path = default_path(tmp_path / "imagegen", identity_of(pair))
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1')
    assert chosen_tuning(pair, ModelOptions(device="cpu", cache_dir=tmp_path)) is None
    assert f"the tuning {path} cannot be read" in caplog.text
    with pytest.raises(StartupError, match="cannot be read"):
        chosen_tuning(pair, ModelOptions(device="cpu", tuning=str(path)))


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((128, 128), 4), ((64, 64), 16), ((96, 96), 7), ((72, 64), 14), ((256, 256), 2), ((32, 32), 64)],
)
def test_sizes_between_the_measured_ones_get_the_rows_of_the_nearest(shape: tuple[int, int], rows: int) -> None:
    """Scaled by area, since that is what memory and arithmetic go by; never below one guided image."""
    settings = EngineSettings(row_budget=99, row_knees=TUNING.rows)
    assert settings.rows(shape) == rows


def test_a_knee_of_less_than_a_guided_image_is_refused() -> None:
    """It could not run."""
    with pytest.raises(ValueError, match=r"row_knees\[\(8, 8\)\] must be at least 2"):
        EngineSettings(row_knees={(8, 8): 1})
