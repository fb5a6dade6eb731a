"""Downloading a pair through huggingface_hub from a stand-in for the hub on loopback."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_server import shapes
from imagegen_server.errors import WeightsUnavailable
from imagegen_server.models.loading import SHARED
from imagegen_server.models.sources.download_progress import DownloadProgress
from imagegen_server.models.sources.hub import HubSettings, HubSource, Wanted, cached, fetch
from imagegen_server.models.sources.model_directory import relative_files, variants_of
from support.hub_standin import Hub, serve

BASE_COMMIT = "1" * 40
REFINER_COMMIT = "2" * 40
BASE = HubSource(repository="acme/base", revision=BASE_COMMIT)
REFINER = HubSource(repository="acme/refiner", revision=REFINER_COMMIT)
WHOLE = Wanted(half=False)
DEAD = "http://127.0.0.1:9"
"""An endpoint where nobody listens (the discard port)."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair with things that a repository also holds and nobody should download."""
    directory = tmp_path_factory.mktemp("pair")
    shutil.copytree(shapes.DIRECTORY, directory, dirs_exist_ok=True)
    base = directory / "base"
    for name in ("unet/diffusion_pytorch_model.bin", "model.ckpt", "pipeline.py", "text_encoder/flax_model.msgpack"):
        (base / name).write_bytes(b"not wanted")
    for module, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        shutil.copyfile(base / module / f"{stem}.safetensors", base / module / f"{stem}.fp16.safetensors")
    for module in ("text_encoder", "text_encoder_2"):
        shutil.copyfile(base / module / "model.safetensors", base / module / "model.fp16.safetensors")
    return directory


@pytest.fixture
def hub(pair: Path) -> Iterator[Hub]:
    """The pair served as two repositories."""
    with serve({"acme/base": (BASE_COMMIT, pair / "base"), "acme/refiner": (REFINER_COMMIT, pair / "refiner")}) as hub:
        yield hub


def settings(hub: Hub | None, cache: Path) -> HubSettings:
    """Settings that reach the stand-in, or nobody."""
    return HubSettings(cache_dir=cache, endpoint=DEAD if hub is None else hub.url)


def test_a_download_brings_every_needed_file_and_nothing_else(hub: Hub, pair: Path, tmp_path: Path) -> None:
    """Configurations, tokenizers and fp32 safetensors arrive unchanged; pickles, code and the variant do not."""
    directory = fetch(BASE, WHOLE, settings(hub, tmp_path))
    assert relative_files(directory) == relative_files(build_reference(tmp_path / "reference") / "base")
    for name in relative_files(directory):
        assert (directory / name).read_bytes() == (pair / "base" / name).read_bytes()


def test_half_precision_downloads_the_fp16_files_only(hub: Hub, tmp_path: Path) -> None:
    """Every module's weights come in the variant, none also in full."""
    directory = fetch(BASE, Wanted(half=True), settings(hub, tmp_path))
    weights = [name for name in relative_files(directory) if name.endswith(".safetensors")]
    assert len(weights) == 4
    assert all(".fp16." in name for name in weights)


def test_the_refiner_is_fetched_without_what_it_shares(hub: Hub, tmp_path: Path) -> None:
    """Text encoder 2, its tokenizer and the VAE come from the base and are not asked for again."""
    directory = fetch(REFINER, Wanted(half=False, exclude=SHARED), settings(hub, tmp_path))
    assert {name.split("/")[0] for name in relative_files(directory)} == {"model_index.json", "scheduler", "unet"}


def test_progress_ends_at_the_total_and_never_goes_back(hub: Hub, tmp_path: Path) -> None:
    """The receiver sees the repository's name and growing bytes up to everything that was to be fetched."""
    seen: list[DownloadProgress] = []
    directory = fetch(BASE, WHOLE, HubSettings(cache_dir=tmp_path, endpoint=hub.url, on_progress=seen.append))
    done = [progress.completed_bytes for progress in seen]
    assert done == sorted(done)
    total = sum((directory / name).stat().st_size for name in relative_files(directory))
    assert seen[-1] == DownloadProgress(name=str(BASE), completed_bytes=total, total_bytes=total)


