"""What the doctor says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imagegen_server import shapes
from imagegen_server.core import DeviceInfo
from imagegen_server.models import ModelOptions, diagnose
from imagegen_server.models.doctor import in_use


def lines(text: str) -> dict[str, str]:
    """The report by its first words; the last line wins."""
    return {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}


def test_a_healthy_machine_gets_device_precision_plan_and_versions() -> None:
    """Exit status 0, and every decision with its reason."""
    report = diagnose("shapes", ModelOptions(device="cpu"))
    found = lines(report.text)
    assert (report.healthy, report.exit_status) == (True, 0)
    assert found["model"] == "shapes"
    assert found["device"].startswith("cpu, ")
    assert found["precision"] == "fp32: a CPU computes in fp32"
    assert found["memory"].startswith("both: fp32 because a CPU computes in fp32. All weights take 25.1 MB")
    assert found["weights"] == "built in: shipped in the package"
    assert "base.unet 10.0 MB" in found["parts"]
    assert "diffusers 0." in found["versions"]


def test_a_plan_that_does_not_fit_is_a_problem_with_numbers_after_what_was_found() -> None:
    """Exit status 1; the device and the sizes are still there to read."""
    report = diagnose("synthetic-sdxl", ModelOptions(device="cpu", vram_budget=10**9))
    found = lines(report.text)
    assert report.exit_status == 1
    assert "needs 28.0 GB" in found["problem"]
    assert "1.0 GB are allowed by the VRAM budget" in found["problem"]
    assert found["weights"] == "built in: random, made at the start"
    assert "refiner.unet 9.0 GB" in found["parts"]


def test_the_plan_is_for_as_many_rows_as_the_operator_wants() -> None:
    """In place of the profile's."""
    report = diagnose("shapes", ModelOptions(device="cpu", row_budget=7))
    assert "with room for work at 128x128, 7 rows at once" in lines(report.text)["memory"]


def test_weights_that_are_not_here_are_announced_not_fetched(tmp_path: Path) -> None:
    """The sources and their revisions, without a network."""
    report = diagnose("sdxl", ModelOptions(device="cpu", precision="bf16", cache_dir=tmp_path))
    weights = [line for line in report.text.splitlines() if line.startswith("weights")]
    assert len(weights) == 2
    assert all("not cached, downloaded at the first start" in line for line in weights)
    assert list(tmp_path.iterdir()) == []


def test_local_directories_are_measured_from_their_files(tmp_path: Path) -> None:
    """The sizes are those of the files, not of the published model."""
    shutil.copytree(shapes.DIRECTORY, tmp_path, dirs_exist_ok=True)
    base, refiner = str(tmp_path / "base"), str(tmp_path / "refiner")
    found = lines(diagnose("sdxl", ModelOptions(device="cpu", base=base, refiner_source=refiner)).text)
    assert found["weights"] == f"{refiner}: complete"
    assert "base.unet 10.0 MB" in found["parts"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("sd3", ModelOptions(), "'sd3' is not known"),
        ("shapes", ModelOptions(base="/srv/model"), "built in"),
        ("shapes", ModelOptions(device="tpu"), "use auto, cpu, cuda"),
        ("shapes", ModelOptions(device="cpu", precision="fp16"), "use fp32 or bf16"),
        ("sdxl", ModelOptions(device="cpu", base="/nowhere/at/all"), "/nowhere/at/all is not a directory"),
    ],
)
def test_each_obstacle_is_one_line_with_what_to_change(name: str, options: ModelOptions, problem: str) -> None:
    """The report ends with it."""
    report = diagnose(name, options)
    assert not report.healthy
    assert problem in report.text.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "free", "told"),
    [
        ("cuda", 79_400_000_000, None),  # what a CUDA context leaves of an idle GPU
        ("cuda", 48_000_000_000, "32.0 GB of the device are in use"),  # beside a server
        ("cpu", 8_000_000_000, None),
    ],
)
def test_memory_that_others_use_is_told(kind: str, free: int, told: str | None) -> None:
    """Else a plan beside the running server says of a GPU that is well that the model does not fit."""
    device = DeviceInfo(type=kind, name="", driver="", total_memory_bytes=80_000_000_000)
    warning = in_use(device, free)
    assert (warning is None) == (told is None)
    assert (told or "") in (warning or "")


def test_the_fake_runner_needs_nothing() -> None:
    """It has no device, no precision and no weights."""
    report = diagnose("fake")
    assert report.healthy
    assert "no models" in lines(report.text)["device"]
