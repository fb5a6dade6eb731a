"""Settings of the store, and of where its images are fetched."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from imagegen_server.settings.group import Group
from imagegen_server.settings.values import Bytes, Port, Seconds, off


class StoreSettings(Group):
    """Results that stay"""

    store: str | None = Field(
        None,
        min_length=1,
        description="Where images are kept with their parameters, prompts included: a directory, s3://BUCKET/PREFIX, "
        "gs://BUCKET/PREFIX or another object store that fsspec knows. Nothing is kept if unset.",
    )
    store_max_bytes: Annotated[Bytes | None, BeforeValidator(off)] = Field(
        10 * 10**9, ge=2**20, description="Most bytes that are kept; the oldest go first. none: no limit."
    )
    store_max_age: Annotated[Seconds | None, BeforeValidator(off)] = Field(
        30 * 86400.0, gt=0, description="How long an image is kept: 30d, 12h, seconds. none: no limit."
    )
    store_min_age: Seconds = Field(
        600.0, ge=0, description="How long an image stays at least, whatever the limits: 10m, seconds."
    )
    store_sweep_interval: Seconds = Field(60.0, ge=0.1, description="Time between two looks for what must go.")
    store_timeout: float = Field(
        5.0, gt=0, le=600, description="Seconds that the end of a generation waits at most for its images to be kept."
    )
    images_host: str = Field("127.0.0.1", min_length=1, description="Address to serve the kept images on, over HTTP.")
    images_port: Annotated[Port | None, BeforeValidator(off)] = Field(
        None, description="Port of the kept images, at /images/NAME; 0 takes a free one, none or unset serves none."
    )
    image_url_base: str | None = Field(
        None,
        pattern=r"^(signed|https?://[^\s?#]+)$",
        description="What callers put before /NAME to fetch an image; signed: URLs that the object store signs. "
        "http://HOST:PORT/images of the images' own port if unset.",
    )
    image_url_lifetime: Seconds = Field(
        86400.0, ge=1, le=7 * 86400, description="How long signed URLs are good: 1d, seconds."
    )

    @field_validator("store_min_age")
    @classmethod
    def _before_the_end(cls, value: float, info: ValidationInfo) -> float:
        most = info.data.get("store_max_age")
        if most is not None and value > most:
            raise ValueError(f"is above the greatest age, {most:g}")
        return value

    @field_validator("images_port", "image_url_base")
    @classmethod
    def _with_a_store(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        if value is not None and info.data.get("store") is None:
            raise ValueError("needs --store")
        return value

    @field_validator("image_url_base")
    @classmethod
    def _reachable(cls, value: str | None, info: ValidationInfo) -> str | None:
        everywhere = info.data.get("images_host") in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        if value is None and everywhere and info.data.get("images_port") is not None:
            raise ValueError("is needed: --images-host is no address that callers can fetch from")
        return value
