"""The container image: built from pinned parts, run without rights, and nothing in it that it does not need."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from imagegen_server import probe, settings
from support.dockerfile import Stage, exec_form, read

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGES = read(DOCKERFILE)
BUILD, FINAL = STAGES
COMPILER = ROOT / "deploy" / "Dockerfile.compiler"
TLS = {"IMAGEGEN_TLS_CERTIFICATE": "tls.crt", "IMAGEGEN_TLS_KEY": "tls.key"}


def _sources(stage: Stage) -> list[str]:
    """Returns what a stage copies from the repository."""
    return [source for rest in stage.all("COPY") if "--from" not in rest for source in shlex.split(rest)[:-1]]


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, COMPILER], ids=lambda path: path.name)
def test_the_dockerfile_is_clean(dockerfile: Path) -> None:
    """hadolint finds nothing."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_a_compiler_is_all_that_the_other_image_adds() -> None:
    """It is the server's image otherwise, and ends as the same nobody; what it copies is nothing."""
    (stage,) = read(COMPILER)
    assert stage.base == "imagegen-server:gpu"
    assert {keyword for keyword, _ in stage.instructions} == {"USER", "RUN"}
    assert stage.all("USER")[-1] == FINAL.one("USER")
    assert "--no-install-recommends --yes gcc libc6-dev &&" in stage.one("RUN")


def test_the_base_has_its_full_version_and_is_one() -> None:
    """Both stages have the same base: a full version and distribution, or a digest; and the Python that is locked."""
    pinned = r"python:(3\.\d+)\.\d+-slim-[a-z]+|python@sha256:[0-9a-f]{64}"
    matches = {stage.base: re.fullmatch(pinned, stage.base) for stage in STAGES}
    assert len(matches) == 1
    (match,) = matches.values()
    assert match is not None, STAGES[0].base
    locked = (ROOT / "deploy" / "locked" / "server.txt").read_text(encoding="utf-8")
    assert f"CPython {match[1]} " in locked.splitlines()[0]


def test_the_root_is_nobody() -> None:
    """The user is a number, as Kubernetes can only tell of numbers that they are not root; so is the group."""
    user, group = FINAL.one("USER").split(":")
    assert int(user) >= 10000
    assert int(group) >= 10000
    keywords = [keyword for keyword, _ in FINAL.instructions]
    assert "RUN" not in keywords[keywords.index("USER") :]


def test_only_hashed_wheels_are_installed() -> None:
    """Every requirement has a hash, nothing is resolved or compiled while the image is built, and the result fits."""
    installs = [part for rest in BUILD.all("RUN") for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 2
    dependencies, project = (set(shlex.split(part)) for part in installs)
    assert {"--require-hashes", "--no-deps", "--only-binary", ":all:", "locked/server.txt"} <= dependencies
    assert {"--no-deps", "--no-build-isolation", "."} <= project
    assert any("pip check" in rest for rest in BUILD.all("RUN"))
    variants = {path.stem.removeprefix("torch-") for path in (ROOT / "deploy" / "locked").glob("torch-*.txt")}
    assert "locked/torch-${TORCH}.txt" in dependencies
    assert variants == {"cpu", "cuda"}
    assert BUILD.pairs("ARG")["TORCH"] in variants


def test_the_final_stage_installs_no_tools() -> None:
    """No compiler, no package manager's work, no shell to download with: only what was built, and no pip in that."""
    assert FINAL.all("COPY") == ["--from=build /opt/imagegen /opt/imagegen"]
    assert FINAL.all("ADD") == BUILD.all("ADD") == []
    commands = " ".join(FINAL.all("RUN"))
    assert not re.search(r"\b(apt|apt-get|pip|curl|wget|gcc|chmod \+s)\b", commands)
    assert "pip uninstall --yes pip" in BUILD.all("RUN")[-1]


def test_only_the_volume_and_tmp_are_written() -> None:
    """What a library or the server may write to is below the volume or /tmp; no byte code is written."""
    (volume,) = exec_form(FINAL.one("VOLUME"))
    environment = FINAL.pairs("ENV")
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    for name in ("HOME", "HF_HOME", "IMAGEGEN_CACHE_DIR"):
        path = Path(environment[name])
        assert path.is_relative_to(volume) or path.is_relative_to("/tmp"), name  # noqa: S108 - in the container
    assert f"install -d -o imagegen -g imagegen -m 0750 {volume}" in FINAL.one("RUN")


def test_the_image_s_variables_are_settings() -> None:
    """What it sets with our prefix is read by the server, and its ports are those that it names."""
    variables = {name: value for name, value in FINAL.pairs("ENV").items() if name.startswith(settings.PREFIX)}
    assert settings.unknown_variables(variables) == ()
    chosen = settings.parse([], variables)
    assert chosen.host == chosen.metrics_host == "0.0.0.0"  # noqa: S104 - inside the container
    assert FINAL.one("EXPOSE").split() == [str(chosen.port), str(chosen.metrics_port)]
    assert probe.own_address(chosen) == f"127.0.0.1:{chosen.health_port}"
    assert probe.own_address(settings.parse([], variables | TLS)) == f"127.0.0.1:{chosen.health_port}"


def test_the_image_asks_for_no_gpu() -> None:
    """It says what of the driver it needs; which GPUs there are is said by whoever starts it."""
    environment = FINAL.pairs("ENV")
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment


def test_the_server_gets_the_signals_and_drains() -> None:
    """It is the container's first process, without a shell before it, and is stopped by what it drains on."""
    assert exec_form(FINAL.one("ENTRYPOINT")) == ["imagegen-server"]
    assert "imagegen-server" in PROJECT["scripts"]
    assert FINAL.all("CMD") == []
    assert FINAL.one("STOPSIGNAL") == "SIGTERM"


def test_health_is_asked_with_the_image_s_own_program() -> None:
    """The check is in exec form, needs no other program, and waits longer than the probe does."""
    options, _, command = FINAL.one("HEALTHCHECK").partition(" CMD ")
    assert exec_form(command) == ["python", "-m", probe.__name__]
    seconds = dict(re.findall(r"--([a-z-]+)=(\d+)s", options))
    assert probe.TIMEOUT < float(seconds["timeout"]) < float(seconds["interval"])
    minutes = int(dict(re.findall(r"--([a-z-]+)=(\d+)m", options))["start-period"])
    assert minutes >= 40, "SDXL is 23 GB in fp32: 38 minutes at 10 MB/s"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    """The context holds what is copied, and of the repository nothing else."""
    sources = set(_sources(BUILD) + _sources(FINAL))
    assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == sources


def test_the_labels_tell_the_project() -> None:
    """Title, licence and version are the project's."""
    labels, arguments = FINAL.pairs("LABEL"), FINAL.pairs("ARG")
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}licenses"] == PROJECT["license"]
    assert labels[f"{prefix}version"] == "${VERSION}"
    assert arguments["VERSION"] == PROJECT["version"]
    assert labels[f"{prefix}revision"] == "${REVISION}"
    assert {f"{prefix}title", f"{prefix}description"} <= set(labels)
