"""Asks whether the versions that the image installs have known vulnerabilities: `make audit`, with pip-audit.

Exit status: 0 nothing is known, or all of it is allowed in audit.toml; 1 something is known that is not allowed, or no
longer; 2 the audit itself failed. If no vulnerability service can be reached, that is said in capitals, and the status
is 0: a network that ends at a package index is no reason to stop work. A service counts as reached only once it has
named the vulnerabilities of a release that is known to have some: pip-audit passes over what a service never heard of.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = tuple(HERE.parent / "locked" / name for name in ("server.txt", "torch-cuda.txt"))
KNOWN_BAD = "django==2.0"
"""A release with published vulnerabilities, by which a service shows that it knows some."""
SECONDS = 120.0
"""How long one run of pip-audit may take."""
UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded|NameResolutionError"
    r"|\b(?:403|407|429|5\d\d) (?:Client|Server) Error"
)
"""What pip-audit says where a service cannot be reached or does not answer."""


class NotReached(Exception):
    """The service did not answer; the message says how."""


class AuditFailed(Exception):
    """pip-audit ended in another way; the message is what it wrote."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Finding:
    """A vulnerability of a locked version."""

    package: str
    version: str
    ids: frozenset[str]
    """What it is called: its id and aliases."""
    fixed: str
    """The versions without it, as text; empty if there is none."""

    def __str__(self) -> str:
        """Returns a line for a person."""
        return (
            f"{self.package} {self.version}: {', '.join(sorted(self.ids))}; fixed in {self.fixed or 'no version yet'}"
        )


@dataclass(kw_only=True, frozen=True, slots=True)
class Allowance:
    """A vulnerability that is known and accepted for a while."""

    id: str
    package: str
    reason: str
    until: datetime.date
    """The last day on which it is accepted."""

    def covers(self, finding: Finding) -> bool:
        """Returns whether it means this finding."""
        return self.package == finding.package and self.id in finding.ids


def main(argv: list[str] | None = None) -> int:
    """Audits, says what was found, and returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--osv-url", help="ask this OSV service alone, instead of PyPI and then osv.dev")
    parser.add_argument("--allowed", type=Path, default=HERE / "audit.toml", help="(default: %(default)s)")
    parser.add_argument("requirements", type=Path, nargs="*", default=REQUIREMENTS, help="files to audit")
    chosen = parser.parse_args(argv)
    services: list[tuple[str, ...]] = [("pypi",), ("osv",)]
    if chosen.osv_url:
        services = [("osv", "--osv-url", chosen.osv_url)]
    try:
        allowed = load_allowances(chosen.allowed)
        service = reachable(services)
        findings, unknown = audit(service, chosen.requirements)
    except NotReached as error:
        print(f"NOT AUDITED: no vulnerability service could be reached, so nothing is known.\n{error}")
        return 0
    except (AuditFailed, ValueError) as error:
        print(f"the audit failed: {error}", file=sys.stderr)
        return 2
    return verdict(findings, unknown, allowed, datetime.datetime.now(datetime.UTC).date())


def load_allowances(path: Path) -> list[Allowance]:
    """Returns what a file allows. Raises ValueError if an entry lacks something or has no reason."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("allow", [])
    for entry in entries:
        if set(entry) != {"id", "package", "reason", "until"} or not str(entry["reason"]).strip():
            raise ValueError(f"{path}: an entry needs id, package, reason and until, and nothing else: {entry}")
        if type(entry["until"]) is not datetime.date:
            raise ValueError(f"{path}: until is a date such as 2027-01-31: {entry}")
    return [Allowance(**entry) for entry in entries]


def reachable(services: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the first service that knows vulnerabilities, as arguments of pip-audit.

    Raises NotReached or AuditFailed.
    """
    problems = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(KNOWN_BAD)
        file.flush()
        for service in services:
            try:
                if audit(service, [Path(file.name)])[0]:
                    return service
                problems.append(f"{service[0]}: knows nothing of {KNOWN_BAD}")
            except NotReached as error:
                problems.append(f"{service[0]}: {error}")
    raise NotReached("\n".join(problems))


def audit(service: tuple[str, ...], requirements: list[Path]) -> tuple[list[Finding], list[str]]:
    """Returns the findings in requirement files, and the packages that the service does not know.

    Raises NotReached or AuditFailed.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    command += ["--no-deps", "--disable-pip", "--vulnerability-service", *service]
    command += [part for path in requirements for part in ("--requirement", str(path))]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise NotReached(f"no answer within {SECONDS:.0f} s") from None
    try:
        report: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        last = (ended.stderr.strip().splitlines() or ["pip-audit wrote nothing"])[-1]
        raise (NotReached if UNREACHABLE.search(ended.stderr) else AuditFailed)(last) from None
    parts = report["dependencies"]
    return [found for part in parts for found in _findings(part)], [
        part["name"] for part in parts if "skip_reason" in part
    ]


def _findings(part: dict[str, Any]) -> list[Finding]:
    return [
        Finding(
            package=part["name"],
            version=part["version"],
            ids=frozenset([found["id"], *found["aliases"]]),
            fixed=", ".join(found["fix_versions"]),
        )
        for found in part.get("vulns", ())
    ]


def verdict(findings: list[Finding], unknown: list[str], allowed: list[Allowance], today: datetime.date) -> int:
    """Says what was found and what is allowed, and returns the exit status: 1 if something is not allowed."""
    status = 0
    for finding in findings:
        allowance = next((entry for entry in allowed if entry.covers(finding)), None)
        if allowance is not None and today <= allowance.until:
            print(f"allowed until {allowance.until}: {finding} ({allowance.reason})")
            continue
        status = 1
        print(f"VULNERABLE: {finding}" + (f" (was allowed until {allowance.until})" if allowance else ""))
    for entry in allowed:
        if not any(entry.covers(finding) for finding in findings):
            print(f"no longer needed in audit.toml: {entry.id} of {entry.package}")
    for name in unknown:
        print(f"not audited, as the service does not know it: {name}")
    if not findings:
        print("no known vulnerabilities")
    return status


if __name__ == "__main__":
    sys.exit(main())
