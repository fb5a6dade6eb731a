"""A CLIP tokenizer whose merges make each word of the shapes world one token.

Everything else falls back to bytes, so any text has ids and none is unknown. The end-of-text token is the last
id and also the padding, as in SDXL's first tokenizer: CLIP pools at the highest id when its configuration says 2.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen_server.shapes.words import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 77
"""Positions of SDXL's text encoders."""
BEGIN = "<|startoftext|>"
END = "<|endoftext|>"
_END_OF_WORD = "</w>"

Merge = tuple[str, str]


def byte_alphabet() -> tuple[str, ...]:
    """Returns the printable stand-in of each byte in GPT-2's byte-level BPE (Radford et al. 2019), sorted."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return tuple(sorted([chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]))


def learn_merges() -> tuple[Merge, ...]:
    """Returns byte-pair merges, most frequent pair first, until each of `WORDS` is one symbol.

    Ties go to the pair that comes first in the alphabet, so the result depends on the words alone.
    """
    spellings = [[*word[:-1], word[-1] + _END_OF_WORD] for word in WORDS]
    merges: list[Merge] = []
    while True:
        pairs: Counter[Merge] = Counter()
        for symbols in spellings:
            pairs.update(itertools.pairwise(symbols))
        if not pairs:
            return tuple(merges)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [_apply(symbols, best) for symbols in spellings]


def vocabulary(merges: tuple[Merge, ...]) -> dict[str, int]:
    """Returns the ids: bytes, bytes that end a word, merges, begin, end."""
    alphabet = byte_alphabet()
    merged = dict.fromkeys(left + right for left, right in merges)
    symbols = (*alphabet, *(symbol + _END_OF_WORD for symbol in alphabet), *merged, BEGIN, END)
    return {symbol: index for index, symbol in enumerate(symbols)}


def build_tokenizer() -> CLIPTokenizer:
    """Returns the tokenizer; takes milliseconds, reads nothing."""
    from transformers import CLIPTokenizer  # noqa: PLC0415 - heavy

    merges = learn_merges()
    return CLIPTokenizer(
        vocab=vocabulary(merges),
        merges=list(merges),  # type: ignore[arg-type]  # pairs are what it takes; it is annotated too narrowly
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=MAX_LENGTH,
    )


def save_tokenizer(directory: Path) -> None:
    """Writes the tokenizer, with the vocab.json and merges.txt that SDXL's own repositories carry."""
    merges = learn_merges()
    build_tokenizer().save_pretrained(directory)
    (directory / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _apply(symbols: list[str], pair: Merge) -> list[str]:
    result: list[str] = []
    index = 0
    while index < len(symbols):
        if tuple(symbols[index : index + 2]) == pair:
            result.append(pair[0] + pair[1])
            index += 2
        else:
            result.append(symbols[index])
            index += 1
    return result
