"""Fills in deploy/envoy/envoy.template.yaml: `python -m imagegen_server.http_edge.configure` prints the result.

Without options that is deploy/envoy/envoy.yaml, the configuration of deploy/compose.yaml.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from imagegen.v1 import imagegen_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

REPOSITORY: Final = Path(__file__).resolve().parents[3]
TEMPLATE: Final = REPOSITORY / "deploy" / "envoy" / "envoy.template.yaml"
SCRIPT: Final = REPOSITORY / "deploy" / "envoy" / "unknown_fields.lua"
DESCRIPTORS: Final = REPOSITORY / "deploy" / "envoy" / "imagegen.binpb"
PAGE: Final = REPOSITORY / "client" / "examples" / "web" / "page"
"""What Envoy serves; these are there in a checkout only."""
SAME_MACHINE: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""The origins of pages of the machine on which the browser runs."""
SAME_MACHINE_DOMAINS: Final = ("localhost", "127.0.0.1", "[::1]")
"""The names that only a browser on the machine itself can mean."""
REQUESTS_PER_SERVER: Final = 1024
"""Calls that Envoy holds for each server at most; a server itself refuses far fewer."""
_REQUEST: Final = cast("Descriptor", pb.GenerateImageRequest.DESCRIPTOR)
_LOGGERS: Final = "type.googleapis.com/envoy.extensions.access_loggers."
_ADDRESS: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")
_DOMAIN: Final = re.compile(r"\*|(\*\.)?[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]")
_METRICS: Final = re.compile(r"^ *# if metrics\n(.*?)^ *# end\n", re.MULTILINE | re.DOTALL)
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")
_NOT_SERVED: Final = {
    "name": "others",
    "domains": ["*"],
    "routes": [
        {
            "match": {"prefix": "/"},
            "direct_response": {
                "status": 421,
                "body": {"inline_string": "not served under this name; --domain of http_edge.configure adds it"},
            },
        }
    ],
}
"""What answers under any other name."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Edge:
    """What differs between one Envoy and another. The defaults are those of deploy/compose.yaml."""

    listen: str = "0.0.0.0:8000"
    """Address and port to listen on."""
    servers: Sequence[str] = ("imagegen-server:50051",)
    """host:port of the servers' gRPC ports; every address that a name resolves to is a server."""
    images: Sequence[str] = ("imagegen-server:8080",)
    """host:port of the servers' image ports."""
    replicas: int | None = None
    """How many servers there are, if a name has several addresses; as many as `servers` if None."""
    origins: Sequence[str] = ()
    """Origins of pages that may call, such as https://example.org; without any, pages of the same machine."""
    domains: Sequence[str] = ()
    """Names under which it answers, without ports; *.example.org and * are understood. Without any, those of the same
    machine, so that no name of a stranger's page leads here; if there are origins, all."""
    admin_port: int | None = 9901
    """Port of Envoy's own pages on 127.0.0.1, which drain it and stop it; None for none."""
    metrics: str | None = "0.0.0.0:9902"
    """Address and port at which Prometheus finds Envoy's own figures, under /stats/prometheus.

    None for nowhere, as without an admin port, which they come from."""
    descriptors: Path = Path("/etc/envoy/imagegen.binpb")
    page: Path = Path("/etc/envoy-page")
    access_log: Path | None = None
    """Standard output if None."""
    health_interval: float = 5.0
    """Seconds between two health checks of a server."""


class WrongEdge(Exception):
    """Some values cannot be used; the message names them all."""


