"""Keeps the libraries' log lines that repeat what the server reports in its own way out of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_TRUNCATION_LOGGERS = (
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img",
    "transformers.tokenization_utils_base",
    "transformers.tokenization_utils_tokenizers",
)
_TRUNCATION_MESSAGES = ("The following part of your input was truncated", "Token indices sequence length is longer")

_WEIGHTS_LOGGERS = ("diffusers.models.modeling_utils", "transformers.modeling_utils")
_WEIGHTS_MESSAGES = ("Some weights of ", "LOAD REPORT")

_SCHEDULER_LOGGERS = ("diffusers.configuration_utils", "diffusers.schedulers.scheduling_dpmsolver_singlestep")
_SCHEDULER_MESSAGES = ("The config attributes", "Changing scheduler", " `last_sigmas_type='zero'`")


@contextmanager
def truncation_reported() -> Iterator[None]:
    """Drops the libraries' lines about long prompts: they hold the prompt, and the caller gets a warning event."""
    with _dropped(_TRUNCATION_LOGGERS, _TRUNCATION_MESSAGES):
        yield


@contextmanager
def weights_reported() -> Iterator[None]:
    """Drops the tables of weights that are missing or left over: the loader says that in an error, or in one line."""
    with _dropped(_WEIGHTS_LOGGERS, _WEIGHTS_MESSAGES):
        yield


@contextmanager
def scheduler_configured() -> Iterator[None]:
    """Drops the lines about a scheduler that does not know, or adapts, a setting of the model's own scheduler."""
    with _dropped(_SCHEDULER_LOGGERS, _SCHEDULER_MESSAGES):
        yield


@contextmanager
def _dropped(loggers: tuple[str, ...], phrases: tuple[str, ...]) -> Iterator[None]:
    def keep(record: logging.LogRecord) -> bool:
        return not any(phrase in str(record.msg) for phrase in phrases)

    with ExitStack() as stack:
        for name in loggers:
            logger = logging.getLogger(name)
            logger.addFilter(keep)
            stack.callback(logger.removeFilter, keep)
        yield
