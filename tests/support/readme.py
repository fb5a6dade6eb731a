"""The generated parts of the README: `PYTHONPATH=tests python -m support.readme` writes them anew."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

from imagegen_server.models.memory.parts import architecture_parts
from imagegen_server.models.memory.table import memory_table
from imagegen_server.models.sources.architecture import SDXL_BASE, SDXL_REFINER
from imagegen_server.settings import settings_table_markdown

README = Path(__file__).resolve().parents[2] / "README.md"


def renewed(text: str) -> str:
    """Returns the README's text with its generated parts as they should be."""
    table = memory_table(architecture_parts(SDXL_BASE, SDXL_REFINER))
    for name, part in (("memory table", table), ("settings", settings_table_markdown())):
        pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)"
        if not re.search(pattern, text, re.DOTALL):
            raise ValueError(f"the README has no place for the {name}")
        text = re.sub(pattern, partial(_filled, part.strip()), text, flags=re.DOTALL)
    return text


def _filled(part: str, place: re.Match[str]) -> str:
    return f"{place[1]}\n{part}\n\n{place[2]}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