def test_a_complete_cache_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    """The second start asks the hub nothing, even where nobody answers."""
    first = fetch(BASE, WHOLE, settings(hub, tmp_path))
    asked = len(hub.requests)
    assert fetch(BASE, WHOLE, settings(None, tmp_path)) == first
    assert len(hub.requests) == asked


def test_fp16_files_in_the_cache_are_not_taken_for_the_others(
    hub: Hub, pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are what half precision wants; for fp32 the others come, or the log says that they could not be had."""
    half = fetch(BASE, Wanted(half=True), settings(hub, tmp_path))
    with caplog.at_level("WARNING"):
        assert fetch(BASE, WHOLE, settings(None, tmp_path)) == half
    assert "using the fp16 files of acme/base" in caplog.text
    assert fetch(BASE, Wanted(half=True), settings(None, tmp_path)) == half
    small = dataclasses.replace(settings(hub, tmp_path), free_bytes=lambda _: 0)
    assert fetch(BASE, WHOLE, small) == half
    caplog.clear()
    whole = fetch(BASE, WHOLE, settings(hub, tmp_path))
    assert not any(variants_of(whole, half=False).values())
    assert fetch(BASE, WHOLE, settings(None, tmp_path)) == whole
    assert not caplog.records


def test_an_incomplete_cache_is_completed_without_fetching_again(hub: Hub, tmp_path: Path) -> None:
    """Only the file that is missing is sent."""
    directory = fetch(BASE, WHOLE, settings(hub, tmp_path))
    lost = directory / "unet" / "diffusion_pytorch_model.safetensors"
    lost.resolve().unlink()
    lost.unlink()
    assert cached(BASE, WHOLE, settings(hub, tmp_path)) is None
    hub.served.clear()
    fetch(BASE, WHOLE, settings(hub, tmp_path))
    assert [served.path for served in hub.served] == ["unet/diffusion_pytorch_model.safetensors"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A repository whose UNet file is larger than the client's 10 MB chunks, so that a cut leaves something."""
    directory = build_reference(tmp_path / "large") / "base"
    file = directory / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(os.urandom(25_000_000))
    return directory


def test_a_cut_connection_is_resumed_where_it_was_cut(large: Path, tmp_path: Path) -> None:
    """The client asks for the rest with a byte range; what had arrived is not sent again."""
    name = "unet/diffusion_pytorch_model.safetensors"
    with serve({"acme/base": (BASE_COMMIT, large)}) as hub:
        hub.cut_after[name] = 21_000_000
        directory = fetch(BASE, WHOLE, settings(hub, tmp_path / "cache"))
        first, second = hub.downloads("unet/diffusion_pytorch_model.safetensors")
    assert first.start == 0
    assert second.start >= 10_000_000
    assert second.start + second.sent == 25_000_000
    assert (directory / name).read_bytes() == (large / name).read_bytes()


def test_a_download_that_was_killed_keeps_the_files_that_were_complete(large: Path, tmp_path: Path) -> None:
    """A new process fetches the file that was under way again, as the client does, and none of the others."""
    name = "unet/diffusion_pytorch_model.safetensors"
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from imagegen_server.models.sources.hub import HubSettings, HubSource, Wanted, fetch\n"
        "def stop(progress):\n    if progress.completed_bytes > 20_000_000: os._exit(9)\n"
        "fetch(HubSource(repository='acme/base', revision=sys.argv[2]), Wanted(half=False),"
        " HubSettings(cache_dir=Path(sys.argv[1]), on_progress=stop))\n"
    )
    with serve({"acme/base": (BASE_COMMIT, large)}) as hub:
        killed = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "cache"), BASE_COMMIT],
            env={**os.environ, "HF_ENDPOINT": hub.url},
            capture_output=True,
            check=False,
        )
        assert killed.returncode == 9, killed.stderr.decode()
        complete = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*/*")}
        hub.served.clear()
        directory = fetch(BASE, WHOLE, settings(hub, tmp_path / "cache"))
    again = [served.path for served in hub.served]
    assert name in again
    assert "config.json" in complete
    assert not [path for path in again if path.endswith("config.json")]
    assert (directory / name).read_bytes() == (large / name).read_bytes()


@pytest.mark.slow
def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    """Nothing cached and nobody listening: the message names the repository and the ways out."""
    with pytest.raises(WeightsUnavailable, match=r"acme/base@1+ .*cannot be reached.*local directory"):
        fetch(BASE, WHOLE, settings(None, tmp_path))


def test_a_full_disk_is_found_out_before_the_download(hub: Hub, tmp_path: Path) -> None:
    """The message has the bytes needed and free, and no weights were sent."""
    small = HubSettings(cache_dir=tmp_path, endpoint=hub.url, free_bytes=lambda path: 10**6)
    with pytest.raises(WeightsUnavailable, match=r"needs 0\.0 GB more .*0\.5 GB to spare.*HF_HOME"):
        fetch(BASE, WHOLE, small)
    assert [served.path for served in hub.served] == ["model_index.json"]


def test_a_file_that_the_hub_lost_is_named(hub: Hub, tmp_path: Path) -> None:
    """A listed file that answers 404 ends in an error about the repository, not a half-loaded model."""
    hub.hidden.add("unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsUnavailable, match="diffusion_pytorch_model"):
        fetch(BASE, WHOLE, settings(hub, tmp_path))


def test_a_repository_without_a_needed_file_is_refused(pair: Path, tmp_path: Path) -> None:
    """Weights that exist only as pickles are not fetched, and the error says so."""
    directory = tmp_path / "pickled"
    shutil.copytree(pair / "base", directory)
    for file in (directory / "unet").glob("*.safetensors"):
        file.unlink()
    with serve({"acme/base": (BASE_COMMIT, directory)}) as hub, pytest.raises(WeightsUnavailable, match="unet has no"):
        fetch(BASE, WHOLE, settings(hub, tmp_path / "cache"))
    assert not [served for served in hub.served if served.path.endswith(".bin")]


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    """The message says which revision the repository does not have."""
    source = HubSource(repository="acme/base", revision="3" * 40)
    with pytest.raises(WeightsUnavailable, match="has no revision 3333"):
        fetch(source, WHOLE, settings(hub, tmp_path))


def test_an_unknown_repository_is_named(hub: Hub, tmp_path: Path) -> None:
    """The message says which repository is not there, and that it may be private."""
    with pytest.raises(WeightsUnavailable, match="acme/none is not on the hub, or is private"):
        fetch(HubSource(repository="acme/none", revision=None), WHOLE, settings(hub, tmp_path))


def test_a_branch_is_used_offline_once_cached(hub: Hub, tmp_path: Path) -> None:
    """An unpinned repository resolves its default branch once and is found again without a network."""
    source = HubSource(repository="acme/base", revision=None)
    first = fetch(source, WHOLE, settings(hub, tmp_path))
    assert fetch(source, WHOLE, settings(None, tmp_path)) == first


@pytest.mark.slow
def test_the_service_loads_a_pair_through_the_hub_setting(hub: Hub, tmp_path: Path) -> None:
    """`sdxl` with other sources downloads both halves from HF_ENDPOINT, then starts again with HF_HUB_OFFLINE."""
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom imagegen_server.models import ModelOptions, load_runner\n"
        "runner = load_runner('sdxl', ModelOptions(device='cpu', base=sys.argv[2], refiner_source=sys.argv[3],"
        " cache_dir=Path(sys.argv[1])))\n"
        "model = runner.describe()\n"
        "print(json.dumps([model.refiner_loaded, model.profile.base_source, len(model.memory_plan.components)]))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(BASE), str(REFINER)]
    for extra in ({"HF_ENDPOINT": hub.url}, {"HF_ENDPOINT": DEAD, "HF_HUB_OFFLINE": "1"}):
        env = {**os.environ, **extra, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=env, capture_output=True, check=False, timeout=120)
        assert result.returncode == 0, result.stderr.decode()
        assert json.loads(result.stdout) == [True, str(BASE), 5]


def build_reference(directory: Path) -> Path:
    """Returns a fresh copy of the embedded pair."""
    shutil.copytree(shapes.DIRECTORY, directory, dirs_exist_ok=True)
    return directory
