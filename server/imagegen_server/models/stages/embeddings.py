"""What the text encoders said, kept for the next time somebody asks the same.

A text's embeddings depend on nothing but the text and the encoders: not on the seed, the size, the guidance or the
other texts of the request, since diffusers gives every text to the encoders alone. So they are remembered for each
text, and a known one gives the same bits as encoding it again. SDXL's refiner reads its prompt with the base's second
encoder only: its embeddings are a slice of the base's when the texts agree. A refiner with a first encoder of its own
shares none.

Used from one thread, the device thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import torch

CAPACITY_BYTES: Final = 32 * 2**20
"""Of device memory. In half precision a text takes SDXL 318 kB for the base and 200 kB for the refiner."""

Key = tuple[Hashable, ...]
"""The encoders, and the texts for them."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TextEmbeddings:
    """One text, encoded. Nobody writes to the tensors."""

    hidden: torch.Tensor
    """(1, 77, width)."""
    pooled: torch.Tensor
    """(1, width of the last encoder's projection)."""

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        return sum(each.numel() * each.element_size() for each in (self.hidden, self.pooled))


class EmbeddingCache:
    """Remembers the texts that were asked for last, up to a number of bytes."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity_bytes
        self._kept: OrderedDict[Key, TextEmbeddings] = OrderedDict()
        self.size_bytes = 0
        """Bytes of everything that is remembered."""

    def get(self, key: Key, encode: Callable[[], TextEmbeddings]) -> tuple[TextEmbeddings, bool]:
        """Returns the embeddings, encoded now unless they are remembered, and whether they were."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found, True
        made = encode()
        self.put(key, made)
        return made, False

    def put(self, key: Key, made: TextEmbeddings) -> None:
        """Remembers a text, and forgets those that nobody asked for the longest time. Too large a text is not kept."""
        self._forget(key)
        if made.size_bytes > self._capacity:
            return
        self._kept[key] = made
        self.size_bytes += made.size_bytes
        while self.size_bytes > self._capacity:
            self._forget(next(iter(self._kept)))

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()
        self.size_bytes = 0

    def _forget(self, key: Key) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self.size_bytes -= gone.size_bytes
