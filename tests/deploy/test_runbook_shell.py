"""What the runbook has people type: each way of deploying defines the same functions, and they ask what they should."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.rules import RUNBOOK

TEXT = RUNBOOK.read_text(encoding="utf-8")
FIRST, *OTHERS = re.findall(
    r"^```sh\n(.*?)^```", TEXT.partition("## Before anything else")[2], re.MULTILINE | re.DOTALL
)
WAYS = dict(re.findall(r"^# (systemd|compose|Kubernetes): [^\n]*\n(.*?)(?=^# |\Z)", FIRST, re.MULTILINE | re.DOTALL))
PROGRAMS = ("journalctl", "systemd-run", "docker", "kubectl")
every_way = pytest.mark.parametrize("way", WAYS)


def asked(way: str, line: str, directory: Path) -> str:
    """Returns how the programs of a way of deploying are called by a line, with stand-ins that print arguments."""
    for program in PROGRAMS:
        stand_in = directory / program
        stand_in.write_text('#!/bin/sh\nprintf "{%s" "${0##*/}"; printf " <%s>" "$@"; echo\n', encoding="utf-8")
        stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    script = re.sub(r"^kubectl .*&.*$", "", WAYS[way], flags=re.MULTILINE)  # the port-forward
    found = subprocess.run(
        ["bash", "-eu", "-c", f"{script}\n{line}"], env=environment, capture_output=True, text=True, check=True
    )
    return found.stdout


def test_there_are_three_ways() -> None:
    assert list(WAYS) == ["systemd", "compose", "Kubernetes"]


@every_way
def test_logs_go_back_an_hour_or_as_far_as_is_asked(way: str, tmp_path: Path) -> None:
    """What happened days ago, or when the server started, is found as well."""
    since = {"systemd": "<-S> <-{}>", "compose": "<--since> <{}>", "Kubernetes": "<--since> <{}>"}[way]
    assert since.format("1h") in asked(way, "logs", tmp_path)
    assert since.format("72h") in asked(way, "logs 72h", tmp_path)
    assert set(re.findall(r"\blogs (\S+h)\b", TEXT)) >= {"24h", "72h", "720h"}


@every_way
def test_programs_are_run_where_they_are(way: str, tmp_path: Path) -> None:
    """On none of the three is imagegen-server on the path of the host."""
    found = asked(way, "at imagegen-server top --once", tmp_path)
    where = {"systemd": "</opt/imagegen/bin/imagegen-server>", "compose": "<exec> <imagegen-server> <imagegen-server>"}
    assert where.get(way, "<--> <imagegen-server>") + " <top> <--once>" in found
    typed = [line for line in TEXT.splitlines() if re.match(r"(at )?imagegen(-server)? ", line)]
    assert typed
    assert [line for line in typed if not line.startswith("at ")] == []


@pytest.mark.parametrize("block", OTHERS)
def test_what_is_to_be_typed_is_bash(block: str) -> None:
    subprocess.run(["bash", "-n", "-c", block], check=True)
