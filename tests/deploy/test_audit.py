"""The audit fails for vulnerabilities that are not allowed, and only says so where nobody could be asked."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.ports import closed_port
from support.scripts import DEPLOY, load

audit = load("supply/audit.py")
TODAY = datetime.date(2027, 1, 15)
FOUND = audit.Finding(package="pillow", version="13.0.0", ids=frozenset({"GHSA-1", "CVE-1"}), fixed="13.0.1")


class Osv(ThreadingHTTPServer):
    """Speaks OSV's query call, and knows what it is told."""

    daemon_threads = True
    known: dict[str, Any]

    @property
    def url(self) -> str:
        """Where pip-audit asks."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class _Handler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(self.server.known.get(asked["package"]["name"], {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs nothing."""


def _vulnerable(identifier: str) -> dict[str, Any]:
    entry = {"id": identifier, "aliases": [], "summary": "bad", "affected": [], "published": "2026-01-01T00:00:00Z"}
    return {"vulns": [entry]}


@pytest.fixture(scope="module")
def service() -> Iterator[Osv]:
    """A vulnerability service; each test says what it knows."""
    with Osv(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A requirement with a hash, as the locked files have them."""
    path = tmp_path / "server.txt"
    path.write_text(f"pillow==13.0.0 \\\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    return path


def test_a_known_vulnerability_fails(service: Osv, locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the service knows of a locked version is named, with the status that stops a build."""
    service.known = {"django": _vulnerable("GHSA-0"), "pillow": _vulnerable("GHSA-1")}
    assert audit.main(["--osv-url", service.url, str(locked)]) == 1
    assert "VULNERABLE: pillow 13.0.0: GHSA-1; fixed in no version yet" in capsys.readouterr().out


def test_versions_without_one_pass(service: Osv, locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that knows vulnerabilities, but none of these, was asked and has answered."""
    service.known = {"django": _vulnerable("GHSA-0")}
    assert audit.main(["--osv-url", service.url, str(locked)]) == 0
    assert capsys.readouterr().out == "no known vulnerabilities\n"


def test_a_service_that_knows_nothing_was_not_asked(
    service: Osv, locked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty answers to everything are no clean bill: it says that nothing was audited, and stops nobody."""
    service.known = {}
    assert audit.main(["--osv-url", service.url, str(locked)]) == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED")


def test_a_service_that_is_not_there_stops_nobody(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No connection: the same."""
    with closed_port() as port:
        assert audit.main(["--osv-url", f"http://127.0.0.1:{port}/", str(locked)]) == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED")


def test_an_audit_that_fails_otherwise_is_a_failure(
    service: Osv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that pip-audit cannot read is not an unreachable service."""
    service.known = {"django": _vulnerable("GHSA-0")}
    assert audit.main(["--osv-url", service.url, str(tmp_path / "missing.txt")]) == 2
    assert "the audit failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("allowance", "status", "said"),
    [
        ({}, 0, "allowed until 2027-01-15: pillow 13.0.0"),
        ({"id": "CVE-1"}, 0, "allowed until"),
        ({"until": datetime.date(2027, 1, 14)}, 1, "VULNERABLE: pillow 13.0.0: CVE-1, GHSA-1; fixed in 13.0.1 (was"),
        ({"package": "torch"}, 1, "no longer needed in audit.toml: GHSA-1 of torch"),
        ({"id": "GHSA-2"}, 1, "VULNERABLE: pillow"),
    ],
    ids=["to the day", "by its alias", "a day late", "another package", "another one"],
)
def test_an_allowance_is_for_one_and_ends(
    capsys: pytest.CaptureFixture[str], allowance: dict[str, Any], status: int, said: str
) -> None:
    """It covers one vulnerability of one package until its day; one that is not needed is named."""
    entry = {"id": "GHSA-1", "package": "pillow", "reason": "not called", "until": TODAY} | allowance
    assert audit.verdict([FOUND], [], [audit.Allowance(**entry)], TODAY) == status
    assert said in capsys.readouterr().out


def test_what_was_not_audited_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A package that the service does not know is not passed over in silence."""
    assert audit.verdict([], ["nvidia-cublas"], [], TODAY) == 0
    assert "not audited, as the service does not know it: nvidia-cublas" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        'id = "GHSA-1"',
        'id = "a"\npackage = "b"\nreason = " "\nuntil = 2027-01-31',
        'id = "a"\npackage = "b"\nreason = "c"\nuntil = "soon"',
    ],
    ids=["incomplete", "no reason", "no date"],
)
def test_an_allowance_has_a_reason_and_an_end(tmp_path: Path, text: str) -> None:
    """An entry that lacks something is refused."""
    path = tmp_path / "audit.toml"
    path.write_text(f"[[allow]]\n{text}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"audit\.toml"):
        audit.load_allowances(path)


def test_the_project_s_allowances_are_short() -> None:
    """What is allowed now is well formed and ends within half a year."""
    latest = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=183)
    assert all(entry.until <= latest for entry in audit.load_allowances(DEPLOY / "supply" / "audit.toml"))


def test_what_is_deployed_is_audited() -> None:
    """The files with the versions of the image, the build for GPUs included."""
    assert {path.name for path in audit.REQUIREMENTS} == {"server.txt", "torch-cuda.txt"}
    assert all(path.is_file() for path in audit.REQUIREMENTS)
