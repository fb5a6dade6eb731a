"""The compose file fits the repository and the server, and lets nobody in from outside the host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagegen_server import probe, settings
from support.dockerfile import exec_form, read

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE: dict[str, Any] = load_yaml(DEPLOY / "compose.yaml")
GPU: dict[str, Any] = load_yaml(DEPLOY / "compose.gpu.yaml")

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILD, IMAGE = read(DEPLOY / "Dockerfile")
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)([sm])", duration)
    assert match is not None, duration
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def _mounts(name: str) -> list[tuple[str, str, str]]:
    """Returns source, target and mode of a service's volumes."""
    parts = [volume.split(":") for volume in SERVICES[name].get("volumes", ())]
    return [(part[0], part[1], part[2] if len(part) > 2 else "rw") for part in parts]


def _port(address: str) -> tuple[str, str, str]:
    """Returns the host, the published and the inner port."""
    host, published, inner = address.split(":")
    return host, published, inner


def _substituted(text: str) -> str:
    """Returns a text with compose's ${NAME:-default} replaced by the default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _environment() -> dict[str, str]:
    """Returns the variables of the server's container: the image's, and over them the file's."""
    given = SERVICES["imagegen-server"]["environment"]
    return IMAGE.pairs("ENV") | {name: _substituted(value) for name, value in given.items()}


def test_the_files_are_what_compose_reads() -> None:
    """They follow the schema of the Compose Specification."""
    check = Path(sys.executable).with_name("check-jsonschema")
    files = [str(DEPLOY / name) for name in ("compose.yaml", "compose.gpu.yaml")]
    command = [str(check), "--builtin-schema", "vendor.compose-spec", *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_services_are_these() -> None:
    """The server, Envoy before it, and what observes it."""
    assert sorted(SERVICES) == ["alertmanager", "envoy", "grafana", "imagegen-server", "prometheus"]


@every_service
def test_only_loopback_is_published(name: str) -> None:
    """No port is open to the network, and none shares the host's."""
    ports = [_port(address) for address in SERVICES[name]["ports"]]
    assert ports
    assert {host for host, _, _ in ports} == {"127.0.0.1"}
    assert "network_mode" not in SERVICES[name]


@every_service
def test_each_service_is_confined(name: str) -> None:
    """A read-only system, a user who is not root, no capabilities, no way to gain any, bounded processes and logs."""
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert service["pids_limit"] <= 1024
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)


@every_service
def test_images_have_a_version(name: str) -> None:
    """What runs today runs tomorrow; the server is built from this repository."""
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        return
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert (context / "pyproject.toml").is_file()
    assert (context / service["build"]["dockerfile"]).is_file()
    assert set(service["build"]["args"]) <= set(BUILD.pairs("ARG") | IMAGE.pairs("ARG"))


@every_service
def test_mounted_configuration_exists_and_is_read_only(name: str) -> None:
    """What comes from the repository is there and cannot be written; what is written has a volume that is declared."""
    for source, target, mode in _mounts(name):
        assert target.startswith("/")
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert mode == "ro", source
        else:
            assert source in COMPOSE["volumes"]


@every_service
def test_health_is_asked_of_a_port_that_is_served(name: str) -> None:
    """Each service has a health check with bounds, and it asks the container's own loopback."""
    check = SERVICES[name]["healthcheck"]
    assert _seconds(check["timeout"]) < _seconds(check["interval"])
    assert {"retries", "start_period"} <= set(check)
    asked = set(re.findall(r"127\.0\.0\.1[:/](\d+)", " ".join(check["test"])))
    if name == "imagegen-server":  # it asks at the server's own port for it
        assert check["test"] == ["CMD", *exec_form(IMAGE.one("HEALTHCHECK").partition(" CMD ")[2])]
        assert f"--start-period={check['start_period']} " in IMAGE.one("HEALTHCHECK")
        assert probe.own_address(settings.parse([], _environment())).startswith("127.0.0.1:")
        return
    assert asked
    assert asked <= {inner for _, _, inner in map(_port, SERVICES[name]["ports"])}


def test_the_server_takes_its_variables() -> None:
    """They are settings, its ports are those published, its metrics can be reached by Prometheus, and it may drain."""
    server = SERVICES["imagegen-server"]
    assert "command" not in server
    assert settings.unknown_variables(_environment()) == ()
    chosen = settings.parse([], _environment())
    assert chosen.model == "shapes"
    assert (chosen.host, chosen.metrics_host) == ("0.0.0.0", "0.0.0.0")  # noqa: S104 - inside the container
    assert [inner for _, _, inner in map(_port, server["ports"])] == [str(chosen.port), str(chosen.metrics_port)]
    assert chosen.store is not None
    assert Path(chosen.store).is_relative_to("/var/cache/imagegen")
    assert _seconds(server["stop_grace_period"]) >= chosen.grace_period + 10
    assert server["stop_signal"] == IMAGE.one("STOPSIGNAL")


