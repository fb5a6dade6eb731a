"""Measures how a pair runs fastest on its device, and how many rows are worth a batch: `imagegen-server tune`.

A change is taken if it makes a guided step of the base at the native size at least 3 % faster than what is simpler; the
row knee is the fewest rows that give 95 % of the best throughput at a size. The base stands for the refiner, which is
made of the same blocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from imagegen_server.core import Feature, Stage
from imagegen_server.models.evaluation import compilation
from imagegen_server.models.evaluation.forward import Evaluate, Key
from imagegen_server.models.evaluation.graphs import Graphed
from imagegen_server.models.evaluation.preparation import evaluators, example, pipelines, prepare, warm_vae
from imagegen_server.models.evaluation.tuning import Tuning
from imagegen_server.models.failures import free_cached_memory
from imagegen_server.models.pair import LoadedPair

WORTH: Final = 0.97
"""Time of a candidate, as a part of the best before it, up to which it is taken."""

KNEE: Final = 0.95
"""Part of the best throughput at a size that the row knee gives."""

SIDES: Final = (1.0, 0.75, 0.5)
"""Sizes that are measured, as parts of the native side."""

MOST_ROWS: Final = 32
_TIMED = 5

Figure = Mapping[str, Any]


def tune(
    pair: LoadedPair, *, cache: Path | None, say: Callable[[str], None], whole: bool = True
) -> tuple[Tuning, tuple[Figure, ...]]:
    """Returns the fastest tuning of a pair and the figures behind it.

    Takes several minutes on a GPU, most of it to compile. `say` hears what is tried, and each figure. `cache` is where
    compiled code is kept. `whole` tries whole compiled UNets too, which takes most of the time. The pair is left in a
    form that was tried; a runner with the tuning prepares it.
    """
    figures: list[Figure] = []

    def note(**figure: Any) -> None:
        figures.append(figure)
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in figure.items()}
        say(", ".join(f"{name} {value}" for name, value in shown.items()))

    native = _latent(pair, 1.0)
    best, unets = _best_prepared(pair, (2, *native), whole=whole, cache=cache, note=note, say=say)
    rows = {}
    for shape in dict.fromkeys(_latent(pair, part) for part in SIDES):
        rows[shape] = _knee(pair, unets, shape, note)
    say("trying decodes …")
    compile_vae = _vae(pair, cache, note)
    # Whole compiled UNets have a form for each size; regions have one for all.
    shapes = rows if best.compile == "regional" else [native]
    warm = tuple((count, *shape) for shape in shapes for count in _doubling(rows[shape]))
    tuning = replace(best, rows=rows, warm=warm if best.compile != "none" else (), compile_vae=compile_vae)
    return tuning, tuple(figures)


def _best_prepared(
    pair: LoadedPair,
    key: Key,
    *,
    whole: bool,
    cache: Path | None,
    note: Callable[..., None],
    say: Callable[[str], None],
) -> tuple[Tuning, dict[Stage, Evaluate]]:
    """Returns the fastest tuning of a batch, for which the pair is then prepared, and how it evaluates the base."""
    timed: list[tuple[Tuning, float]] = []
    unets: dict[Stage, Evaluate] = {}
    failed: list[str] = []
    prepared: Tuning | None = None
    for candidate in _candidates(pair, key, whole=whole):
        say(f"trying {_named(candidate)} …")
        unets, failed = _prepared(pair, candidate, cache)
        prepared = candidate
        if failed:
            note(candidate=_named(candidate), failed=failed[0])
            continue
        seconds = seconds_of(pair, unets, Stage.BASE, key)
        _free(pair, unets)
        note(candidate=_named(candidate), ms_per_step=seconds * 1e3)
        timed.append((candidate, seconds))
    best = fastest(timed)
    # Compiling again what is compiled would take minutes; a graph that failed when it was timed is tried again.
    if best is not prepared or failed:
        unets, _ = _prepared(pair, best, cache)
    return best, unets


def fastest(timed: Sequence[tuple[Tuning, float]]) -> Tuning:
    """Returns the last candidate, simplest first, that is worth it beside the best before it; the plainest of none."""
    best, least = Tuning(cuda_graphs=False), float("inf")
    for candidate, seconds in timed:
        if seconds < least * WORTH:
            best, least = candidate, seconds
    return best


def _latent(pair: LoadedPair, part: float) -> tuple[int, int]:
    """Returns the latent of a part of the native side, in multiples of 8."""
    defaults, factor = pair.profile.defaults, pair.base.vae_scale_factor
    height, width = (max(8, int(side * part) // factor // 8 * 8) for side in (defaults.height, defaults.width))
    return height, width


def _candidates(pair: LoadedPair, key: Key, *, whole: bool) -> Iterator[Tuning]:
    """Yields what is tried, simplest first. A CPU has no graphs, and compiled it would not have diffusers' pixels."""
    yield Tuning(cuda_graphs=False)
    if pair.device.type == "cuda":
        yield Tuning()
        yield Tuning(compile="regional", channels_last=True, warm=(key,))
    if pair.device.type == "cuda" and whole:
        yield Tuning(compile="full", channels_last=True, warm=(key,))


