"""NVML's answers and statuses, from a module that stands where pynvml is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from imagegen_server.telemetry import Nvml
from imagegen_server.telemetry.gpu import GpuError, GpuIdentity, GpuMemory, NoGpuError
from imagegen_server.telemetry.metrics import GPU_ERRORS


class FakePynvml(SimpleNamespace):
    """Stands where the pynvml module is: a driver with one card. `fail` maps a function to an NVML status."""

    def __init__(self) -> None:
        super().__init__(**{name: getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_")})
        self.NVMLError = pynvml.NVMLError
        self.fail: dict[str, int] = {}
        self.connections = 0

    def _answer(self, name: str, answer: Any) -> Any:
        if name in self.fail:
            raise pynvml.NVMLError(self.fail[name])
        return answer

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "570.1",
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetUUID": "GPU-x",
            "nvmlDeviceGetName": "H",
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=5, total=9, free=4),
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: self._answer(name, answers[name])


def test_nvml_answers_become_values() -> None:
    """The adapter reads identity and memory, and MIG where the card knows of it."""
    module = FakePynvml()
    nvml = Nvml(module)
    nvml.open()
    assert nvml.devices() == (GpuIdentity(index=0, uuid="GPU-x", name="H", driver="570.1", mig="disabled"),)
    assert nvml.memory(0) == GpuMemory(used=5, total=9)
    module.fail["nvmlDeviceGetMigMode"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.devices()[0].mig == "unsupported"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "not_supported"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no_permission"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "lost"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "lost"),
        (pynvml.NVML_ERROR_TIMEOUT, "timeout"),
        (pynvml.NVML_ERROR_UNKNOWN, "unknown"),
        (12345, "unknown"),
    ],
)
def test_nvml_statuses_become_a_closed_set(status: int, kind: str) -> None:
    """Every status of the driver is one of the label's values."""
    module = FakePynvml()
    module.fail = {"nvmlDeviceGetMemoryInfo": status, "nvmlDeviceGetUUID": status}
    nvml = Nvml(module)
    nvml.open()
    for call in (lambda: nvml.memory(0), nvml.devices):
        with pytest.raises(GpuError) as error:
            call()
        assert error.value.kind == kind
        assert kind in GPU_ERRORS


@pytest.mark.parametrize("status", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_missing_driver_is_no_gpu(status: int) -> None:
    """Neither library nor driver: NoGpuError; any other failure to connect is a GpuError."""
    module = FakePynvml()
    module.fail["nvmlInit"] = status
    with pytest.raises(NoGpuError):
        Nvml(module).open()
    module.fail["nvmlInit"] = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    with pytest.raises(GpuError, match="unknown"):
        Nvml(module).open()


def test_closing_never_raises() -> None:
    """A connection closes once, without an error even if the driver is gone."""
    module = FakePynvml()
    nvml = Nvml(module)
    nvml.close()
    nvml.open()
    module.fail["nvmlShutdown"] = pynvml.NVML_ERROR_GPU_IS_LOST
    nvml.close()
    nvml.close()
    module.fail["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_UNINITIALIZED
    with pytest.raises(GpuError, match="lost"):
        nvml.memory(0)


def test_the_real_library_loads_without_a_driver() -> None:
    """nvidia-ml-py is there and either connects or says that there is no GPU."""
    nvml = Nvml()
    try:
        nvml.open()
    except NoGpuError:
        return
    assert isinstance(nvml.devices(), tuple)
    nvml.close()
