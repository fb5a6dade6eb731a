"""NVIDIA's management library behind the GpuLibrary protocol."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from imagegen_server.telemetry.gpu import GpuError, GpuIdentity, GpuMemory, NoGpuError


class Nvml:
    """Reads GPUs through the `pynvml` module of nvidia-ml-py."""

    def __init__(self, module: Any = None) -> None:
        """Args: module: one with pynvml's functions and errors; pynvml itself if None."""
        self._nvml = module or importlib.import_module("pynvml")
        self._open = False
        self._kinds = {
            self._nvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
            self._nvml.NVML_ERROR_NO_PERMISSION: "no_permission",
            self._nvml.NVML_ERROR_GPU_IS_LOST: "lost",
            self._nvml.NVML_ERROR_RESET_REQUIRED: "lost",
            self._nvml.NVML_ERROR_UNINITIALIZED: "lost",
            self._nvml.NVML_ERROR_TIMEOUT: "timeout",
        }

    def open(self) -> None:
        """Loads the library and connects to the driver."""
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND, self._nvml.NVML_ERROR_DRIVER_NOT_LOADED):
                raise NoGpuError from error
            raise self._failure(error) from error
        self._open = True

    def devices(self) -> tuple[GpuIdentity, ...]:
        """Returns every GPU that the driver shows to this process."""
        try:
            driver = self._nvml.nvmlSystemGetDriverVersion()
            return tuple(self._identity(index, driver) for index in range(self._nvml.nvmlDeviceGetCount()))
        except self._nvml.NVMLError as error:
            raise self._failure(error) from error

    def memory(self, index: int) -> GpuMemory:
        """Reads a GPU's memory."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByIndex(index))
        except self._nvml.NVMLError as error:
            raise self._failure(error) from error
        return GpuMemory(used=int(memory.used), total=int(memory.total))

    def close(self) -> None:
        """Disconnects from the driver. A failure changes nothing: the next `open` connects anew."""
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _identity(self, index: int, driver: str) -> GpuIdentity:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        return GpuIdentity(
            index=index,
            uuid=self._nvml.nvmlDeviceGetUUID(handle),
            name=self._nvml.nvmlDeviceGetName(handle),
            driver=driver,
            mig=self._mig(handle),
        )

    def _mig(self, handle: object) -> str:
        """Returns whether the GPU is divided into instances."""
        try:
            current, _pending = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_NOT_SUPPORTED, self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                return "unsupported"
            raise
        return "enabled" if current else "disabled"

    def _failure(self, error: Any) -> GpuError:
        return GpuError(self._kinds.get(error.value, "unknown"))
