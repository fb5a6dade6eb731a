"""Prompts to conditioning, and what of them did not fit the text encoders.

Each text is encoded alone, as diffusers does it, and remembered: see `embeddings`. Where the parts of the pair take
turns on the device, the encoders come for a text that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from imagegen_server.core import GenerationRequest, PromptTruncation, RefinerSettings, Stage, TextReuse
from imagegen_server.models.evaluation.conditioning import Conditioning
from imagegen_server.models.quiet import truncation_reported
from imagegen_server.models.stages.embeddings import EmbeddingCache, TextEmbeddings

if TYPE_CHECKING:
    from imagegen_server.models.pair import LoadedPair


def encode(
    pair: LoadedPair, request: GenerationRequest, cache: EmbeddingCache
) -> tuple[dict[Stage, Conditioning], TextReuse]:
    """Returns the conditioning of each step stage that the request will run, and how many texts were known."""
    texts = _Texts(pair, cache)
    conditioning = {Stage.BASE: _base(pair.base, pair.device, request, texts)}
    if request.refiner is not None and pair.refiner is not None:
        conditioning[Stage.REFINER] = _refiner(pair.refiner, pair.device, request, request.refiner, texts)
    return conditioning, TextReuse(reused=texts.reused, encoded=texts.encoded)


class _Texts:
    """Gets the embeddings of one request's texts."""

    def __init__(self, pair: LoadedPair, cache: EmbeddingCache) -> None:
        self._pair = pair
        self._cache = cache
        self._refiners = () if pair.refiner is None else _readers(pair.refiner)
        self.reused = 0
        self.encoded = 0

    def of(self, pipeline: Any, text: str, text_2: str) -> TextEmbeddings:
        """Returns the embeddings of a text, and of the one for the second encoder if that is another."""
        readers = _readers(pipeline)
        texts = (text, text_2 or text)[: len(readers)]  # the second encoder alone reads the first
        found, known = self._cache.get((readers, *texts), lambda: self._encode(pipeline, text, text_2))
        if known:
            self.reused += 1
        else:
            self.encoded += 1
            if len(readers) == 2 and readers[1:] == self._refiners:
                self._cache.put((self._refiners, text_2 or text), _seconds_part(pipeline, found))
        return found

    def _encode(self, pipeline: Any, text: str, text_2: str) -> TextEmbeddings:
        self._pair.bring(Stage.TEXT_ENCODE)
        device = self._pair.device
        with truncation_reported():
            hidden, _, pooled, _ = pipeline.encode_prompt(
                prompt=text,
                prompt_2=text_2 or None,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        return TextEmbeddings(hidden=hidden.to(device), pooled=pooled.to(device))


def _readers(pipeline: Any) -> tuple[tuple[int, int], ...]:
    """Returns what identifies each encoder of a pipeline, with its tokenizer. They live as long as the pair."""
    both = ((pipeline.text_encoder, pipeline.tokenizer), (pipeline.text_encoder_2, pipeline.tokenizer_2))
    return tuple((id(encoder), id(tokenizer)) for encoder, tokenizer in both if encoder is not None)


def _seconds_part(pipeline: Any, both: TextEmbeddings) -> TextEmbeddings:
    """Returns what the second encoder alone said: diffusers puts it after the first's."""
    width = pipeline.text_encoder_2.config.hidden_size
    return TextEmbeddings(hidden=both.hidden[..., -width:].contiguous(), pooled=both.pooled)


def truncations(pair: LoadedPair, request: GenerationRequest) -> tuple[PromptTruncation, ...]:
    """Returns every cut, of the prompts and encoders that are in fact used."""
    negative = _negative(pair.base, request, request.guidance_scale)
    found = list(_cuts(pair.base, Stage.BASE, _positive(request), negative))
    settings = request.refiner
    if settings is not None and pair.refiner is not None:
        positive = [("refiner.prompt", settings.prompt)] * 2 if settings.prompt else _positive(request)
        negative = _negative(pair.refiner, request, settings.guidance_scale)
        found.extend(_cuts(pair.refiner, Stage.REFINER, positive, negative))
    return tuple(found)


def _base(pipeline: Any, device: torch.device, request: GenerationRequest, texts: _Texts) -> Conditioning:
    guided = request.guidance_scale > 1.0
    embeddings, pooled = _embeddings(pipeline, texts, request, request.prompt, request.prompt_2, guided)
    micro, size = request.micro_conditioning, (request.height, request.width)
    shape = {"dtype": embeddings.dtype, "text_encoder_projection_dim": pipeline.text_encoder_2.config.projection_dim}
    time_ids = pipeline._get_add_time_ids(
        micro.original_size or size, micro.crops_coords_top_left, micro.target_size or size, **shape
    )
    if guided:
        negative = time_ids
        if micro.negative_original_size is not None and micro.negative_target_size is not None:
            negative = pipeline._get_add_time_ids(
                micro.negative_original_size,
                micro.negative_crops_coords_top_left,
                micro.negative_target_size,
                **shape,
            )
        time_ids = torch.cat([negative, time_ids], dim=0)
    return Conditioning(embeddings=embeddings, pooled=pooled, time_ids=time_ids.to(device))


def _refiner(
    pipeline: Any, device: torch.device, request: GenerationRequest, settings: RefinerSettings, texts: _Texts
) -> Conditioning:
    guided = settings.guidance_scale > 1.0
    prompt, prompt_2 = (settings.prompt, "") if settings.prompt else (request.prompt, request.prompt_2)
    embeddings, pooled = _embeddings(pipeline, texts, request, prompt, prompt_2, guided)
    micro = request.micro_conditioning
    original = micro.original_size or (request.height, request.width)
    target = micro.target_size or (request.height, request.width)
    positive_ids, negative_ids = pipeline._get_add_time_ids(
        original,
        micro.crops_coords_top_left,
        target,
        settings.aesthetic_score,
        settings.negative_aesthetic_score,
        micro.negative_original_size or original,
        micro.negative_crops_coords_top_left,
        micro.negative_target_size or target,
        dtype=embeddings.dtype,
        text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim,
    )
    time_ids = torch.cat([negative_ids, positive_ids], dim=0) if guided else positive_ids
    return Conditioning(embeddings=embeddings, pooled=pooled, time_ids=time_ids.to(device))


def _embeddings(
    pipeline: Any, texts: _Texts, request: GenerationRequest, prompt: str, prompt_2: str, guided: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns hidden states and pooled embeddings, the negative prompt's first: as `encode_prompt` chooses them."""
    positive = texts.of(pipeline, prompt, prompt_2)
    if not guided:
        return positive.hidden, positive.pooled
    if request.negative_prompt is None and pipeline.config.force_zeros_for_empty_prompt:
        hidden, pooled = torch.zeros_like(positive.hidden), torch.zeros_like(positive.pooled)
    else:
        negative = texts.of(pipeline, request.negative_prompt or "", request.negative_prompt_2)
        hidden, pooled = negative.hidden, negative.pooled
    return torch.cat([hidden, positive.hidden], dim=0), torch.cat([pooled, positive.pooled], dim=0)


Field = tuple[str, str]
"""A field of the request and its text."""


def _positive(request: GenerationRequest) -> list[Field]:
    first = ("prompt", request.prompt)
    return [first, ("prompt_2", request.prompt_2) if request.prompt_2 else first]


def _negative(pipeline: Any, request: GenerationRequest, guidance_scale: float) -> list[Field]:
    zeroed = request.negative_prompt is None and pipeline.config.force_zeros_for_empty_prompt
    if guidance_scale <= 1.0 or zeroed:
        return []
    first = ("negative_prompt", request.negative_prompt or "")
    return [first, ("negative_prompt_2", request.negative_prompt_2) if request.negative_prompt_2 else first]


def _cuts(pipeline: Any, stage: Stage, *prompts: list[Field]) -> Iterator[PromptTruncation]:
    for texts in prompts:
        # diffusers pairs prompts and encoders in this way: a pipeline without its first encoder ignores prompt_2.
        for (name, tokenizer), (field, text) in zip(_encoders(pipeline), texts, strict=False):
            cut = _cut(tokenizer, text)
            if cut is not None:
                removed_text, removed = cut
                yield PromptTruncation(
                    encoder=name,
                    stage=stage,
                    prompt_field=field,
                    removed_text=removed_text,
                    removed_tokens=removed,
                    max_tokens=tokenizer.model_max_length,
                )


def _encoders(pipeline: Any) -> list[tuple[str, Any]]:
    second = [("text_encoder_2", pipeline.tokenizer_2)]
    return second if pipeline.tokenizer is None else [("text_encoder", pipeline.tokenizer), *second]


def _cut(tokenizer: Any, text: str) -> tuple[str, int] | None:
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    removed = ids[tokenizer.model_max_length - 1 : -1]  # the last token ends the text
    return (tokenizer.decode(removed), len(removed)) if removed else None
