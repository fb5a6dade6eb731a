"""The manifests are what Kubernetes reads, their parts find each other, and what they ask of Prometheus exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from imagegen_server import settings
from support.crds import POD_MONITOR, PROMETHEUS_RULE, SCALED_OBJECT
from support.manifests import KUBERNETES, OVERLAYS, Built, Manifest, built, selects
from support.needs import lacking
from support.promql import grouped_labels, selectors
from support.rules import RULES, Known, load_rules
from support.scripts import load

VERSIONS = ("1.30", "1.33", "1.37")
"""The oldest with the preStop that is used, the newest that can be checked, and one between."""
CUSTOM = {"PodMonitor": POD_MONITOR, "PrometheusRule": PROMETHEUS_RULE, "ScaledObject": SCALED_OBJECT}
VERSION = tomllib.loads((KUBERNETES.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def _named(found: Built, kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in found.all(kind)}


def test_the_overlays_are_these() -> None:
    """Each is tested below."""
    assert OVERLAYS == ("cpu-demo", "gpu", "gpu-images", "gpu-secure")


@every_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(overlay: str, version: str) -> None:
    """Each manifest follows the schema of several versions, in which no unknown field may be."""
    for manifest in built(overlay).manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


@every_overlay
def test_custom_resources_have_their_fields(overlay: str) -> None:
    """PodMonitor, PrometheusRule and ScaledObject follow the schemas of what is used of them."""
    for manifest in built(overlay).manifests:
        if manifest["kind"] in CUSTOM:
            jsonschema.validate(manifest, CUSTOM[manifest["kind"]])


@every_overlay
def test_everything_is_in_one_namespace(overlay: str) -> None:
    """The namespace is made with them, and refuses pods that are not confined."""
    found = built(overlay)
    namespace = found.one("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in found.manifests:
        if manifest["kind"] not in ("Namespace", "PriorityClass"):
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"], manifest["kind"]


@every_overlay
def test_images_have_a_version(overlay: str) -> None:
    """The tag is this version's, so that pods of one Deployment are alike."""
    name, _, tag = built(overlay).container["image"].rpartition(":")
    assert name
    assert tag.partition("-")[0] == VERSION


def _selectors(found: Built) -> list[tuple[Manifest, dict[str, str]]]:
    """Returns what selects pods by labels, and these."""
    paths: dict[str, Any] = {
        "Deployment": lambda spec: spec["selector"]["matchLabels"],
        "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
        "Service": lambda spec: spec["selector"],
        "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
    }
    return [(m, paths[m["kind"]](m["spec"])) for m in found.manifests if m["kind"] in paths]


@every_overlay
def test_selectors_find_the_pods(overlay: str) -> None:
    """Deployment, budget, Services, policies and monitor all mean the server's pods, and no selector is empty."""
    found = built(overlay)
    kinds = [manifest["kind"] for manifest, _ in _selectors(found)]
    assert {"Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy"} <= set(kinds)
    for manifest, selector in _selectors(found):
        assert selector, manifest["kind"]
        assert selects(selector, found.pod_labels), manifest["kind"]


