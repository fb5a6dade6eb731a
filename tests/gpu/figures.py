"""What the GPU tests measured, as tables and as JSON."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = "gpu.json"
Figure = Mapping[str, Any]


@dataclass(slots=True)
class Figures:
    """Tables by name; each is a list of rows with the same columns. Every row is in the file as soon as it is added.

    The file is `gpu.json`, or `gpu-2.json` and so on where there is one: what an earlier run measured stays.
    """

    directory: Path
    machine: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Figure]] = field(default_factory=dict)
    path: Path | None = None
    """The file, once there is something in it."""

    def add(self, table: str, **figure: Any) -> None:
        """Adds a row to a table, and writes everything: a rented GPU may be taken back at any time."""
        self.tables.setdefault(table, []).append(figure)
        self.write()

    def markdown(self) -> str:
        """Returns all tables."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [machine, *(f"{name}\n\n{markdown_table(rows)}" for name, rows in self.tables.items())]
        return "\n\n".join(parts)

    def write(self) -> Path:
        """Writes everything to a file and returns it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.path is None:
            self.path = next(path for path in _names(self.directory) if not path.exists())
        whole = {"machine": self.machine, "tables": self.tables}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return partial.replace(self.path)


def _names(directory: Path) -> Iterator[Path]:
    yield directory / FILE
    for number in itertools.count(2):
        yield (directory / FILE).with_stem(f"{Path(FILE).stem}-{number}")


def markdown_table(rows: Sequence[Figure]) -> str:
    """Returns rows as a Markdown table with the columns of the first."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines.extend(f"| {' | '.join(_shown(row[column]) for column in columns)} |" for row in rows)
    return "\n".join(lines)


def directory(root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Returns where to write: `$IMAGEGEN_GPU_OUT` if it is set, else build/gpu under the repository's root."""
    out = environment.get("IMAGEGEN_GPU_OUT", "")
    return Path(out) if out else root / "build" / "gpu"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
