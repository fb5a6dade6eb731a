"""What torch's errors become."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from imagegen_server.core import Stage
from imagegen_server.errors import DeviceLost, NonFinite, OutOfDeviceMemory, StageError
from imagegen_server.models.failures import device_failure, job_failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfDeviceMemory),
        (RuntimeError("CUDA error: out of memory"), OutOfDeviceMemory),
        (RuntimeError("GET was unable to find an engine to execute this computation"), OutOfDeviceMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfDeviceMemory),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfDeviceMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`"), OutOfDeviceMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), OutOfDeviceMemory),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."), OutOfDeviceMemory),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLost),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUDA driver error: unspecified launch failure"), DeviceLost),
    ],
)
def test_the_state_of_the_device_is_recognised(error: Exception, kind: type[StageError]) -> None:
    """Memory that ran out and a device that is gone become their own errors, named after the stage."""
    failure = device_failure(error, Stage.BASE)
    assert type(failure) is kind
    assert "base" in str(failure)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("out of memory"),
        KeyError("x"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic(...)`"),
    ],
)
def test_other_errors_are_not_the_devices(error: Exception) -> None:
    """A bug is not taken for a state of the device, whatever words it uses."""
    assert device_failure(error, Stage.BASE) is None


def test_a_job_failure_tells_the_caller_no_details() -> None:
    """The message has the stage and the kind of error; the text with the details is in a note for the log."""
    failure = job_failure(ValueError("/secret/path and a prompt"), Stage.REFINER)
    assert isinstance(failure, StageError)
    assert str(failure) == "refiner failed: ValueError"
    assert "/secret/path" in failure.__notes__[0]


def test_a_lost_device_is_raised() -> None:
    """No job can be blamed for it and none can go on."""
    with pytest.raises(DeviceLost):
        job_failure(RuntimeError("CUDA error: unspecified launch failure"), Stage.BASE)


def test_known_errors_are_kept() -> None:
    """An error of the server's own tree is reported as it is."""
    error = NonFinite("the VAE gave non-finite pixels")
    assert job_failure(error, Stage.VAE_DECODE) is error


def test_a_kept_failure_pins_no_tensors() -> None:
    """The frames of what was raised, and so their tensors, are free although the failure is alive."""

    def fails() -> weakref.ref[torch.Tensor]:
        tensor = torch.zeros(3)
        reference = weakref.ref(tensor)
        references.append(reference)
        raise RuntimeError(f"no use for {tensor.numel()} numbers")

    references: list[weakref.ref[torch.Tensor]] = []
    failures = []
    try:
        fails()
    except RuntimeError as error:
        failures.append(job_failure(error, Stage.BASE))
    gc.collect()
    assert isinstance(failures[0], StageError)
    assert references[0]() is None
