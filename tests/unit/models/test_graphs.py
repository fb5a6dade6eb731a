"""When a UNet's CUDA graphs are captured, kept and given up; capturing itself needs a GPU (tests/gpu)."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch

from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.evaluation.graphs import MOST_GRAPHS, Graphed, GraphMemory

pools = count()


@pytest.fixture(autouse=True)
def handles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pool has a number of its own."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))


def answer(sample: torch.Tensor, timesteps: torch.Tensor, *told: torch.Tensor) -> torch.Tensor:
    """What the UNet predicts: something else for any other input."""
    others = sum((each.flatten(1).sum(1) for each in told), timesteps)
    return sample + others[:, None, None, None]


class Unet:
    """Predicts, and counts."""

    def __init__(self) -> None:
        self.evaluations = 0

    def __call__(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        encoder_hidden_states: torch.Tensor,
        added_cond_kwargs: dict[str, torch.Tensor],
        return_dict: bool,
    ) -> tuple[torch.Tensor]:
        """Returns the prediction."""
        assert not return_dict
        self.evaluations += 1
        return (answer(sample, timesteps, encoder_hidden_states, *added_cond_kwargs.values()),)


class Recorded(Graphed):
    """Captures without a GPU: a graph computes on replay, from its inputs. Fails with `failure` if there is one."""

    def __init__(self, unet: Unet, memory: GraphMemory) -> None:
        self.notes: list[str] = []
        self.pools: list[Any] = []
        self.replays = 0
        self.failure: RuntimeError | None = None
        super().__init__(unet, memory=memory, on_failure=self.notes.append)

    def _record(
        self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> tuple[Any, torch.Tensor]:
        self.pools.append(self._memory.pool)
        if self.failure is not None:
            raise self.failure
        owner, prediction = self, torch.empty_like(sample)

        class Graph:
            def replay(self) -> None:
                owner.replays += 1
                told = conditioning.embeddings, conditioning.pooled, conditioning.time_ids
                prediction.copy_(answer(sample, timesteps, *told))

        return Graph(), prediction


def evaluate(graphed: Graphed, rows: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluates inputs that nobody had before; returns the sample and the prediction, which it looks at."""
    told = torch.randn(rows, 77, 4), torch.randn(rows, 5), torch.randn(rows, 6)
    conditioning = Conditioning(embeddings=told[0], pooled=told[1], time_ids=told[2])
    sample, timesteps = torch.randn(rows, 4, side, side), torch.randn(rows)
    prediction = graphed(sample, timesteps, conditioning)
    assert torch.equal(prediction, answer(sample, timesteps, *told))
    return sample, prediction


@pytest.fixture
def unet() -> Unet:
    return Unet()


@pytest.fixture
def memory() -> GraphMemory:
    return GraphMemory()


@pytest.fixture
def graphed(unet: Unet, memory: GraphMemory) -> Recorded:
    return Recorded(unet, memory)


def test_the_second_evaluation_of_a_size_is_captured(graphed: Recorded, unet: Unet) -> None:
    """And all that follow are replayed; a size that comes once is not captured."""
    for _ in range(4):
        evaluate(graphed)
    evaluate(graphed, rows=4)
    assert graphed.captured_keys() == ((2, 8, 8),)
    assert (unet.evaluations, graphed.replays) == (2, 3)


def test_what_a_caller_gave_and_got_is_not_written_to(graphed: Recorded) -> None:
    """By the evaluations that follow, which are replayed where the first that was captured left its inputs."""
    evaluate(graphed)
    mine = [tensor for _ in range(2) for tensor in evaluate(graphed)]
    kept = [tensor.clone() for tensor in mine]
    evaluate(graphed)
    assert graphed.replays == 3
    assert all(map(torch.equal, mine, kept))


def test_all_graphs_share_a_pool_as_long_as_there_are_any(graphed: Recorded, memory: GraphMemory) -> None:
    """Once none is left the pool is torch's to free, and what comes next is captured into another."""
    other = Recorded(Unet(), memory)
    for each in (graphed, graphed, other, other):
        evaluate(each)
    graphed.clear()
    for _ in range(2):
        evaluate(graphed)
    (pool,) = other.pools
    assert graphed.pools == [pool, pool]
    graphed.clear()
    other.clear()
    for _ in range(2):
        evaluate(other)
        evaluate(graphed)
    assert other.pools[-1] == graphed.pools[-1] != pool


def test_the_graph_that_was_not_used_longest_makes_room(graphed: Recorded, memory: GraphMemory) -> None:
    """And the pool is still the same."""
    for rows in range(1, MOST_GRAPHS + 2):
        evaluate(graphed, rows)
        evaluate(graphed, rows)
    assert [key[0] for key in graphed.captured_keys()] == [*range(2, MOST_GRAPHS + 2)]
    assert len(set(graphed.pools)) == 1
    graphed.clear()
    before = memory.pool
    assert before not in graphed.pools


def test_a_graph_that_does_not_fit_is_done_without(graphed: Recorded) -> None:
    """The evaluation goes on as it is, once and for all at that size; others are captured, into another pool."""
    graphed.failure = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    for _ in range(3):
        evaluate(graphed)
    assert graphed.notes == ["2 rows of 8x8 latents cannot be captured: CUDA out of memory. Tried to allocate 2.00 GiB"]
    graphed.failure = None
    for _ in range(2):
        evaluate(graphed, rows=4)
    assert graphed.captured_keys() == ((4, 8, 8),)
    first, second = graphed.pools
    assert first != second


def test_after_a_capture_that_broke_off_nothing_is_captured(graphed: Recorded, memory: GraphMemory) -> None:
    """By nobody who shares its memory; what was captured before is still replayed."""
    for _ in range(2):
        evaluate(graphed)
    graphed.failure = RuntimeError("operation not permitted when stream is capturing")
    other = Recorded(Unet(), memory)
    for _ in range(3):
        evaluate(graphed, rows=4)
        evaluate(other)
    assert (graphed.captured_keys(), other.captured_keys()) == (((2, 8, 8),), ())
    assert len(graphed.notes) == 1
    before = graphed.replays
    evaluate(graphed)
    assert graphed.replays == before + 1
