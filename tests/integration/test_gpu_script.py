"""Simulated GPUs in a real server: what it shows, what it refuses, and a driver that hangs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import grpc
import pytest

from imagegen_server import api, models
from imagegen_server.core import DeviceInfo
from imagegen_server.errors import StartupError
from imagegen_server.monitoring import Telemetry
from imagegen_server.process import Process
from imagegen_server.settings import parse
from support.live_server import COMMAND, live_server, open_channel
from support.load import generate, request
from support.waiting import eventually

FAKE = DeviceInfo(type="fake", name="no device", driver="", total_memory_bytes=0)
UUID = "GPU-00000000-0000-0000-0000-000000000000"


def test_a_server_shows_its_script(tmp_path: Path) -> None:
    """A machine without a GPU serves the readings, the faults and the allocator of a script over HTTP."""
    script = (
        '{"temperature": 91, "memory_used": 2000, "ecc": {"uncorrected": [[0, 0], [1, 2]]}, '
        '"remap_failed": true, "remap_pending": true, '
        '"gpus": [{}, {"power": 77, "errors": {"utilization": "not_supported"}}], "allocator": {"ooms": 3}}'
    )
    with live_server(tmp_path, "--gpu-script", script) as server:
        eventually(lambda: server.metrics().total("imagegen_gpu_collector_up") == 1, "no readings")
        eventually(lambda: server.metrics().total("imagegen_gpu_ecc_errors_total", gpu="0") == 2, "no ECC errors")
        samples = server.metrics()
    assert samples.has("imagegen_gpu_info", gpu="0", uuid=UUID, driver="simulated", mig="disabled")
    assert samples.total("imagegen_gpu_temperature_celsius", gpu="0") == 91
    assert samples.total("imagegen_gpu_memory_used_bytes", gpu="1") == 2000
    assert samples.total("imagegen_gpu_power_watts", gpu="1") == 77
    assert samples.total("imagegen_gpu_energy_joules_total", gpu="1") > 0
    assert samples.total("imagegen_gpu_health", gpu="0") == 0
    assert samples.total("imagegen_gpu_remap_pending", gpu="0") == 1
    assert not samples.has("imagegen_gpu_utilization_ratio", gpu="1")
    assert samples.total("imagegen_gpu_collector_errors_total", call="utilization", error="not_supported") == 1
    assert samples.total("imagegen_torch_ooms_total") == 3


def test_a_wrong_script_does_not_start(tmp_path: Path) -> None:
    """The server ends with a message that names everything wrong."""
    command = [*COMMAND, "--model", "fake", "--port", "0", "--metrics-port", "0"]
    ended = subprocess.run(
        [*command, "--gpu-script", '{"power": -1, "watts": 2}'],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    assert ended.returncode > 0
    assert "power: should be from 0" in ended.stderr.decode()
    assert "watts: is no key of the script" in ended.stderr.decode()


@pytest.mark.parametrize("call", ["init", "energy"])
def test_a_driver_that_never_answers_blocks_nothing(tmp_path: Path, call: str) -> None:
    """While the driver hangs, the server starts, generates, answers scrapes and ends at once when it is asked to."""
    script = f'{{"hang": {{"call": "{call}", "from": 0}}}}'
    with live_server(tmp_path, "--gpu-script", script) as server:
        with open_channel(server.address) as channel:
            assert generate(channel, request("a cat")).code is grpc.StatusCode.OK
        samples = server.metrics()
        assert samples.total("imagegen_gpu_collector_up") == 0
        assert samples.total("imagegen_images_total") == 1
        server.terminate()
        assert server.wait() == 0


def _telemetry(script: str) -> Telemetry:
    settings = parse(["--model", "fake", "--metrics-port", "none", "--gpu-script", script], {})
    return Telemetry(settings, Process(models.model_profiles()), api.Quotas(api.TenantLimits()))


def test_energy_is_known_once_a_device_is_served() -> None:
    """Nothing before the device is known; then the first simulated GPU's joules, which grow; nothing once it stops."""
    watch = _telemetry('{"gpus": [{"power": 100000}, {"power": 0}]}')
    assert watch.energy() is None
    watch.start()
    watch.serve_on(FAKE)
    eventually(lambda: watch.energy() is not None, "no energy")
    first = watch.energy() or 0.0
    time.sleep(0.01)
    assert (watch.energy() or 0.0) > first
    watch.stop()


def test_a_cpu_has_no_energy_beside_a_real_gpu() -> None:
    """Without a script, a device without a UUID has no energy, whatever GPUs the machine has."""
    watch = _telemetry("")
    watch.start()
    watch.serve_on(FAKE)
    assert watch.energy() is None
    watch.stop()


def test_a_wrong_script_is_a_startup_error() -> None:
    """As every setting that is wrong."""
    with pytest.raises(StartupError, match="fan: is no key"):
        _telemetry('{"fan": 1}')
