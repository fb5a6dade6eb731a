"""What the device is and how much of it is free. torch and NVML are imported where they are asked."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server.core import DeviceInfo
from imagegen_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

AUTO = "auto"
"""The first GPU if there is one, else the CPU."""

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")

_ALLOCATOR = {
    "allocated_bytes": "allocated_bytes.all.current",
    "reserved_bytes": "reserved_bytes.all.current",
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "inactive_split_bytes": "inactive_split_bytes.all.current",
    "alloc_retries": "num_alloc_retries",
    "ooms": "num_ooms",
}
"""What torch calls the figures of its allocator."""


def resolve(name: str) -> torch.device:
    """Returns the device that `name` means: `auto`, `cpu`, `cuda` or `cuda:N`.

    A GPU always comes back with its index. Raises `errors.StartupError` if the device is not there.
    """
    import torch  # noqa: PLC0415 - heavy

    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StartupError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise StartupError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    return _resolve_cuda(device)


def select(device: torch.device, budget_bytes: int | None = None) -> None:
    """Makes a GPU from `resolve` the calling thread's own: streams, events and graphs are made on that one.

    With a budget torch takes no more of its memory than that: what would is out of memory, though there may be some.
    Without one it may take all, whatever was said before.
    """
    if device.type == "cuda":
        import torch  # noqa: PLC0415 - heavy

        torch.cuda.set_device(device)
        fraction = 1.0
        if budget_bytes is not None:
            fraction = min(budget_bytes / torch.cuda.get_device_properties(device).total_memory, 1.0)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def describe(device: torch.device) -> DeviceInfo:
    """Returns the device's name, driver, total memory and UUID. `device` comes from `resolve`."""
    if device.type == "cpu":
        return DeviceInfo(type="cpu", name=processor(), driver="", total_memory_bytes=_host_total())
    import torch  # noqa: PLC0415 - heavy

    properties = torch.cuda.get_device_properties(device)
    return DeviceInfo(
        type="cuda",
        name=properties.name,
        driver=driver_version(),
        total_memory_bytes=properties.total_memory,
        uuid=f"GPU-{properties.uuid}",
    )


def processor() -> str:
    """Returns the processor's name: as Linux tells it where it does, else the architecture's at least."""
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def free_bytes(device: torch.device) -> int:
    """Returns the memory that this process could still take on the device.

    On a GPU what the driver reports; on a CPU the least of what the kernel calls available and what the control
    group leaves (cgroup v2), where these exist.
    """
    if device.type == "cuda":
        import torch  # noqa: PLC0415 - heavy

        return int(torch.cuda.mem_get_info(device)[0])
    return min(_host_available(), _cgroup_left())


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Returns a GPU's CUDA compute capability, None for a CPU."""
    if device.type != "cuda":
        return None
    import torch  # noqa: PLC0415 - heavy

    return torch.cuda.get_device_capability(device)


def driver_version() -> str:
    """Returns the NVIDIA driver's version, empty without NVML or a driver."""
    try:
        import pynvml  # noqa: PLC0415 - only where it is asked for
    except ImportError:
        return ""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def allocator_stats() -> Mapping[str, int]:
    """Returns figures of torch's CUDA allocator, empty without a GPU. A process uses one: the others add nothing.

    Keys: allocated_bytes, reserved_bytes, allocated_peak_bytes, inactive_split_bytes (now or since the last reset
    of the peak), alloc_retries, ooms (counts since the process began).
    """
    torch = sys.modules.get("torch")  # a scrape must not be what imports it
    if torch is None or not torch.cuda.is_initialized():
        return {}
    stats = [torch.cuda.memory_stats(index) for index in range(torch.cuda.device_count())]
    return {name: sum(of_one.get(key, 0) for of_one in stats) for name, key in _ALLOCATOR.items()}


def _resolve_cuda(device: torch.device) -> torch.device:
    import torch  # noqa: PLC0415 - heavy

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "this PyTorch was built without CUDA" if built is None else f"CUDA {built} finds no usable GPU"
        raise StartupError(f"device {device} is not there: {why}; use cpu, or install a matching driver and PyTorch")
    index = device.index if device.index is not None else torch.cuda.current_device()
    if index >= torch.cuda.device_count():
        raise StartupError(f"device cuda:{index} is not there: {torch.cuda.device_count()} GPUs are visible")
    return torch.device("cuda", index)


def _host_total() -> int:
    total = 0
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read_number(_CGROUP / "memory.max")
    return min(total, limit) if limit is not None and total else total


def _host_available() -> int:
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return _host_total()


def _cgroup_left() -> int:
    limit = _read_number(_CGROUP / "memory.max")
    used = _read_number(_CGROUP / "memory.current")
    if limit is None or used is None:
        return _host_total()
    return max(limit - used + _cgroup_files(), 0)


def _cgroup_files() -> int:
    """Returns the bytes of files that the kernel caches for the control group, and drops when memory is needed."""
    with contextlib.suppress(OSError):
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
        return sum(int(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
    return 0


def _read_number(path: Path) -> int | None:
    """Returns the number in a control file; None if it is absent or says `max`."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
