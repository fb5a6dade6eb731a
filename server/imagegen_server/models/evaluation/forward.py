"""One evaluation of a UNet: as it is, or replayed from a CUDA graph.

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
from typing import Any, Protocol

import torch

from imagegen_server.models.evaluation.conditioning import Conditioning

Key = tuple[int, int, int]
"""Rows, latent height, latent width."""

MOST_GRAPHS = 24
"""Graphs kept for one UNet. A graph holds its inputs and some megabytes of kernel arguments besides the shared pool."""

_SEEN_BEFORE_CAPTURE = 1
"""Evaluations of a key that run as they are before it is captured; in the first one libraries choose their kernels."""


class Evaluate(Protocol):
    """Evaluates a UNet."""

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Returns the prediction, (rows, channels, height, width), which is the caller's.

        Args:
            sample: scaled latents, (rows, channels, height, width).
            timesteps: (rows,), fp32.
            conditioning: of as many rows.
        """
        ...

    def project(self, conditioning: Conditioning) -> Conditioning:
        """Returns the conditioning of a generation with what every step would make of it, if that pays."""
        ...

    def clear(self) -> None:
        """Frees what is kept besides the weights."""
        ...


class Plain:
    """Calls the UNet."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Evaluate`."""
        return call(self._module, sample, timesteps, conditioning)

    def project(self, conditioning: Conditioning) -> Conditioning:
        """Leaves all of it to the steps, as diffusers does."""
        return conditioning

    def clear(self) -> None:
        """Keeps nothing."""


def call(module: Any, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """Returns what a diffusers UNet predicts."""
    prediction: torch.Tensor = module(
        sample,
        timesteps,
        encoder_hidden_states=conditioning.embeddings,
        added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids},
        return_dict=False,
    )[0]
    return prediction


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

    def __init__(self, module: Any, *, pool: Any, on_failure: Callable[[str], None]) -> None:
        """Takes the UNet and a pool from `graph_pool`."""
        self._module = module
        self._pool = pool
        self._on_failure = on_failure
        self._graphs: OrderedDict[Key, _Captured] = OrderedDict()
        self._seen: dict[Key, int] = {}
        self._refused: set[Key] = set()

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Evaluate`. What runs out of memory raises, whether or not a graph was to be captured."""
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
        self._graphs.clear()
        self._seen.clear()

    def keys(self) -> tuple[Key, ...]:
        """Returns the keys of the captured graphs, the most recently used last."""
        return tuple(self._graphs)

    def _due(self, key: Key) -> bool:
        if key in self._refused:
            return False
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] > _SEEN_BEFORE_CAPTURE

    def _capture(
        self, key: Key, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> _Captured | None:
        inputs = (
            sample.clone(),
            timesteps.clone(),
            Conditioning(
                embeddings=conditioning.embeddings.clone(),
                pooled=conditioning.pooled.clone(),
                time_ids=conditioning.time_ids.clone(),
            ),
        )
        graph: Any = torch.cuda.CUDAGraph()
        try:
            # Other threads (encoders, metrics) may use CUDA meanwhile; only this one's calls belong to the graph.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                prediction = call(self._module, *inputs)
        except torch.OutOfMemoryError:
            self._refused.add(key)
            raise
        except RuntimeError as error:
            self._refused.add(key)
            self._on_failure(f"{key[0]} rows of {key[1]}x{key[2]} latents cannot be captured: {error}")
            return None
        if len(self._graphs) >= MOST_GRAPHS:
            self._graphs.popitem(last=False)
        self._graphs[key] = _Captured(graph, *inputs, prediction)
        return self._graphs[key]


def graph_pool() -> Any:
    """Returns a new memory pool that several graphs can share."""
    return torch.cuda.graph_pool_handle()
