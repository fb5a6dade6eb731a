"""The systemd unit fits the server: its flags exist, its times suffice, its exit statuses mean what it thinks."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from imagegen_server import __main__ as server
from imagegen_server import settings
from support.needs import lacking

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "imagegen-server.service"


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
    chosen = settings.parse(arguments, _variables(service))
    assert service["KillSignal"] == "SIGTERM"
    assert float(service["TimeoutStopSec"]) >= chosen.grace_period + 10


def test_the_file_of_settings_can_change_everything(service: dict[str, str]) -> None:
    """The unit sets variables, over which systemd puts the file's, and no flags, which would win over both."""
    assert service["EnvironmentFile"] == "-/etc/imagegen.env"
    assert shlex.split(service["ExecStart"])[1:] == []
    chosen = settings.parse([], _variables(service))
    assert (chosen.log_format, chosen.grace_period) == ("json", 30)


def test_variables_are_settings(service: dict[str, str]) -> None:
    """What the unit sets with our prefix is read by the server."""
    variables = _variables(service)
    assert settings.unknown_variables(variables) == ()
    assert "IMAGEGEN_CACHE_DIR" in variables


def test_only_a_lost_device_is_restarted(service: dict[str, str]) -> None:
    """Wrong settings and a failed start are left to a person."""
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", str(server.STARTUP_FAILED)]


def test_the_service_is_confined(service: dict[str, str]) -> None:
    """No root, no new privileges, a read-only system, no capabilities, nothing of the kernel."""
    protected = [
        name for name in service if name.startswith("Protect") and name not in ("ProtectSystem", "ProtectProc")
    ]
    assert len(protected) >= 7
    for name in (*protected, "DynamicUser", "NoNewPrivileges", "PrivateTmp", "RestrictNamespaces", "RestrictSUIDSGID"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert service["ProtectProc"] == "invisible"
    assert service["SystemCallArchitectures"] == "native"
    assert service["RestrictRealtime"] == service["LockPersonality"] == "yes"
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""


def test_what_it_writes_has_a_directory(service: dict[str, str]) -> None:
    """Weights go to the unit's cache directory, the rest of a home to its state directory; neither is for others."""
    variables = _variables(service)
    assert variables["IMAGEGEN_CACHE_DIR"] == variables["HF_HOME"] == f"%C/{service['CacheDirectory']}"
    assert variables["HOME"] == f"%S/{service['StateDirectory']}"
    assert service["CacheDirectoryMode"] == service["StateDirectoryMode"] == "0750"
    assert service["UMask"] == "0077"


def test_the_kernel_is_asked_for_what_services_need() -> None:
    """An allow list without what needs privileges; and with a status that libraries expect instead of a kill."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()  # a directive that is given twice, which the parser merges
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert filters == ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged"]
    assert "SystemCallErrorNumber=EPERM" in lines


def test_of_the_devices_it_has_nvidia_s(service: dict[str, str]) -> None:
    """All others are closed; the private ones, which would hide the GPU, are not asked for."""
    assert service["DevicePolicy"] == "closed"
    assert service["DeviceAllow"] == "char-nvidia* rw"
    assert "PrivateDevices" not in service


def test_systemd_takes_it(tmp_path: Path) -> None:
    """Every directive is known, with a value that it may have."""
    unit = UNIT.read_text(encoding="utf-8").replace("/opt/imagegen/bin/imagegen-server", "/bin/true")
    copy = tmp_path / UNIT.name  # the program need not be installed here
    copy.write_text(unit, encoding="utf-8")
    found = _analyze("verify", str(copy))
    assert (found.returncode, found.stdout) == (0, "")


def test_systemd_finds_it_hardened() -> None:
    """Its exposure is at most 2 of 10 by systemd's own measure; 1.8 by that of systemd 252."""
    found = _analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT))
    assert found.returncode == 0, found.stdout


def test_a_tuning_is_made_where_the_service_looks(service: dict[str, str], tmp_path: Path) -> None:
    """The README's command has the unit's user, directories, file of settings and program, and systemd takes them."""
    (command,) = re.findall(r"systemd-run .*?\n(?=    systemctl)", (DEPLOY / "README.md").read_text(), re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    given = list(pairwise(words))
    properties = dict(value.split("=", 1) for option, value in given if option == "-p")
    variables = dict(value.split("=", 1) for option, value in given if option == "-E")
    assert properties.pop("User") == UNIT.stem  # what a dynamic user is called without it
    assert properties == {name: service[name] for name in properties}
    assert {"DynamicUser", "CacheDirectory", "StateDirectory", "EnvironmentFile", "UMask"} <= set(properties)
    places = {"%C": "/var/cache", "%S": "/var/lib"}  # which systemd-run does not fill in
    expected = {
        name: re.sub("%[CS]", lambda found: places[found[0]], value) for name, value in _variables(service).items()
    }
    assert variables == {name: expected[name] for name in ("IMAGEGEN_CACHE_DIR", "HF_HOME", "HOME")}
    assert words[-2:] == [service["ExecStart"], "tune"]
    copy = tmp_path / "imagegen-tune.service"
    lines = [f"{name}={value}" for name, value in {**properties, "User": UNIT.stem, "ExecStart": "/bin/true"}.items()]
    copy.write_text("\n".join(["[Service]", *lines, ""]), encoding="utf-8")
    found = _analyze("verify", str(copy))
    assert (found.returncode, found.stdout) == (0, "")


def _variables(service: dict[str, str]) -> dict[str, str]:
    """Returns what the unit sets itself."""
    return dict(pair.split("=", 1) for pair in service["Environment"].split())


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs systemd-analyze; the test is skipped where it is missing, and fails there under continuous integration."""
    program = shutil.which("systemd-analyze")
    if program is None:
        lacking("systemd-analyze (package systemd) is not installed")
    command = [program, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
