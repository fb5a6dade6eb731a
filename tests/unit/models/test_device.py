"""The device and its memory, as the system tells of them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from imagegen_server.models import device

CPU = torch.device("cpu")


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group of 4 GB, of which 3 are used."""
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    monkeypatch.setattr(device, "_host_available", lambda: 64_000_000_000)
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "memory.current").write_text("3000000000\n")
    return tmp_path


def test_files_that_the_kernel_caches_are_no_memory_in_use(cgroup: Path) -> None:
    """Weights that were just downloaded count as used in `memory.current`, and are dropped when memory is needed."""
    assert device.free_bytes(CPU) == 1_000_000_000
    (cgroup / "memory.stat").write_text(
        "anon 600000000\nfile 2300000000\nactive_file 300000000\ninactive_file 2000000000\n"
    )
    assert device.free_bytes(CPU) == 3_300_000_000


def test_without_a_limit_the_host_decides(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cgroup / "memory.max").write_text("max\n")
    monkeypatch.setattr(device, "_host_total", lambda: 128_000_000_000)
    assert device.free_bytes(CPU) == 64_000_000_000


def test_a_container_has_no_more_memory_than_its_limit(cgroup: Path) -> None:
    """Whatever the host has."""
    (cgroup / "memory.max").write_text("1000000\n")
    assert device.describe(CPU).total_memory_bytes == 1_000_000


def test_what_the_kernel_calls_available_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes: at least the greater part of the pages that nobody uses, at most all there are."""
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    unused = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert unused / 2 < device.free_bytes(CPU) <= device.describe(CPU).total_memory_bytes


def test_a_cpu_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuning of one processor is none of another; without a name there is the architecture's."""
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(device, "_CPUINFO", told)
    assert device.describe(CPU).name == (platform.processor() or platform.machine())
    told.write_text("processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n")
    assert device.describe(CPU).name == "AMD EPYC"


def test_a_gpu_becomes_the_threads_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else streams, events and graphs would be made on the first GPU whichever was chosen."""
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *_: None)
    device.select(CPU)
    assert chosen == []
    device.select(torch.device("cuda", 3))
    assert chosen == [torch.device("cuda", 3)]


@pytest.mark.parametrize(("budget", "part"), [(6 * 10**9, 0.25), (24 * 10**9, 1.0), (48 * 10**9, 1.0), (None, 1.0)])
def test_a_budget_is_a_bound(monkeypatch: pytest.MonkeyPatch, budget: int | None, part: float) -> None:
    """Torch takes no more of the GPU than the operator gave, whatever is asked of the server; without one all of it."""
    bounds: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    facts = SimpleNamespace(total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *bound: bounds.append(bound))
    device.select(torch.device("cuda", 0), budget)
    assert bounds == [(part, torch.device("cuda", 0))]


def test_the_allocators_figures_are_those_of_the_gpu_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever that is: nothing is allocated on the others."""
    told = {
        "allocated_bytes.all.current": 7,
        "reserved_bytes.all.current": 9,
        "allocated_bytes.all.peak": 8,
        "inactive_split_bytes.all.current": 1,
        "num_ooms": 2,
    }
    stats: list[dict[str, int]] = [{}, told]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(stats))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda index: stats[index])
    assert device.allocator_stats() == {
        "allocated_bytes": 7,
        "reserved_bytes": 9,
        "allocated_peak_bytes": 8,
        "inactive_split_bytes": 1,
        "alloc_retries": 0,
        "ooms": 2,
    }