@every_overlay
def test_names_refer_to_what_is_there(overlay: str) -> None:
    """Settings, account, priority and volumes that the pods name are made with them."""
    found, pod = built(overlay), built(overlay).pod
    assert {source["configMapRef"]["name"] for source in found.container["envFrom"]} <= _named(found, "ConfigMap")
    assert pod["serviceAccountName"] in _named(found, "ServiceAccount")
    if "priorityClassName" in pod:
        assert pod["priorityClassName"] in _named(found, "PriorityClass")
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == _named(found, "PersistentVolumeClaim")
    mounted = {mount["name"] for mount in found.container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for scaled in found.all("ScaledObject"):
        assert scaled["spec"]["scaleTargetRef"]["name"] in _named(found, "Deployment")


@every_overlay
def test_ports_are_those_of_the_server(overlay: str) -> None:
    """The container's ports are where the server listens; Services, policies and monitors name them."""
    found = built(overlay)
    chosen = settings.parse([], found.variables)
    ports = {port["name"]: port["containerPort"] for port in found.container["ports"]}
    expected = {"grpc": chosen.port, "metrics": chosen.metrics_port, "health": chosen.health_port}
    assert ports == expected | ({} if chosen.images_port is None else {"images": chosen.images_port})
    plain = chosen.tls_certificate is None
    protocols = {"grpc": "kubernetes.io/h2c" if plain else None, "images": "http"}  # h2c is HTTP/2 in plain text
    for service in found.all("Service"):
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
            assert port.get("appProtocol") == protocols[port["targetPort"]]
    policies = [rule for policy in found.all("NetworkPolicy") for rule in policy["spec"].get("ingress", ())]
    assert {port["port"] for rule in policies for port in rule["ports"]} <= {"grpc", "metrics", "images"}
    for monitor in found.all("PodMonitor"):
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == {"metrics"}


@every_overlay
def test_callers_may_balance_by_themselves_or_not(overlay: str) -> None:
    """One Service has an address of its own; the other has those of the pods that are ready."""
    services = {manifest["metadata"]["name"]: manifest for manifest in built(overlay).all("Service")}
    single, headless = services["imagegen"], services["imagegen-headless"]
    assert single["spec"]["type"] == "ClusterIP"
    assert "clusterIP" not in single["spec"]
    assert headless["spec"]["clusterIP"] == "None"
    assert not headless["spec"].get("publishNotReadyAddresses", False)
    assert settings.parse([], built(overlay).variables).max_connection_age is not None


@every_overlay
def test_nobody_is_let_in_who_is_not_named(overlay: str) -> None:
    """Every rule says from where and to which port; what may be reached is DNS, and the hub's HTTPS for SDXL."""
    for policy in built(overlay).all("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            assert all(rule["from"])
            assert rule["ports"]
    (policy,) = [p for p in built(overlay).all("NetworkPolicy") if "Egress" in p["spec"]["policyTypes"]]
    reached = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert reached == ({53} if overlay == "cpu-demo" else {53, 443})
    assert all(rule["to"] for rule in policy["spec"]["egress"])


def test_kept_images_are_found_where_callers_are_sent() -> None:
    """The store is on the pods' shared volume with room to spare, and its URLs lead to the Service for it."""
    found = built("gpu-images")
    chosen = settings.parse([], found.variables)
    mounts = {mount["name"]: mount["mountPath"] for mount in found.container["volumeMounts"]}
    assert chosen.store is not None
    assert Path(chosen.store).is_relative_to(mounts["images"])
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in found.all("PersistentVolumeClaim")}
    assert all(claim["accessModes"] == ["ReadWriteMany"] for claim in claims.values())
    room = settings.parse_bytes(claims["imagegen-images"]["resources"]["requests"]["storage"] + "B")
    assert isinstance(room, int)
    assert chosen.store_max_bytes is not None
    assert chosen.store_max_bytes < 0.9 * room
    assert chosen.images_host == "0.0.0.0"  # noqa: S104 - inside the container
    assert chosen.image_url_base == "http://imagegen-images.imagegen.svc:8080/images"
    (service,) = [s for s in found.all("Service") if s["metadata"]["name"] == "imagegen-images"]
    assert service["metadata"]["namespace"] == "imagegen"
    assert service["spec"]["ports"][0]["port"] == chosen.images_port


def _job(found: Built) -> str:
    """Returns the job that prometheus-operator gives to what a PodMonitor without a jobLabel finds."""
    monitor = found.one("PodMonitor")
    assert "jobLabel" not in monitor["spec"]
    return f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"


def test_the_rules_know_the_pods_by_their_job() -> None:
    """It tells installations apart, and every rule that names a job knows it, as well as the configured one."""
    configured = (KUBERNETES.parent / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (plain,) = re.findall(r"job_name: (imagegen-server)\n", configured)
    job = _job(built("gpu"))
    assert job == f"imagegen/{plain}"
    asked = [selector for rule in load_rules() for selector in selectors(rule.expr)]
    assert [selector.name for selector in asked if "job" in dict(selector.equal)] == [], "one that knows one job only"
    patterns = {dict(selector.matches)["job"] for selector in asked if "job" in dict(selector.matches)}
    servers = {pattern for pattern in patterns if re.fullmatch(pattern, plain)}
    assert len(servers) == 1
    assert all(re.fullmatch(pattern, job) for pattern in servers)


def test_the_rules_on_kubernetes_are_the_rules(tmp_path: Path) -> None:
    """`make prometheus-rule` leaves no difference, and nothing is lost on the way into the manifest and the overlay."""
    written = tmp_path / "rules.yaml"
    subprocess.run([sys.executable, str(KUBERNETES / "prometheus_rule.py"), "--output", str(written)], check=True)
    committed = KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml"
    assert committed.read_text(encoding="utf-8") == written.read_text(encoding="utf-8")
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    assert built("gpu").one("PrometheusRule")["spec"]["groups"] == groups


def test_a_file_without_groups_is_no_file_of_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program does not understand it does not write."""
    program = load("kubernetes/prometheus_rule.py")
    monkeypatch.setattr(program, "RULES", tmp_path)
    (tmp_path / "a.yml").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no file of rules"):
        program.manifest()


def test_kube_prometheus_stack_is_told_of_everything() -> None:
    """It finds by one label, the same on what it scrapes and what it evaluates."""
    found = built("gpu")
    releases = {found.one(kind)["metadata"]["labels"]["release"] for kind in ("PodMonitor", "PrometheusRule")}
    assert releases == {"kube-prometheus-stack"}


def test_the_dashboards_become_what_grafanas_sidecar_finds() -> None:
    """The README's command, up to where it is sent: each dashboard under its name, in the labelled ConfigMap."""
    text = (KUBERNETES.parent / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^      (kubectl .*--from-file.*(?:\n        .*)*)$", text, re.MULTILINE)
    local, _, sent = command.replace("\\\n", "").rpartition("|")
    assert sent.split() == ["kubectl", "apply", "--server-side", "-f", "-"], "too long for what apply notes otherwise"
    found = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = ["bash", "-o", "pipefail", "-c", local]
    printed = subprocess.run(shell, cwd=KUBERNETES.parents[1], env=found, capture_output=True, check=True).stdout
    made = yaml.safe_load(printed)
    assert made["kind"] == "ConfigMap"
    assert made["metadata"]["namespace"] == "monitoring"
    assert made["metadata"]["labels"] == {"grafana_dashboard": "1"}
    rendered = sorted((KUBERNETES.parent / "grafana" / "rendered").iterdir())
    assert made["data"] == {path.name: path.read_text(encoding="utf-8") for path in rendered}
    assert sum(map(len, made["data"].values())) < 2**20, "the most that a ConfigMap takes"


@every_overlay
def test_a_pod_aside_is_the_servers_pod_with_another_command(overlay: str) -> None:
    """The README's command, up to where it is sent: no Service sends it calls, and nothing waits for it to serve."""
    text = (KUBERNETES.parent / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"get deployment imagegen-server -o json \| jq '([^']*)' \|\n +kubectl apply", text)
    if (jq := shutil.which("jq")) is None:
        lacking("jq is not installed")
    found = built(overlay)
    deployment = json.dumps(found.one("Deployment"))
    made = subprocess.run([jq, program], input=deployment, capture_output=True, text=True, check=True).stdout
    pod = json.loads(made)
    kubernetes_validate.validate(pod, VERSIONS[0], strict=True)
    assert (pod["metadata"]["namespace"], "labels" in pod["metadata"]) == ("imagegen", False)
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["tune"]
    for kept in ("image", "envFrom", "resources", "volumeMounts", "securityContext"):
        assert container[kept] == found.container[kept]
    assert pod["spec"]["volumes"] == found.pod["volumes"]
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"} & container.keys()


def test_scaling_asks_for_series_that_there_are() -> None:
    """Each query is PromQL over the catalogue's metrics, for this installation alone, and answers with one number."""
    found = built("gpu")
    job = _job(found)
    known = Known([])
    queries = [trigger["metadata"]["query"] for trigger in found.one("ScaledObject")["spec"]["triggers"]]
    names = set()
    for query in queries:
        for selector in selectors(query):
            assert known.problem(selector) is None
            assert dict(selector.equal)["job"] == job
            names.add(selector.name)
        assert query.startswith("sum(")
        assert not grouped_labels(query)
    assert names == {"imagegen_requests_queued", "imagegen_requests_in_flight"}


def test_scaling_keeps_to_what_a_server_takes() -> None:
    """More pods are asked for before one is full or its queue is; the number of pods is nobody else's to say."""
    found = built("gpu")
    chosen = settings.parse([], found.variables)
    spec = found.one("ScaledObject")["spec"]
    thresholds = {trigger["name"]: float(trigger["metadata"]["threshold"]) for trigger in spec["triggers"]}
    assert 0 < thresholds["in-flight"] <= chosen.max_running
    assert 0 < thresholds["queued"] < chosen.queue_capacity
    assert 2 <= spec["minReplicaCount"] < spec["maxReplicaCount"], "with maxSurge 0 the last one would be drained first"
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in spec["triggers"]} == {"false"}
    assert "fallback" not in spec, "a number of pods for when Prometheus is away would take some of the others away"
    assert "replicas" not in found.one("Deployment")["spec"]


def test_a_changed_setting_is_rolled_out() -> None:
    """The ConfigMap's name has a hash of its content, so pods are replaced when a setting changes."""
    (demo,), (gpu,) = (_named(built(overlay), "ConfigMap") for overlay in ("cpu-demo", "gpu"))
    assert demo != gpu


def test_every_file_is_used() -> None:
    """What lies there is part of an overlay."""
    listed = {path for path in KUBERNETES.rglob("*") if path.is_file() and path.suffix in (".yaml", ".env")}
    named = {path for path in listed if path.name == "kustomization.yaml"}
    for kustomization in list(named):
        text = kustomization.read_text(encoding="utf-8")
        named |= {path for path in listed if path.parent == kustomization.parent and path.name in text}
    assert {str(Path(path).relative_to(KUBERNETES)) for path in listed - named} == set()
