"""The words that the rooms share as values of the contract's enumerations, and back."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api.backend import ServerState
from imagegen_server.core import FallbackKind, FallbackReason, GenerationState, RefinerMode, Residency, Stage

_Word = TypeVar("_Word", bound=enum.Enum)
_Value = TypeVar("_Value")


def _by_word(words: type[_Word], enumeration: type[_Value]) -> Mapping[_Word, _Value]:
    """Returns the value of each word: it has the word's name, after the prefix that `_UNSPECIFIED` shows."""
    wrapper: Any = enumeration  # at run time an EnumTypeWrapper
    prefix = wrapper.Name(0).removesuffix("UNSPECIFIED")
    return {word: wrapper.Value(prefix + word.name) for word in words}


def _by_value(values: Mapping[_Word, _Value]) -> Mapping[_Value, _Word]:
    return {value: word for word, value in values.items()}


STAGES: Final = _by_word(Stage, pb.Stage)
FALLBACK_REASONS: Final = _by_word(FallbackReason, pb.FallbackReason)
FALLBACK_KINDS: Final = _by_word(FallbackKind, pb.FallbackKind)
REFINER_MODES: Final = _by_word(RefinerMode, pb.RefinerMode)
GENERATION_STATES: Final = _by_word(GenerationState, pb.GenerationState)
SERVER_STATES: Final = _by_word(ServerState, pb.ServerState)
RESIDENCIES: Final = _by_word(Residency, pb.Residency)

# What an unspecified value stands for is decided where it is read: these do not have it.
FALLBACK_KIND_OF: Final = _by_value(FALLBACK_KINDS)
REFINER_MODE_OF: Final = _by_value(REFINER_MODES)
