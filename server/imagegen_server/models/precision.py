"""Which arithmetic the models run in, and why. Imports torch only where it must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagegen_server.core import DeviceInfo, Precision
from imagegen_server.errors import StartupError
from imagegen_server.models import fp8

if TYPE_CHECKING:
    import torch

AUTO = "auto"
"""Leaves the choice to `choose`."""

FP32_FROM_BYTES = 20 * 10**9
"""`auto` takes fp32 from this much device memory on (decimal gigabytes, as cards are sold)."""

_ITEM_BYTES = {Precision.FP32: 4, Precision.TF32: 4, Precision.BF16: 2, Precision.FP16: 2, Precision.FP8: 2}
"""The layers that fp8 rounds take 1; that is not counted on."""

_AMPERE = (8, 0)
"""First compute capability with TF32 and bf16 tensor cores (CUDA C++ Programming Guide, arithmetic tables)."""


@dataclass(kw_only=True, frozen=True, slots=True)
class PrecisionChoice:
    """A precision and the reason for it, in words."""

    precision: Precision
    reason: str


def choose(requested: str, device: DeviceInfo, *, capability: tuple[int, int] | None = None) -> PrecisionChoice:
    """Returns the precision to run in.

    `requested` is `auto` or a `Precision`. `auto` is fp32 on a CPU and on a GPU with at least `FP32_FROM_BYTES`,
    else fp16. `capability` is the GPU's CUDA compute capability where it is known. Raises `errors.StartupError`
    for an unknown name and for arithmetic that the device does not have.
    """
    if requested == AUTO:
        return _automatic(device)
    try:
        precision = Precision(requested)
    except ValueError:
        known = ", ".join((AUTO, *(p.value for p in Precision)))
        raise StartupError(f"precision {requested!r} is not known; use one of {known}") from None
    if reason := _refusal(precision, device, capability):
        raise StartupError(f"precision {precision} cannot be used: {reason}")
    return PrecisionChoice(precision=precision, reason="it was asked for")


def item_bytes(precision: Precision) -> int:
    """Returns the size of one stored number in bytes; of fp8 the most."""
    return _ITEM_BYTES[precision]


def vae_precision(precision: Precision, *, force_upcast: bool) -> Precision:
    """Returns what the VAE is stored in: fp32 where its configuration says that it overflows in fp16.

    The rule is diffusers' own (`needs_upcasting` in its SDXL pipelines), applied once instead of on every call.
    """
    return Precision.FP32 if precision is Precision.FP16 and force_upcast else precision


def torch_dtype(precision: Precision) -> torch.dtype:
    """Returns the dtype that weights are stored in."""
    import torch  # noqa: PLC0415 - heavy

    half = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP8: torch.bfloat16}
    return half.get(precision, torch.float32)


def apply_matmul_mode(precision: Precision) -> None:
    """Sets this process's TF32 switches: on for tf32, off for fp32, untouched otherwise.

    PyTorch convolves fp32 in TF32 unless told not to (`torch.backends.cudnn.allow_tf32`), so fp32 has to say so.
    """
    import torch  # noqa: PLC0415 - heavy

    if precision not in (Precision.FP32, Precision.TF32):
        return
    allowed = precision is Precision.TF32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _automatic(device: DeviceInfo) -> PrecisionChoice:
    if device.type == "cpu":
        return PrecisionChoice(precision=Precision.FP32, reason="a CPU computes in fp32")
    gigabytes = device.total_memory_bytes / 1e9
    threshold = FP32_FROM_BYTES // 10**9
    if device.total_memory_bytes >= FP32_FROM_BYTES:
        return PrecisionChoice(
            precision=Precision.FP32, reason=f"the device has {gigabytes:.1f} GB, {threshold} GB or more"
        )
    return PrecisionChoice(
        precision=Precision.FP16, reason=f"the device has {gigabytes:.1f} GB, less than {threshold} GB"
    )


def _refusal(precision: Precision, device: DeviceInfo, capability: tuple[int, int] | None) -> str:
    if device.type == "cpu" and precision is Precision.FP16:
        return "CPUs have no fast fp16 arithmetic; use fp32 or bf16"
    if device.type == "cpu" and precision is Precision.TF32:
        return "TF32 is a mode of NVIDIA's tensor cores; use fp32 or bf16 on a CPU"
    if precision is Precision.FP8 and (reason := _fp8_refusal(device, capability)):
        return reason
    if precision in (Precision.TF32, Precision.BF16) and capability is not None and capability < _AMPERE:
        have = ".".join(map(str, capability))
        return f"{device.name} has compute capability {have} and it needs 8.0; use fp16 or fp32"
    return ""


def _fp8_refusal(device: DeviceInfo, capability: tuple[int, int] | None) -> str:
    needed = ".".join(map(str, fp8.LEAST_CAPABILITY))
    if device.type == "cpu":
        return f"fp8 needs a GPU of compute capability {needed}; use fp32 or bf16"
    if capability is not None and capability < fp8.LEAST_CAPABILITY:
        return f"{device.name} has compute capability {'.'.join(map(str, capability))} and it needs {needed}; use bf16"
    return "" if fp8.installed() else "torchao is missing: pip install '.[server,fp8]' in a checkout of ImageGen"
