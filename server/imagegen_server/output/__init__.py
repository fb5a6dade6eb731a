"""Decoded pixels to image files that carry the parameters they were made with, and the place where they are kept."""

__all__ = ["MIME_TYPES", "encode", "encode_preview", "parameters_text", "store"]

from imagegen_server.output import store
from imagegen_server.output.files import MIME_TYPES, encode, encode_preview
from imagegen_server.output.parameters import parameters_text