def configuration(edge: Edge) -> str:
    """Returns Envoy's configuration as YAML. Raises WrongEdge, and OSError if there is no template."""
    if wrong := _violations(edge):
        raise WrongEdge("; ".join(wrong))
    replicas = edge.replicas or len(edge.servers)
    domains = edge.domains or (("*",) if edge.origins else SAME_MACHINE_DOMAINS)
    metrics = None if edge.admin_port is None else edge.metrics
    values: dict[str, object] = {
        "admin": {} if edge.admin_port is None else {"address": _socket(f"127.0.0.1:{edge.admin_port}")},
        "listen": _socket(edge.listen),
        "metrics": None if metrics is None else _socket(metrics),
        "own_pages": [] if metrics is None else [_endpoint(f"127.0.0.1:{edge.admin_port}")],
        "servers": [_endpoint(address) for address in edge.servers],
        "images": [_endpoint(address) for address in edge.images],
        "other_servers": replicas - 1,
        "searches": max(2, replicas - 1),  # where nobody told how many addresses a name has, three are asked
        "most_requests": replicas * REQUESTS_PER_SERVER,
        "origins": [{"exact": o} for o in edge.origins] or [{"safe_regex": {"regex": SAME_MACHINE}}],
        "domains": list(domains),
        "descriptors": str(edge.descriptors),
        "index_html": str(edge.page / "index.html"),
        "app_js": str(edge.page / "app.js"),
        "style_css": str(edge.page / "style.css"),
        "access_logger": _LOGGERS
        + ("stream.v3.StdoutAccessLog" if edge.access_log is None else "file.v3.FileAccessLog"),
        "health_interval": f"{edge.health_interval:g}s",
    }
    written = {name: json.dumps(value) for name, value in values.items()}  # JSON is YAML
    written["access_log"] = f"path: {json.dumps(str(edge.access_log))}" if edge.access_log else "# no file"
    written["other_domains"] = "# all names are served" if "*" in domains else f"- {json.dumps(_NOT_SERVED)}"
    written["unknown_fields"] = _indented(_script(), 28)
    template = _METRICS.sub("" if metrics is None else r"\1", TEMPLATE.read_text(encoding="utf-8"))
    return string.Template(template).substitute(written)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the configuration for the arguments, the process's own if None; returns the exit status.

    Raises SystemExit with status 2 for arguments that cannot be used.
    """
    parser = _parser()
    options = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        sys.stdout.write(configuration(Edge(**options)))
    except WrongEdge as error:
        parser.error(str(error))
    return 0


def _script() -> str:
    """Returns the script that refuses unknown fields, with the fields of the contract."""
    text = SCRIPT.read_text(encoding="utf-8")
    place = "local KNOWN = {}"
    if text.count(place) != 1:
        raise ValueError(f"{SCRIPT} has no place for the contract's fields")
    return text.replace(place, f"local KNOWN = {_fields(_REQUEST)}")


def _fields(root: Descriptor) -> str:
    """Returns a Lua table of the messages of the contract that a message leads to: fields, by both their names."""
    messages: dict[str, dict[str, str]] = {}
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message.name in messages:
            continue
        fields: dict[str, str] = {}
        for field in message.fields:
            inner = field.message_type
            own = inner if inner is not None and inner.file.package == root.file.package else None
            fields |= dict.fromkeys((field.name, field.json_name), own.name if own else "")
            waiting += [own] if own else []
        messages[message.name] = fields
    rows = [
        f"{name} = {{{', '.join(f'{field} = {json.dumps(kind)}' for field, kind in fields.items())}}}"
        for name, fields in sorted(messages.items())
    ]
    return "{\n  " + ",\n  ".join(rows) + "\n}"


def _indented(text: str, columns: int) -> str:
    """Returns a text for a place at a column: every line but the first is moved there."""
    return text.rstrip().replace("\n", "\n" + " " * columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imagegen_server.http_edge.configure",
        description="Prints a configuration for Envoy in front of servers; by default, that of deploy/compose.yaml.",
        allow_abbrev=False,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"where Envoy listens (default: {Edge().listen})")
    parser.add_argument(
        "--server",
        dest="servers",
        action="append",
        metavar="HOST:PORT",
        help="a server's gRPC port; may be given again",
    )
    parser.add_argument(
        "--images",
        dest="images",
        action="append",
        metavar="HOST:PORT",
        help="a server's image port; may be given again",
    )
    parser.add_argument("--replicas", type=int, metavar="N", help="servers, if a name has several addresses")
    parser.add_argument(
        "--origin",
        dest="origins",
        action="append",
        metavar="URL",
        help="origin of a page that may call, such as https://example.org; may be given again (default: same machine)",
    )
    parser.add_argument(
        "--domain",
        dest="domains",
        action="append",
        metavar="NAME",
        help="name under which to answer, whatever the port, such as images.example.org or *.example.org; may be given "
        "again (default: the same machine's, or with --origin all)",
    )
    parser.add_argument("--admin-port", type=int, metavar="PORT", help="of Envoy's own pages on 127.0.0.1")
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help=f"where Prometheus finds Envoy's own figures, under /stats/prometheus (default: {Edge().metrics})",
    )
    parser.add_argument("--descriptors", type=Path, metavar="FILE", help="the contract, as Envoy sees its file system")
    parser.add_argument("--page", type=Path, metavar="DIRECTORY", help="the page, as Envoy sees its file system")
    parser.add_argument("--access-log", type=Path, metavar="FILE")
    parser.add_argument("--health-interval", type=float, metavar="SECONDS")
    return parser


def _violations(edge: Edge) -> list[str]:
    addresses = [("listen", edge.listen), *(("server", a) for a in edge.servers), *(("images", a) for a in edge.images)]
    wrong = [f"{name}: {value!r} is not host:port" for name, value in addresses if not _is_address(value)]
    if edge.metrics is not None and not _is_address(edge.metrics):
        wrong.append(f"metrics: {edge.metrics!r} is not host:port")
    wrong += [
        f"origin: {value!r} is not http://host or https://host, with :port or without"
        for value in edge.origins
        if not _ORIGIN.fullmatch(value)
    ]
    wrong += [
        f"domain: {value!r} is no name of a host, nor *.example.org, *, or an address, without :port"
        for value in edge.domains
        if not _DOMAIN.fullmatch(value)
    ]
    if not edge.servers:
        wrong.append("server: there is none")
    if edge.replicas is not None and edge.replicas < 1:
        wrong.append(f"replicas: must be at least 1, got {edge.replicas}")
    if edge.admin_port is not None and not 1 <= edge.admin_port <= 65535:
        wrong.append(f"admin-port: must be 1 to 65535, got {edge.admin_port}")
    if not 0.1 <= edge.health_interval <= 3600:
        wrong.append(f"health-interval: must be 0.1 to 3600 seconds, got {edge.health_interval:g}")
    return wrong


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 1 <= int(match["port"]) <= 65535


def _socket(address: str) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _endpoint(address: str) -> dict[str, object]:
    return {"endpoint": {"address": _socket(address)}}


if __name__ == "__main__":
    sys.exit(main())
