"""Log lines of gRPC that repeat what a caller sent: their text is replaced, and they are few.

gRPC writes the whole value of metadata that is not UTF-8, a key or a token as well, and paths likewise, as an error and
with a traceback.
"""

from __future__ import annotations

import logging
from typing import Final

from imagegen_server.telemetry.sparing import Sparing

TEXT: Final = "a call had metadata or a path that is not UTF-8"


class HideUndecoded(logging.Filter):
    """For a handler: puts `TEXT` and how many were left out in the place of what gRPC could not decode."""

    def __init__(self) -> None:
        super().__init__()
        self._sparing = Sparing()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the line is written, without the caller's bytes in it."""
        if not _of_bytes(record):
            return True
        left_out = self._sparing.take(TEXT)
        record.msg, record.args, record.exc_info, record.exc_text = TEXT, (), None, None
        record.left_out = left_out
        return left_out is not None


def _of_bytes(record: logging.LogRecord) -> bool:
    """Returns whether gRPC tells of bytes that are no text."""
    if record.name.partition(".")[0] != "grpc":
        return False
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, UnicodeError) or str(record.msg).startswith("Invalid encoding")
