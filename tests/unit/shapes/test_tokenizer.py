"""The pair's tokenizer: words of the world are tokens, and everything else is bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from imagegen_server import shapes
from imagegen_server.shapes.tokenizer import build_tokenizer, save_tokenizer
from imagegen_server.shapes.words import WORDS

PROMPT = "a large red circle on a blue background"
TOKENIZER = build_tokenizer()


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_world_is_one_token(word: str) -> None:
    """The text encoder sees words, not letters."""
    assert TOKENIZER.tokenize(word) == [f"{word}</w>"]


@given(text=st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_has_known_ids(text: str) -> None:
    """Bytes stand in for what the vocabulary lacks, so nothing in a prompt is unknown."""
    ids = TOKENIZER(text)["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids[-1] == TOKENIZER.eos_token_id == len(TOKENIZER) - 1
    if "<|" not in text:
        assert TOKENIZER.eos_token_id not in ids[1:-1]


def test_a_prompt_is_padded_to_77_with_the_end_token() -> None:
    """As SDXL's first tokenizer pads."""
    ids = TOKENIZER(PROMPT, padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == 77
    assert ids[9:] == [TOKENIZER.eos_token_id] * 68


@pytest.mark.parametrize(
    "directory", [shapes.BASE / "tokenizer", shapes.BASE / "tokenizer_2", shapes.REFINER / "tokenizer_2"]
)
def test_the_shipped_tokenizers_are_what_the_words_make(directory: Path, tmp_path: Path) -> None:
    """A change of the words without new weights would give every token another meaning."""
    save_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (directory / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")
    shipped = CLIPTokenizer.from_pretrained(directory)
    assert shipped(PROMPT).input_ids == TOKENIZER(PROMPT).input_ids
