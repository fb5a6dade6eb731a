"""Remembered embeddings: bit for bit what diffusers encodes, and never more bytes than allowed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen_server import core, shapes
from imagegen_server.models.pair import LoadedPair
from imagegen_server.models.stages import text
from imagegen_server.models.stages.embeddings import EmbeddingCache, TextEmbeddings
from support.model_files import own_first_encoder
from support.pairs import as_loaded, image_to_image, load_stock, request

LONG = " ".join(["a large red circle on a blue background"] * 20)
REQUESTS = {
    "plain": request(),
    "unguided": request(guidance_scale=1.0, refiner=image_to_image(guidance_scale=1.0)),
    "negative": request(negative_prompt="blurry"),
    "two prompts": request(prompt_2="a star", negative_prompt="blurry", negative_prompt_2="a square"),
    "empty negative": request(negative_prompt=""),
    "refiner's own prompt": request(refiner=image_to_image(prompt="a green star")),
    "too long": request(prompt=LONG, negative_prompt=LONG),
}


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return as_loaded(load_stock(shapes.DIRECTORY))


def expected(pair: LoadedPair, asked: core.GenerationRequest) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields what diffusers gives the base and the refiner, encoding everything for each."""
    settings = asked.refiner
    assert settings is not None
    own = (settings.prompt, "") if settings.prompt else (asked.prompt, asked.prompt_2)
    stages: list[tuple[Any, tuple[str, str], float]] = [
        (pair.base, (asked.prompt, asked.prompt_2), asked.guidance_scale),
        (pair.refiner, own, settings.guidance_scale),
    ]
    for pipeline, (prompt, prompt_2), guidance in stages:
        positive, negative, pooled, negative_pooled = pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=prompt_2 or None,
            do_classifier_free_guidance=guidance > 1,
            negative_prompt=asked.negative_prompt,
            negative_prompt_2=asked.negative_prompt_2 or None,
        )
        if guidance > 1:
            yield torch.cat([negative, positive]), torch.cat([negative_pooled, pooled])
        else:
            yield positive, pooled


def test_embeddings_are_diffusers_bit_for_bit_fresh_and_remembered(pair: LoadedPair) -> None:
    """Whatever was asked before, and in whichever order."""
    cache = EmbeddingCache()
    with torch.inference_mode():
        for asked in [*REQUESTS.values(), *reversed(REQUESTS.values())]:
            found, _ = text.encode(pair, asked, cache)
            for stage, (hidden, pooled) in zip(
                (core.Stage.BASE, core.Stage.REFINER), expected(pair, asked), strict=True
            ):
                assert torch.equal(found[stage].embeddings, hidden)
                assert torch.equal(found[stage].pooled, pooled)


def test_what_is_known_is_not_encoded_again(pair: LoadedPair) -> None:
    """The refiner's prompt is a part of the base's; the empty negative prompt is the same for everybody."""
    cache = EmbeddingCache()

    def reuse(**changes: Any) -> tuple[int, int]:
        asked = request(**changes)
        with torch.inference_mode():
            found = text.encode(pair, asked, cache)[1]
        return found.encoded, found.reused

    assert reuse(prompt="one") == (2, 1)  # the prompt, and the refiner's empty negative one
    assert reuse(prompt="two") == (1, 2)
    assert reuse(prompt="two", num_inference_steps=9, seed=5, width=64) == (0, 3)
    assert reuse(prompt="two", prompt_2="three") == (1, 2)
    assert reuse(prompt="two", refiner=image_to_image(prompt="three")) == (0, 3)


def test_pairs_that_share_no_encoder_share_no_embeddings(pair: LoadedPair) -> None:
    """A refiner with an encoder of its own is asked itself."""
    other = load_stock(shapes.DIRECTORY)
    apart = dataclasses.replace(pair, refiner=other.refiner)
    with torch.inference_mode():
        assert text.encode(apart, request(), EmbeddingCache())[1].encoded == 3


def test_a_refiner_with_a_first_encoder_of_its_own_reads_with_that(tmp_path: Path) -> None:
    """The same texts mean something else to it, whichever pipeline read them first."""
    shutil.copytree(shapes.DIRECTORY, tmp_path, dirs_exist_ok=True)
    own_first_encoder(tmp_path)
    pair = as_loaded(load_stock(tmp_path))
    cache = EmbeddingCache()
    with torch.inference_mode():
        for asked in [*REQUESTS.values(), *reversed(REQUESTS.values())]:
            found, _ = text.encode(pair, asked, cache)
            for stage, (hidden, pooled) in zip(
                (core.Stage.BASE, core.Stage.REFINER), expected(pair, asked), strict=True
            ):
                assert torch.equal(found[stage].embeddings, hidden)
                assert torch.equal(found[stage].pooled, pooled)


def made(value: float, width: int = 8) -> TextEmbeddings:
    return TextEmbeddings(hidden=torch.full((1, 1, width), value), pooled=torch.zeros(1, 2))


def test_the_cache_keeps_what_was_asked_for_last_within_its_bytes() -> None:
    """40 bytes a text; what was used least recently goes first, and what is too large is not kept at all."""
    cache = EmbeddingCache(capacity_bytes=100)
    for name in ("a", "b", "a", "c"):
        cache.get((name,), lambda: made(1.0))
        assert cache.size_bytes <= 100
    known = {name: cache.get((name,), lambda: made(2.0))[1] for name in ("a", "c", "b")}
    assert known == {"a": True, "c": True, "b": False}
    cache.put(("large",), made(1.0, width=100))
    assert cache.size_bytes == 80
    assert cache.get(("large",), lambda: made(3.0, width=100))[1] is False
    cache.put(("c",), made(1.0))
    assert cache.size_bytes <= 100
    cache.clear()
    assert cache.size_bytes == 0
