"""Which arithmetic is chosen for a device."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from imagegen_server.core import DeviceInfo, Precision
from imagegen_server.errors import StartupError
from imagegen_server.models import fp8
from imagegen_server.models.precision import (
    apply_matmul_mode,
    choose,
    item_bytes,
    torch_dtype,
    vae_precision,
)

CPU = DeviceInfo(type="cpu", name="cpu", driver="", total_memory_bytes=256 * 10**9)


def gpu(memory: int) -> DeviceInfo:
    """A GPU with so many bytes."""
    return DeviceInfo(type="cuda", name="card", driver="1", total_memory_bytes=memory)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [(20 * 10**9 - 1, Precision.FP16), (20 * 10**9, Precision.FP32), (12 * 2**30, Precision.FP16)],
)
def test_auto_is_fp32_from_20_gigabytes_on(memory: int, expected: Precision) -> None:
    """The threshold is decimal and belongs to fp32."""
    choice = choose("auto", gpu(memory))
    assert choice.precision is expected
    assert "20 GB" in choice.reason


def test_auto_on_a_cpu_is_fp32_whatever_its_memory() -> None:
    """Host memory says nothing about arithmetic."""
    assert choose("auto", CPU).precision is Precision.FP32


@pytest.mark.parametrize(
    ("device", "capability", "there", "words"),
    [
        (CPU, None, True, "needs a GPU"),
        (gpu(24 * 10**9), (8, 6), True, "has compute capability 8.6 and it needs 8.9"),
        (gpu(24 * 10**9), (9, 0), False, r"pip install '\.\[server,fp8\]' in a checkout"),
    ],
)
def test_fp8_is_refused_where_it_cannot_run(
    device: DeviceInfo, capability: tuple[int, int] | None, there: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it needs; elsewhere it is taken, and never by `auto`."""
    monkeypatch.setattr(fp8, "installed", lambda: there)
    with pytest.raises(StartupError, match=words):
        choose("fp8", device, capability=capability)
    monkeypatch.setattr(fp8, "installed", lambda: True)
    assert choose("fp8", gpu(24 * 10**9), capability=(8, 9)).precision is Precision.FP8
    assert choose("auto", gpu(24 * 10**9), capability=(9, 0)).precision is Precision.FP32


def test_fp8_rounds_the_large_layers_of_transformer_blocks_only() -> None:
    """Time embeddings, projections around the blocks and small layers stay as they are."""
    large, small = torch.nn.Linear(640, 1280, device="meta"), torch.nn.Linear(320, 1280, device="meta")
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert fp8.is_quantized(large, name)
    assert not fp8.is_quantized(small, name)
    assert not fp8.is_quantized(large, "down_blocks.1.attentions.0.proj_in")
    assert not fp8.is_quantized(torch.nn.Conv2d(640, 640, 1, device="meta"), name)


def test_fp8_survives_a_row_of_zeros_and_leaves_the_compiler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchao is told. It divides each row by its largest value, and without a negative prompt rows are zeros."""
    told: dict[str, Any] = {}
    library = SimpleNamespace(
        Float8DynamicActivationFloat8WeightConfig=lambda **options: told.update(options),
        PerRow=lambda: "row",
        quantize_=lambda unet, config, filter_fn: told.update(unet=unet, filter_fn=filter_fn),
    )
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace(quantization=library))
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)
    fp8.quantize("unet")
    assert told["activation_value_lb"] > 0
    assert told["set_inductor_config"] is False
    assert (told["unet"], told["filter_fn"], told["granularity"]) == ("unet", fp8.is_quantized, "row")


@pytest.mark.parametrize("precision", [one for one in Precision if one is not Precision.FP8])
def test_what_was_asked_for_is_taken_on_a_gpu(precision: Precision) -> None:
    """An override wins over the rule."""
    assert choose(precision.value, gpu(8 * 10**9), capability=(8, 0)).precision is precision


@pytest.mark.parametrize(
    ("precision", "device", "capability", "reason"),
    [
        ("fp16", CPU, None, "fp32 or bf16"),
        ("tf32", CPU, None, "tensor cores"),
        ("bf16", gpu(10**10), (7, 5), "compute capability 7.5"),
        ("tf32", gpu(10**10), (7, 5), "compute capability 7.5"),
        ("fp4", gpu(10**10), (9, 0), "auto, fp32, tf32, bf16, fp16, fp8"),
    ],
)
def test_arithmetic_that_the_device_lacks_is_refused_with_the_way_out(
    precision: str, device: DeviceInfo, capability: tuple[int, int] | None, reason: str
) -> None:
    """The message says why, or what there is."""
    with pytest.raises(StartupError, match=reason):
        choose(precision, device, capability=capability)


def test_only_an_overflowing_vae_in_fp16_is_kept_in_fp32() -> None:
    """bf16 has fp32's range, and a VAE that does not overflow stays in fp16."""
    assert vae_precision(Precision.FP16, force_upcast=True) is Precision.FP32
    assert vae_precision(Precision.FP16, force_upcast=False) is Precision.FP16
    assert vae_precision(Precision.BF16, force_upcast=True) is Precision.BF16


@pytest.mark.parametrize("precision", list(Precision))
def test_stored_sizes_are_those_of_the_dtype(precision: Precision) -> None:
    """The memory plan and the loader agree on bytes."""
    assert torch.empty(0, dtype=torch_dtype(precision)).element_size() == item_bytes(precision)


def test_tf32_is_switched_by_the_precision_and_only_by_fp32_storage() -> None:
    """fp32 turns it off, for convolutions too; half precisions leave the switches alone."""
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    try:
        apply_matmul_mode(Precision.TF32)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        apply_matmul_mode(Precision.BF16)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        apply_matmul_mode(Precision.FP32)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
