"""The words of the shapes world: what its prompts may say, and what its tokenizer knows as single tokens."""

from __future__ import annotations

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom", "centre")
RELATIONS = ("left of", "right of", "above", "below")

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
POSITION_PHRASES = {
    "left": ("on the left", "at the left", "on the left side", "in the left half"),
    "right": ("on the right", "at the right", "on the right side", "in the right half"),
    "top": ("at the top", "in the upper half", "near the top", "on the top"),
    "bottom": ("at the bottom", "in the lower half", "near the bottom", "on the bottom"),
    "centre": ("in the centre", "in the center", "in the middle", "at the centre"),
}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
UNORDERED_PHRASES = ("and", "next to", "beside", "with")
"""Between two objects whose places are not said."""
FILLERS = (
    ("a picture of", "an image of", "a drawing of", "a simple picture of", "a photo of", "please draw"),
    ("high quality", "detailed", "simple", "clean lines", "4k", "beautiful"),
)
"""What people write before and after, and what changes nothing."""

_GRAMMAR = ("a", "an", "the", "one", "two", "of", "on", "in", "at", "to", "is", "there", "are", "with", "background")
_EXTRA = ("scene", "plain", "empty", "only", "three", "four", "five", "no", "coloured", "colored", "color", "colour")

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        word
        for phrase in (
            *COLOURS,
            *SHAPES,
            *(f"{shape}s" for shape in SHAPES),
            *(word for words in SIZE_WORDS.values() for word in words),
            *(phrase for phrases in POSITION_PHRASES.values() for phrase in phrases),
            *(phrase for phrases in RELATION_PHRASES.values() for phrase in phrases),
            *UNORDERED_PHRASES,
            *(phrase for fillers in FILLERS for phrase in fillers),
            *_GRAMMAR,
            *_EXTRA,
        )
        for word in phrase.split()
        if word.isalpha()
    )
)
"""Every word that is one token, in the order in which the vocabulary is built."""
