"""GPUs and torch's allocator as text for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from imagegen_server.top import pieces, words
from imagegen_server.top.figures import Report
from imagegen_server.top.gpu import Gpu

HOT_MARGIN = 5.0
"""Degrees below the limit from which a temperature is shown in yellow."""


def hardware(report: Report) -> RenderableType:
    """Returns every GPU, or that there is none, and the allocator."""
    parts: list[RenderableType] = []
    rows = pieces.grid()
    for gpu in report.gpus:
        parts += [pieces.title(_heading(gpu)), _gpu(gpu, report)]
    if not report.gpus:
        parts += [pieces.title("GPU"), Text(_no_gpu(report.gpu_read), style=pieces.LABEL)]
        rows.add_row("memory, GB", Text(_budget(report)))
    if report.gpu_errors and report.gpu_errors[0].name:
        rows.add_row("failed reads", pieces.tally(report.gpu_errors, None))
    rows.add_row("torch, GB", _allocator(report))
    return Group(*parts, rows)


def _gpu(gpu: Gpu, report: Report) -> RenderableType:
    rows = pieces.grid()
    clock = None if gpu.clock is None else gpu.clock / 1e6
    rows.add_row(
        "utilization",
        pieces.measured(gpu.utilization, words.percent(gpu.utilization), plain=True).append(
            f", memory {words.percent(gpu.memory_utilization)}, clock {words.unit(clock, 'MHz')}"
        ),
    )
    of_all = f"{words.gigabytes(gpu.memory_used)} of {words.gigabytes(gpu.memory_total)} by all processes"
    rows.add_row("VRAM, GB", pieces.measured(words.ratio_of(gpu.memory_used, gpu.memory_total), of_all))
    own = f"{words.gigabytes(gpu.memory_process)} of {_budget(report)}"
    rows.add_row("server, GB", pieces.measured(words.ratio_of(gpu.memory_process, report.budget_bytes), own))
    rows.add_row("temperature", _temperature(gpu))
    rows.add_row(
        "power",
        pieces.measured(words.ratio_of(gpu.power, gpu.power_limit), words.unit(gpu.power, "W"), plain=True).append(
            f" of {words.unit(gpu.power_limit, 'W')}, {words.unit(gpu.joules_per_image, 'J')}/image"
        ),
    )
    rows.add_row("throttled", _throttled(gpu))
    rows.add_row("health", _health(gpu))
    return rows


def _heading(gpu: Gpu) -> str:
    mig = ", MIG" if gpu.mig == "enabled" else ""
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return f"GPU {gpu.index}  {gpu.name or words.DASH}{driver}{mig}"


def _no_gpu(read: bool | None) -> str:
    if read is None:
        return words.DASH
    return "no readings" if read else "no GPU is being read"


def _temperature(gpu: Gpu) -> Text:
    style = ""
    if gpu.temperature is not None and gpu.temperature_limit is not None:
        margin = gpu.temperature_limit - gpu.temperature
        style = "red" if margin <= 0 else "yellow" if margin <= HOT_MARGIN else ""
    return Text(words.unit(gpu.temperature, "°C"), style=style).append(f" of {words.unit(gpu.temperature_limit, '°C')}")


def _throttled(gpu: Gpu) -> Text:
    if gpu.throttled is None:
        return Text(words.DASH)
    if not gpu.throttled:
        return Text("no", style="dim")
    if gpu.throttled_of is None:
        held = ", ".join(f"{reason} {words.seconds(seconds)}" for reason, seconds in gpu.throttled.items())
        return Text(f"{held} since the start")
    # readings are seconds apart, so that one may tell of more time than lies between two scrapes
    shares = {reason: min(seconds / gpu.throttled_of, 1.0) for reason, seconds in gpu.throttled.items()}
    held = ", ".join(f"{reason} {words.percent(share)}" for reason, share in shares.items())
    return Text(f"{held} of the time", style="yellow")


def _budget(report: Report) -> str:
    return f"{words.gigabytes(report.budget_bytes)} budget, {words.gigabytes(report.planned_bytes)} planned"


def _health(gpu: Gpu) -> Text:
    word = {None: words.DASH, True: "good", False: "LOST OR BROKEN"}[gpu.healthy]
    line = Text(word, style="bold red" if gpu.healthy is False else "green" if gpu.healthy else "")
    uncorrected = gpu.ecc.get("uncorrected")
    line.append(f", ECC {words.number(gpu.ecc.get('corrected'))} corrected, ")
    line.append(f"{words.number(uncorrected)} not", style="red" if uncorrected else "")
    xids = words.DASH if gpu.xids is None else ", ".join(f"{x} ({n:.0f})" for x, n in gpu.xids.items()) or "none"
    return line.append(", XID ").append(xids, style="red" if gpu.xids else "")


def _allocator(report: Report) -> Text:
    torch = report.allocator
    if not torch.known:
        return Text(words.DASH)
    line = Text(f"{words.gigabytes(torch.allocated)} in tensors, peak {words.gigabytes(torch.peak)}, ")
    line.append(f"held {words.gigabytes(torch.reserved)}, split {words.gigabytes(torch.fragmented)}, ")
    line.append(f"retries {words.number(torch.retries)}, ", style="yellow" if torch.retries else "")
    return line.append(f"OOM {words.number(torch.ooms)}", style="red" if torch.ooms else "")
