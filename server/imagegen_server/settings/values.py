"""Types of values that are written with a unit, or with a word for none."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bracketed(host: str) -> str:
    """Returns a name or address as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_bytes(value: object) -> object:
    """Returns "20GB", "20 GiB" or "1048576" as a number of bytes; anything but text is returned as it is.

    Raises ValueError for a text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B|)\s*", value.upper())
    if match is None:
        raise ValueError("should be a size such as 20GB, 18.5GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(value: object) -> object:
    """Returns "30d", "12h", "5m", "90s" or "90" as seconds; anything but text is returned as it is.

    Raises ValueError for a text that is no time.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value.lower())
    if match is None:
        raise ValueError("should be a time such as 30d, 12h, 5m or a number of seconds")
    return float(match[1]) * _TIMES[match[2]]


def off(value: object) -> object:
    """Returns None for the ways to write "no port" and "no limit"."""
    return None if value in ("none", "off", "-1", -1) else value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Port = Annotated[int, Field(ge=0, le=65535)]
