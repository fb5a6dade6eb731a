"""One evaluation of a UNet on a CPU without Python in between: a TorchScript trace.

Calling a UNet's modules takes Python 8 to 10 ms, whatever they compute. On a CPU that is half of an evaluation of a
small UNet, and the threads that serve callers want the same interpreter. A trace calls the same operators with the
same arguments in the same order from C++, with the interpreter lock released: the same bits. It is made before the
server serves, in about 0.2 s, and then holds for every number of rows and every latent that the UNet can halve as
often as it wants to; others are evaluated as they are.

Weights are inputs of the trace, not constants of it: tracing is faster so, nothing is held twice, and they keep
`requires_grad`, by which torch chooses how it multiplies.

What the UNet makes of the conditioning alone is the same at every step: the keys and values of its cross-attention, and
its embedding of the pooled text and the sizes. They are inputs of the trace too, computed once for a generation, by
the same operators on the same rows: the same bits again.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch

from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.evaluation.forward import Plain, call

MOST_PARAMETERS: Final = 100_000_000
"""UNets with more are not traced: for them a CPU's arithmetic takes many times as long as Python."""


class Traced:
    """Evaluates a UNet as it is until `trace` was called, then by its trace. For one thread.

    A trace that cannot evaluate what the UNet can is given up for good, and `on_failure` hears why.
    """

    def __init__(self, module: Any, *, on_failure: Callable[[str], None]) -> None:
        self._module = module
        self._on_failure = on_failure
        self._plain = Plain(module)
        self._function: Any = None
        self._parameters: Sequence[torch.Tensor] = ()
        self._steady = _Steady(module)
        self.multiple = 2 ** sum(getattr(block, "upsamplers", None) is not None for block in module.up_blocks)
        """Of latent pixels that heights and widths must be, for the trace to hold."""

    def __call__(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Evaluate`."""
        if not self.active or any(side % self.multiple for side in sample.shape[-2:]):
            return self._plain(sample, timesteps, conditioning)
        try:
            return self._run(sample, timesteps, conditioning)
        except RuntimeError as error:
            prediction = self._plain(sample, timesteps, conditioning)
            self.clear()
            self._on_failure(f"{len(sample)} rows of {sample.shape[-2]}x{sample.shape[-1]} latents: {error}")
            return prediction

    def project(self, conditioning: Conditioning) -> Conditioning:
        """See `Evaluate`. Without a trace it is left as it is."""
        if not self.active or conditioning.projections:
            return conditioning
        return replace(conditioning, projections=self._steady.of(conditioning))

    @property
    def active(self) -> bool:
        """Whether there is a trace."""
        return self._function is not None

    def clear(self) -> None:
        """Goes back to evaluating the UNet as it is."""
        self._function, self._parameters = None, ()

    def trace(self, *examples: tuple[torch.Tensor, torch.Tensor, Conditioning]) -> None:
        """Traces the UNet with the first example, and compares the trace with the UNet on all of them.

        If it cannot be traced or differs in any bit, the UNet is evaluated as it is, and `on_failure` hears why.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes that became constants, which the comparison would find
                self._function, self._parameters = _trace(self._module, self._steady, *examples[0])
            for example in examples:
                if not torch.equal(self._run(*example), self._plain(*example)):
                    raise RuntimeError(f"the trace gives other bits at a sample of {tuple(example[0].shape)}")
        except RuntimeError as error:
            self.clear()
            self._on_failure(str(error))

    def _run(self, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        conditioning = self.project(conditioning)
        # Unoptimised: the optimiser compiles anew for shapes it has not seen, on a request's path, and may reorder.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # public, but not re-exported
            prediction: torch.Tensor = self._function(
                self._parameters,
                conditioning.projections,
                sample,
                timesteps,
                conditioning.embeddings,
                conditioning.pooled,
                conditioning.time_ids,
            )
        return prediction


class _Steady:
    """What a UNet computes from the conditioning alone."""

    def __init__(self, module: Any) -> None:
        self._module = module
        cross = [block.attn2 for block in module.modules() if getattr(block, "attn2", None) is not None]
        self._layers = [layer for attention in cross for layer in (attention.to_k, attention.to_v)]

    def of(self, conditioning: Conditioning) -> tuple[torch.Tensor, ...]:
        """Computes it: a key and a value of every cross-attention, and the embedding that is added to the time's."""
        added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
        embedded = self._module.get_aug_embed(conditioning.pooled, conditioning.embeddings, added)
        return (*(layer(conditioning.embeddings) for layer in self._layers), embedded)

    @contextlib.contextmanager
    def given(self, projections: Sequence[torch.Tensor]) -> Iterator[None]:
        """Has the UNet take what `of` computed, for the length of a block."""
        places = [*((layer, "forward") for layer in self._layers), (self._module, "get_aug_embed")]
        kept = [(vars(owner), name, vars(owner).get(name)) for owner, name in places]
        try:
            for (attributes, name, _), projection in zip(kept, projections, strict=True):
                attributes[name] = partial(_constant, projection)
            yield
        finally:
            for attributes, name, before in kept:
                if before is None:
                    attributes.pop(name, None)
                else:
                    attributes[name] = before


def _constant(value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return value


def worth_tracing(module: Any) -> bool:
    """Returns whether Python is a good part of the UNet's time on a CPU."""
    parameters: int = sum(parameter.numel() for parameter in module.parameters())
    return parameters <= MOST_PARAMETERS


def _trace(
    module: Any, steady: _Steady, sample: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
) -> tuple[Any, list[torch.Tensor]]:
    """Returns a function of weights, projections and inputs, and the weights.

    Raises RuntimeError if there can be none.
    """
    slots = [(part._parameters, name) for part in module.modules() for name in part._parameters]
    slots = [(owner, name) for owner, name in slots if owner[name] is not None]
    parameters = [owner[name] for owner, name in slots]

    def evaluate(
        weights: list[torch.Tensor],
        projections: tuple[torch.Tensor, ...],
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        embeddings: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        try:
            for (owner, name), weight in zip(slots, weights, strict=True):
                owner[name] = weight
            given = Conditioning(embeddings=embeddings, pooled=pooled, time_ids=time_ids)
            with steady.given(projections):
                return call(module, sample, timesteps, given)
        finally:
            for (owner, name), parameter in zip(slots, parameters, strict=True):
                owner[name] = parameter

    texts = (conditioning.embeddings, conditioning.pooled, conditioning.time_ids)
    inputs = (parameters, steady.of(conditioning), sample, timesteps, *texts)
    function = torch.jit.trace(evaluate, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    if not isinstance(function, torch.jit.ScriptFunction):
        raise RuntimeError("TorchScript is switched off in this process (PYTORCH_JIT=0)")
    return function, parameters
