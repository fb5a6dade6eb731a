"""The words of the shapes world: what its prompts may say, and what its tokenizer knows as single tokens."""

from __future__ import annotations

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom", "centre")
RELATIONS = ("above", "below", "left of", "right of")

_PLURALS = tuple(f"{shape}s" for shape in SHAPES)
_SYNONYMS = ("big", "tiny", "center", "middle", "over", "under", "upper", "lower", "side", "corner")
_COUNTS = ("one", "two", "three", "four", "five")
_GLUE = ("a", "an", "the", "of", "on", "in", "at", "to", "is", "and", "with", "next", "there", "are")
_NOUNS = ("background", "picture", "image", "drawing", "scene")

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        (*COLOURS, *SHAPES, *SIZES, *POSITIONS, "above", "below", *_PLURALS, *_SYNONYMS, *_COUNTS, *_GLUE, *_NOUNS)
    )
)
"""Every word that is one token, in the order in which the vocabulary is built."""
