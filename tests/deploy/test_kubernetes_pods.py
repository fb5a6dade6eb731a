"""The pods are confined, get the time that they need to start and to stop, and are not killed for being busy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from imagegen_server import app, probe, settings
from imagegen_server.telemetry import http
from support.dockerfile import exec_form, read
from support.manifests import KUBERNETES, OVERLAYS, built

IMAGE = read(KUBERNETES.parent / "Dockerfile")[-1]
README = (KUBERNETES.parent / "README.md").read_text(encoding="utf-8")
END_SECONDS = 15.0
"""What is left after the grace period: telling callers, delivering spans, ending the process."""
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@every_overlay
def test_the_pod_is_confined(overlay: str) -> None:
    """What Kubernetes calls restricted, and a read-only root: no root, no rights, no way to gain any."""
    pod, container = built(overlay).pod, built(overlay).container
    security: dict[str, Any] = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == IMAGE.one("USER")
    assert security["fsGroup"] == security["runAsGroup"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
    }


@every_overlay
def test_the_pod_knows_nothing_of_the_cluster(overlay: str) -> None:
    """No token of an account, and no variables of Services, one of which would be IMAGEGEN_PORT."""
    found = built(overlay)
    assert found.pod["automountServiceAccountToken"] is False
    assert found.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert found.pod["enableServiceLinks"] is False
    names = {service["metadata"]["name"] for service in found.all("Service")}
    assert any(settings.PREFIX.startswith(f"{name.upper()}_") for name in names)  # the reason


@every_overlay
def test_what_the_image_writes_is_mounted(overlay: str) -> None:
    """The root is read-only: the image's volume and /tmp are mounted, and memory-less ones have a bound."""
    found = built(overlay)
    written = {mount["mountPath"] for mount in found.container["volumeMounts"] if not mount.get("readOnly", False)}
    kept = {"/var/lib/imagegen"} if overlay == "gpu-images" else set()
    assert written == {*exec_form(IMAGE.one("VOLUME")), IMAGE.pairs("ENV")["HOME"], *kept}
    assert all(volume["emptyDir"]["sizeLimit"] for volume in found.pod["volumes"] if "emptyDir" in volume)


@every_overlay
def test_stopping_waits_for_the_drain(overlay: str) -> None:
    """preStop, the grace period and the end of it fit into what Kubernetes waits before it kills."""
    found = built(overlay)
    chosen = settings.parse([], found.variables)
    pause = found.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert END_SECONDS >= 2 * app.CLOSE_GRACE + 5
    assert found.pod["terminationGracePeriodSeconds"] >= pause + chosen.grace_period + END_SECONDS
    readiness = found.container["readinessProbe"]
    assert pause >= readiness["periodSeconds"], "endpoints are told at the latest when the next probe is due"


@every_overlay
def test_starting_has_the_time_that_it_takes(overlay: str) -> None:
    """Loading may take a fifth longer than the README's table expects, and the rollout waits for it."""
    row = re.search(rf"^\| `{overlay}` \|[^|]*\| (\d+) s \| (\d+) s \|", README, re.MULTILINE)
    assert row is not None
    startup = built(overlay).container["startupProbe"]
    allowed = startup["periodSeconds"] * startup["failureThreshold"]
    assert allowed == int(row[2])
    assert allowed >= 1.2 * int(row[1])
    spec = built(overlay).one("Deployment")["spec"]
    assert spec["progressDeadlineSeconds"] > allowed + spec["minReadySeconds"]
    alerts = (KUBERNETES.parent / "prometheus" / "rules" / "alerts-serving.yml").read_text(encoding="utf-8")
    waits = re.search(r"alert: ImageGenNotServing\n.*?\n +for: (\d+)m\n", alerts, re.DOTALL)
    assert waits is not None
    assert 60 * int(waits[1]) > int(row[1]), "nobody is woken for a start"


@every_overlay
def test_readiness_is_what_grpc_health_says(overlay: str) -> None:
    """Start-up and readiness ask for generations, at the plain port for it: NOT_SERVING while loading and draining."""
    container = built(overlay).container
    for name in ("startupProbe", "readinessProbe"):
        assert container[name]["grpc"] == {"port": _port(overlay, "health"), "service": probe.SERVICE}


@every_overlay
def test_nothing_busy_is_killed(overlay: str) -> None:
    """Liveness asks what answers while loading, draining and working, and gives it a minute or more."""
    liveness = built(overlay).container["livenessProbe"]
    path = liveness["httpGet"]["path"]
    assert all(http.HEALTH[path](state) for state in ("loading", "serving", "draining"))
    assert liveness["httpGet"]["port"] == "metrics"
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


@every_overlay
def test_resources_are_bounded(overlay: str) -> None:
    """Memory and disk have requests and limits, and torch is told how many cores it has."""
    container = built(overlay).container
    for amount in ("cpu", "memory", "ephemeral-storage"):
        assert amount in container["resources"]["requests"]
        assert amount in container["resources"]["limits"]
    threads = next(entry for entry in container["env"] if entry["name"] == "OMP_NUM_THREADS")
    assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu"}}


def test_a_gpu_is_asked_for_where_one_is_used() -> None:
    """One for each pod, which is not replaced before it is free; the demo runs without."""
    assert built("gpu").container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert built("gpu").one("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert settings.parse([], built("gpu").variables).device == "cuda"
    assert built("gpu-secure").container["resources"] == built("gpu").container["resources"]
    assert "nvidia.com/gpu" not in built("cpu-demo").text
    rollout = built("cpu-demo").one("Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxSurge": 1, "maxUnavailable": 0}


def test_secrets_are_files_that_can_change() -> None:
    """Certificates and keys are mounted whole, so that new ones appear, and only the server's group reads them."""
    found = built("gpu-secure")
    chosen = settings.parse([], found.variables)
    mounts = {mount["name"]: mount for mount in found.container["volumeMounts"]}
    secrets = [volume for volume in found.pod["volumes"] if "secret" in volume]
    directories = {Path(mounts[volume["name"]]["mountPath"]) for volume in secrets}
    assert all("subPath" not in mounts[volume["name"]] for volume in secrets)
    assert {volume["secret"]["defaultMode"] for volume in secrets} == {0o440}
    files = (chosen.tls_certificate, chosen.tls_key, chosen.tls_client_ca, chosen.api_keys)
    assert {path.parent for path in files if path is not None} == directories
    assert None not in files
    assert found.pod["securityContext"]["fsGroup"]
    assert not found.all("Secret")


@every_overlay
def test_evictions_take_one_at_a_time(overlay: str) -> None:
    """Draining nodes leaves the other pods; a pod that does not serve holds no node up."""
    budget = built(overlay).one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def _port(overlay: str, name: str) -> int:
    return next(int(port["containerPort"]) for port in built(overlay).container["ports"] if port["name"] == name)
