"""The memory plan of Stable Diffusion XL on cards of several sizes, as a Markdown table.

`python -m imagegen_server.models.memory.table` prints it; no GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from imagegen_server.core import DeviceInfo, Residency, Size
from imagegen_server.errors import DoesNotFit
from imagegen_server.models.memory.explanation import gigabytes
from imagegen_server.models.memory.needs import SDXL_ACTIVATIONS, MemoryRequest, Part
from imagegen_server.models.memory.parts import architecture_parts
from imagegen_server.models.memory.plan import plan_memory
from imagegen_server.models.memory.residency import LAYOUTS
from imagegen_server.models.precision import choose
from imagegen_server.models.profiles import SDXL, bare_profile
from imagegen_server.models.sources.architecture import SDXL_BASE, SDXL_REFINER

CARDS_GIB = (8, 12, 16, 24, 32, 80)
"""Memory of the cards in the table, in GiB, as NVIDIA's cards are built."""

PRECISIONS = ("auto", "fp16", "fp32")

UNUSABLE_BYTES = 600 * 10**6
"""Taken off each card for the driver, the CUDA context and a desktop's windows."""

_WORDS = {
    LAYOUTS[0]: "both resident",
    LAYOUTS[1]: "swap UNets",
    LAYOUTS[2]: "swap all parts",
}


def memory_table(parts: Sequence[Part]) -> str:
    """Returns the table for a pair made of `parts`, at 1024x1024, one row for each card."""
    lines = [
        "| card | " + " | ".join(PRECISIONS) + " |",
        "|---" * (len(PRECISIONS) + 1) + "|",
    ]
    for card in CARDS_GIB:
        cells = [_cell(tuple(parts), card, precision) for precision in PRECISIONS]
        lines.append(f"| {card} GB | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(parts: tuple[Part, ...], card: int, precision: str) -> str:
    total = card * 2**30
    device = DeviceInfo(type="cuda", name=f"{card} GB card", driver="", total_memory_bytes=total)
    choice = choose(precision, device)
    profile = bare_profile(SDXL)
    request = MemoryRequest(
        parts=parts,
        activations=SDXL_ACTIVATIONS,
        native=Size(width=profile.defaults.width, height=profile.defaults.height),
        rows=profile.row_budget,
        precision=choice,
        device_type="cuda",
        free_bytes=total - UNUSABLE_BYTES,
    )
    try:
        planned = plan_memory(request)
    except DoesNotFit:
        return f"{choice.precision}: does not fit"
    used = planned.plan.weights_bytes + planned.plan.working_bytes
    words = _WORDS[planned.layout]
    waiting = "" if planned.plan.residency is Residency.BOTH else ", rest in host memory"
    return f"{choice.precision}: {words}, {gigabytes(used)}{waiting}"


def main() -> int:
    """Prints the table for the published architecture."""
    sys.stdout.write(memory_table(architecture_parts(SDXL_BASE, SDXL_REFINER)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