def _named(tuning: Tuning) -> str:
    parts = [f"{tuning.compile} compile" if tuning.compile != "none" else "as it is"]
    parts += ["channels last"] * tuning.channels_last + ["CUDA graphs"] * tuning.cuda_graphs
    return " + ".join(parts)


def _prepared(pair: LoadedPair, tuning: Tuning, cache: Path | None) -> tuple[dict[Stage, Evaluate], list[str]]:
    """Returns how the base is evaluated under a tuning, prepared anew, and what could not be done.

    The list grows if a graph cannot be captured later.
    """
    failed: list[str] = []

    def note(_: Feature, why: str) -> None:
        failed.append(why)

    compilation.undo(tuple(pipeline.unet for pipeline in pipelines(pair).values()))
    unets = {Stage.BASE: evaluators(pair, tuning, note)[Stage.BASE]}
    prepare(pair, unets, tuning, cache=cache, note=note)
    return unets, failed


def _free(pair: LoadedPair, unets: Mapping[Stage, Evaluate]) -> None:
    """Frees the graphs of what was timed; a trace is what the next batches are to be timed with, too."""
    for unet in unets.values():
        if isinstance(unet, Graphed):
            unet.clear()
    free_cached_memory(pair.device)


def _doubling(most: int) -> list[int]:
    return [2**power for power in range(1, most.bit_length()) if 2**power <= most]


def _knee(pair: LoadedPair, unets: Mapping[Stage, Evaluate], shape: tuple[int, int], note: Callable[..., None]) -> int:
    """Returns the fewest rows that give `KNEE` of the best throughput of the base at a latent shape."""
    rates: dict[int, float] = {}
    for rows in _doubling(MOST_ROWS):
        try:
            seconds = seconds_of(pair, unets, Stage.BASE, (rows, *shape))
        except torch.OutOfMemoryError:
            break
        rates[rows] = rows / seconds
        note(latent=f"{shape[0]}x{shape[1]}", rows=rows, ms_per_step=seconds * 1e3, rows_per_second=rates[rows])
        if rows >= 4 and rates[rows] < rates[rows // 2] * 1.01:
            break
    _free(pair, unets)
    return knee(rates)


def knee(rates: Mapping[int, float]) -> int:
    """Returns the fewest rows that give `KNEE` of the best of some throughputs by rows; 2 of none."""
    enough = [rows for rows, rate in rates.items() if rate >= KNEE * max(rates.values())]
    return min(enough, default=2)


def seconds_of(pair: LoadedPair, unets: Mapping[Stage, Evaluate], stage: Stage, key: Key) -> float:
    """Returns the median seconds of an evaluation, after three that are not counted (as it is, captured, replayed)."""
    pair.bring(stage)
    with torch.inference_mode():
        inputs = example(pair, stage, key)
        return median_seconds(pair, lambda: unets[stage](*inputs), before=3)


def median_seconds(pair: LoadedPair, work: Callable[[], object], *, before: int = 2) -> float:
    """Returns the median seconds of some work on the pair's device, after `before` runs that are not counted."""
    for _ in range(before):
        work()
    times = []
    for _ in range(_TIMED):
        _synchronize(pair)
        began = time.perf_counter()
        work()
        _synchronize(pair)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _vae(pair: LoadedPair, cache: Path | None, note: Callable[..., None]) -> bool:
    """Returns whether compiling the VAE's decoder pays, and leaves it compiled if it does."""
    with torch.inference_mode():
        plain = median_seconds(pair, lambda: warm_vae(pair))
    note(vae="as it is", ms=plain * 1e3)
    if pair.device.type != "cuda":
        return False
    failed: list[str] = []
    prepare(pair, {}, Tuning(compile_vae=True), cache=cache, note=lambda _, why: failed.append(why))
    if failed:
        note(vae="compiled", failed=failed[0])
        return False
    with torch.inference_mode():
        compiled = median_seconds(pair, lambda: warm_vae(pair))
    note(vae="compiled", ms=compiled * 1e3)
    if compiled < plain * WORTH:
        return True
    compilation.undo((pair.base.vae,))
    return False


def _synchronize(pair: LoadedPair) -> None:
    if pair.device.type == "cuda":
        torch.cuda.synchronize(pair.device)
