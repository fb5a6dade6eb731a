"""The systemd unit fits the server: its flags exist, its times suffice, its exit statuses mean what it thinks."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from imagegen_server import __main__ as program
from imagegen_server import settings

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "imagegen-server.service"


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign] # the way to keep the case of names
    parser.read(UNIT, encoding="utf-8")
    return dict(parser["Service"])


def test_the_command_line_is_valid_and_the_stop_is_patient_enough(service: dict[str, str]) -> None:
    """Every flag is a setting, and systemd waits longer than the drain takes."""
    executable, *arguments = shlex.split(service["ExecStart"])
    assert Path(executable).name == "imagegen-server"
    chosen = settings.parse(arguments, {})
    assert service["KillSignal"] == "SIGTERM"
    assert float(service["TimeoutStopSec"]) >= chosen.grace_period + 10


def test_variables_are_settings(service: dict[str, str]) -> None:
    """What the unit sets with our prefix is read by the server."""
    variables = dict(pair.split("=", 1) for pair in service["Environment"].split())
    assert settings.unknown_variables(variables) == ()
    assert "IMAGEGEN_CACHE_DIR" in variables


def test_only_a_lost_device_is_restarted(service: dict[str, str]) -> None:
    """Wrong settings and a failed start are left to a person."""
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", str(program.STARTUP_FAILED)]


def test_the_service_is_confined(service: dict[str, str]) -> None:
    """No root, no new privileges, a read-only system, no capabilities."""
    for name in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
