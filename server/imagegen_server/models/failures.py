"""Turns what torch raises into the server's errors.

A live exception holds its traceback, whose frames hold tensors: an out-of-memory error kept for later would pin
the memory that is missing. Errors made here keep the traceback as text.
"""

from __future__ import annotations

import gc
import traceback

import torch

from imagegen_server.core import Stage
from imagegen_server.errors import DeviceLost, ImageGenError, OutOfDeviceMemory, StageError

_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle could not be made: in a process that uses CUDA, for want of memory
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute",  # cuDNN's, from torch: no convolution's workspace fits
    "can't allocate memory",
    "not enough memory",
)
_REFUSED = ("CUBLAS_STATUS_NOT_SUPPORTED", "CUBLAS_STATUS_INVALID_VALUE", "CUBLAS_STATUS_ARCH_MISMATCH")
"""cuBLAS has no kernel for such a product; torch calls that a CUDA error too, though the device can go on."""
_DEVICE_LOST = ("CUDA error", "CUDA driver error", "device-side assert")


def device_failure(error: Exception, stage: Stage) -> StageError | None:
    """Returns the error of a device that is out of memory or lost; None if the error is something else."""
    if isinstance(error, OutOfDeviceMemory | DeviceLost):
        return error
    message = str(error)
    if isinstance(error, torch.OutOfMemoryError) or _says(error, message, _OUT_OF_MEMORY):
        return _described(OutOfDeviceMemory(f"the device ran out of memory in {stage}"), error)
    if _says(error, message, _DEVICE_LOST) and not _says(error, message, _REFUSED):
        return _described(DeviceLost(f"the device failed in {stage}"), error)
    return None


def job_failure(error: Exception, stage: Stage) -> Exception:
    """Returns what one job's result reports for an error that stopped only this job.

    Raises DeviceLost: that is never one job's failure.
    """
    failure = device_failure(error, stage)
    if isinstance(failure, DeviceLost):
        raise failure
    if isinstance(error, ImageGenError):
        return error
    return failure or _described(StageError(f"{stage} failed: {type(error).__name__}"), error)


def free_cached_memory(device: torch.device) -> None:
    """Returns the allocator's unused blocks to the device, after those that only cycles of objects hold."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _says(error: Exception, message: str, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(sign in message for sign in signs)


def _described(failure: StageError, error: Exception) -> StageError:
    failure.add_note("".join(traceback.format_exception(error)))
    return failure
