"""One evaluation of a UNet, replayed from a CUDA graph.

An evaluation of SDXL's UNet is about two thousand kernels, which take Python 50 ms to launch, at 512x512 three times
as long as the device needs for them (docs/benchmarks.md). A CUDA graph launches the same kernels with the same
arguments at once: the same bits, without Python in between. One graph is captured for each number of rows and latent
shape, in the second evaluation that has them, which costs about one evaluation more; a request that comes once never
pays for it. All graphs share one memory pool, since only one runs at a time and what it leaves is copied out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.evaluation.forward import Key, call
from imagegen_server.models.failures import free_cached_memory

MOST_GRAPHS = 24
"""Graphs kept for one UNet. A graph holds its inputs and some megabytes of kernel arguments besides the shared pool."""

_SEEN_BEFORE_CAPTURE = 1
"""Evaluations of a key that run as they are before it is captured; in the first one libraries choose their kernels."""


class GraphMemory:
    """The pool of memory that the graphs of a device share.

    When its last graph has been freed, a pool is not used again: before torch 2.13 cuBLAS's workspace, which the first
    capture allocates, keeps it from being freed, and torch refuses to capture into what it is about to free
    (https://github.com/pytorch/pytorch/issues/175276).
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._graphs = 0
        self.usable = True
        """Whether captures may be tried. After one that broke off torch may still allocate for it."""

    @property
    def pool(self) -> Any:
        """The handle to capture with."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def count(self, change: int) -> None:
        """Notes how many graphs were captured, or freed if that is negative."""
        self._graphs += change
        if not self._graphs:
            self._pool = None


@dataclass(slots=True)
class _Captured:
    graph: Any
    """A torch.cuda.CUDAGraph, untyped in torch."""
    sample: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning
    prediction: torch.Tensor


class Graphed:
    """Captures and replays CUDA graphs of a UNet on its device. For one thread.

    What cannot be captured is evaluated as it is from then on, and `on_failure` hears why, once for each key.
    """

    def __init__(self, module: Any, *, memory: GraphMemory, on_failure: Callable[[str], None]) -> None:
        """Takes the UNet, and the memory that its graphs share with others."""
        self._module = module
        self._memory = memory
        self._on_failure = on_failure
        self._graphs: OrderedDict[Key, _Captured] = OrderedDict()
        self._seen: dict[Key, int] = {}
        self._refused: set[Key] = set()

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Evaluate`."""
        key = (len(sample), sample.shape[-2], sample.shape[-1])
        captured = self._graphs.get(key)
        if captured is None and self._due(key):
            captured = self._capture(key, sample, timesteps, conditioning)
        if captured is None:
            return call(self._module, sample, timesteps, conditioning)
        self._graphs.move_to_end(key)
        captured.sample.copy_(sample)
        captured.timesteps.copy_(timesteps)
        captured.conditioning.embeddings.copy_(conditioning.embeddings)
        captured.conditioning.pooled.copy_(conditioning.pooled)
        captured.conditioning.time_ids.copy_(conditioning.time_ids)
        captured.graph.replay()
        return captured.prediction.clone()

    def project(self, conditioning: Conditioning) -> Conditioning:
        """Leaves all of it to the graphs: of a large UNet's step it is less than a per cent."""
        return conditioning

    def clear(self) -> None:
        """Frees all graphs; they are captured anew when their keys come again."""
        freed = len(self._graphs)
        self._graphs.clear()
        self._seen.clear()
        self._memory.count(-freed)

    def captured_keys(self) -> tuple[Key, ...]:
        """Returns the keys of the captured graphs, the most recently used last."""
        return tuple(self._graphs)

    def _due(self, key: Key) -> bool:
        if key in self._refused or not self._memory.usable:
            return False
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] > _SEEN_BEFORE_CAPTURE

    def _capture(
        self, key: Key, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> _Captured | None:
        """Returns the captured evaluation; None if there was no memory for it, or it failed."""
        inputs = (
            sample.clone(),
            timesteps.clone(),
            Conditioning(
                embeddings=conditioning.embeddings.clone(),
                pooled=conditioning.pooled.clone(),
                time_ids=conditioning.time_ids.clone(),
            ),
        )
        try:
            graph, prediction = self._record(*inputs)
        except RuntimeError as error:
            why = f"{key[0]} rows of {key[1]}x{key[2]} latents cannot be captured: {error}"
            self._memory.usable = isinstance(error, torch.OutOfMemoryError)
        else:
            if len(self._graphs) >= MOST_GRAPHS:
                self._graphs.popitem(last=False)
                self._memory.count(-1)
            self._graphs[key] = _Captured(graph, *inputs, prediction)
            self._memory.count(1)
            return self._graphs[key]
        # Here, outside the handler: the exception that it had would keep the broken capture alive.
        self._refused.add(key)
        self._on_failure(why)
        self._memory.count(0)
        if self._memory.usable:
            free_cached_memory(sample.device)
        return None

    def _record(
        self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> tuple[Any, torch.Tensor]:
        """Returns a graph that evaluates these inputs, and where it leaves the prediction. Raises RuntimeError."""
        graph: Any = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # Other threads (encoders, metrics) may use CUDA meanwhile; only this one's calls belong to the graph.
            with torch.cuda.graph(graph, pool=self._memory.pool, capture_error_mode="thread_local"):
                prediction = call(self._module, sample, timesteps, conditioning)
        finally:
            torch.cuda.set_stream(stream)  # torch stays on the capture's if that could not begin or end
        return graph, prediction