def test_the_server_writes_to_its_volume_and_tmp_alone() -> None:
    """Under a read-only root these are what there is: the image's volume, and memory of a bounded size."""
    server = SERVICES["imagegen-server"]
    assert server["user"] == IMAGE.one("USER")
    assert [target for _, target, _ in _mounts("imagegen-server")] == exec_form(IMAGE.one("VOLUME"))
    (temporary,) = server["tmpfs"]
    assert re.fullmatch(r"/tmp:size=\d+m,mode=1777", temporary)  # noqa: S108 - in the container


def test_a_gpu_is_an_addition() -> None:
    """Without the second file it runs on any machine; the second one reserves a GPU, for the build that can use it."""
    assert "deploy" not in SERVICES["imagegen-server"]
    assert SERVICES["imagegen-server"]["build"]["args"] == {"TORCH": "cpu"}
    (added,) = GPU["services"].values()
    assert set(GPU["services"]) <= set(SERVICES)
    (device,) = added["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert added["build"]["args"] == {"TORCH": "cuda"}
    assert added["image"] != SERVICES["imagegen-server"]["image"]
    variables = {name: _substituted(value) for name, value in added["environment"].items()}
    chosen = settings.parse([], _environment() | variables)
    assert (chosen.model, chosen.device) == ("sdxl", "cuda")
    assert _seconds(added["stop_grace_period"]) >= chosen.grace_period + 10


def test_prometheus_and_grafana_find_their_peers_by_name() -> None:
    """Every host that a configuration names is a service, at a port that it serves."""
    named = []
    for targets in (DEPLOY / "prometheus" / "targets-compose").glob("*.yml"):
        named += [address for group in load_yaml(targets) for address in group["targets"]]
    sources = load_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    named += [source["url"].removeprefix("http://") for source in sources]
    assert len(named) >= 4
    for address in named:
        host, _, port = address.partition(":")
        published = {inner for _, _, inner in map(_port, SERVICES[host]["ports"])}
        assert port in published | set(SERVICES[host].get("expose", ())), address


def test_what_the_services_are_told_to_read_is_mounted() -> None:
    """Prometheus' and Alertmanager's configuration, Grafana's dashboards and home page."""
    wanted = {
        "prometheus": [_flag("prometheus", "--config.file")],
        "alertmanager": [_flag("alertmanager", "--config.file")],
        "grafana": [SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]],
    }
    providers = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "imagegen.yml")["providers"]
    wanted["grafana"] += [provider["options"]["path"] for provider in providers]
    for name, paths in wanted.items():
        for path in paths:
            assert any(_inside(source, target, path) for source, target, _ in _mounts(name)), f"{name}: {path}"


def _flag(name: str, flag: str) -> str:
    command: list[str] = SERVICES[name]["command"]
    return next(argument.split("=", 1)[1] for argument in command if argument.startswith(f"{flag}="))


def _inside(source: str, target: str, path: str) -> bool:
    """Returns whether a mount has a path, and the repository the file behind it."""
    inner = Path(path)
    return inner.is_relative_to(target) and (DEPLOY / source / inner.relative_to(target)).exists()


def test_envoy_finds_its_files_and_the_server() -> None:
    """What its configuration names is mounted, its peers serve these ports, and callers are told its address."""
    config = load_yaml(DEPLOY / "envoy" / "envoy.yaml")
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
    files = set(re.findall(r'"(/etc/envoy[^"]*)"', text)) | {
        "/etc/envoy/envoy.yaml",
        SERVICES["envoy"]["pre_stop"][0]["command"][0],
    }
    assert len(files) == 6
    for path in files:
        assert any(_inside(source, target, path) for source, target, _ in _mounts("envoy")), path
    chosen = settings.parse([], _environment())
    ports = {
        cluster["name"]: [
            (peer["address"], peer["port_value"])
            for group in cluster["load_assignment"]["endpoints"]
            for peer in (each["endpoint"]["address"]["socket_address"] for each in group["lb_endpoints"])
        ]
        for cluster in config["static_resources"]["clusters"]
    }
    assert ports.pop("admin") == [("127.0.0.1", config["admin"]["address"]["socket_address"]["port_value"])]
    assert ports == {
        "imagegen": [("imagegen-server", chosen.port)],
        "generations": [("imagegen-server", chosen.port)],
        "images": [("imagegen-server", chosen.images_port)],
    }
    assert chosen.images_host == "0.0.0.0"  # noqa: S104 - inside the container
    (published,) = SERVICES["envoy"]["ports"]
    assert chosen.image_url_base == f"http://{published.rpartition(':')[0]}/images"
    listener, metrics = (each["address"]["socket_address"] for each in config["static_resources"]["listeners"])
    assert str(listener["port_value"]) == published.rpartition(":")[2]
    assert [str(metrics["port_value"])] == SERVICES["envoy"]["expose"]
    drain = int(SERVICES["envoy"]["pre_stop"][0]["command"][1])
    assert _seconds(SERVICES["envoy"]["stop_grace_period"]) > drain
    for server in (SERVICES["imagegen-server"], GPU["services"]["imagegen-server"]):
        grace = float(server["environment"]["IMAGEGEN_GRACE_PERIOD"])
        assert grace < drain, "a call that the server lets end is not cut by Envoy"


def test_nobody_can_change_what_grafana_shows() -> None:
    """Who reaches it may look; there is no account, no form to sign in, no edit that could be saved."""
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
