"""What was measured to be fastest on one device: the file that `imagegen-server tune` writes and the server reads.

Standard library only, so that settings can be checked before torch is imported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from imagegen_server.errors import StartupError

FORMAT: Final = 1
"""Version of the file's form; files of another one are not read."""

Compile = Literal["none", "regional", "full"]
"""Nothing; the UNet's transformer and residual blocks and its norms, one by one; the whole UNet."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Identity:
    """What a tuning holds for: another device, model, precision or torch has other figures."""

    device: str
    model: str
    precision: str
    torch: str
    diffusers: str

    def differences(self, other: Identity) -> tuple[str, ...]:
        """Returns what differs, for people; empty if nothing does."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return tuple(f"{name} is {theirs[name]}, not {mine[name]}" for name in mine if mine[name] != theirs[name])


@dataclass(kw_only=True, frozen=True, slots=True)
class Tuning:
    """How to run on one device."""

    cuda_graphs: bool = True
    """Whether UNet evaluations are replayed from CUDA graphs, where there is CUDA."""
    compile: Compile = "none"
    """What torch.compile is given of the UNets."""
    channels_last: bool = False
    """Whether the UNets' weights are laid out channels last."""
    compile_vae: bool = False
    """Whether torch.compile is given the VAE's decoder, laid out channels last, with its group norms by channels."""
    rows: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """The row knee of each measured latent (height, width): more rows in a batch gain next to nothing."""
    warm: tuple[tuple[int, int, int], ...] = ()
    """(rows, latent height, latent width) of the batches that are compiled before the server serves."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TuningFile:
    """A tuning with what it holds for and the figures behind it."""

    identity: Identity
    tuning: Tuning
    measured: tuple[Mapping[str, Any], ...] = ()
    """Rows of figures, for people."""

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all. Raises OSError."""
        tuning = dataclasses.asdict(self.tuning)
        tuning["rows"] = {f"{height}x{width}": rows for (height, width), rows in self.tuning.rows.items()}
        whole = {
            "format": FORMAT,
            "identity": dataclasses.asdict(self.identity),
            "tuning": tuning,
            "measured": list(self.measured),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def default_path(cache: Path, identity: Identity) -> Path:
    """Returns where the tuning of a device, model and precision is kept below a cache directory."""
    name = re.sub(r"[^a-z0-9.]+", "-", f"{identity.device} {identity.model} {identity.precision}".lower()).strip("-")
    return cache / "tuning" / f"{name}.json"


def read(path: Path) -> TuningFile:
    """Returns the tuning in a file. Raises StartupError that names everything that is wrong with it."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"the tuning {path} cannot be read: {error}") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise StartupError(f"the tuning {path} is not of form {FORMAT}; run `imagegen-server tune` again")
    wrong: list[str] = []
    identity = _identity(whole.get("identity"), wrong)
    tuning = _tuning(whole.get("tuning"), wrong)
    if wrong or identity is None or tuning is None:
        raise StartupError(f"the tuning {path} is wrong: {'; '.join(wrong)}; run `imagegen-server tune` again")
    return TuningFile(identity=identity, tuning=tuning, measured=tuple(whole.get("measured", ())))


def _identity(found: object, wrong: list[str]) -> Identity | None:
    names = [item.name for item in dataclasses.fields(Identity)]
    if (
        not isinstance(found, dict)
        or sorted(found) != sorted(names)
        or not all(isinstance(v, str) for v in found.values())
    ):
        wrong.append(f"identity must be texts for {', '.join(names)}")
        return None
    return Identity(**found)


def _tuning(found: object, wrong: list[str]) -> Tuning | None:
    names = {item.name for item in dataclasses.fields(Tuning)}
    if not isinstance(found, dict) or set(found) != names:
        wrong.append(f"tuning must have {', '.join(sorted(names))}")
        return None
    before = len(wrong)
    wrong += [
        f"{name} must be true or false"
        for name in ("cuda_graphs", "channels_last", "compile_vae")
        if not isinstance(found[name], bool)
    ]
    if found["compile"] not in get_args(Compile):
        wrong.append(f"compile must be one of {', '.join(get_args(Compile))}")
    rows = _rows(found["rows"], wrong)
    warm = _warm(found["warm"], wrong)
    if len(wrong) > before:
        return None
    return Tuning(**{**found, "rows": rows, "warm": warm})


def _rows(found: object, wrong: list[str]) -> dict[tuple[int, int], int]:
    rows: dict[tuple[int, int], int] = {}
    shape: str
    count: Any
    for shape, count in found.items() if isinstance(found, dict) else [("rows", 0)]:
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", shape)
        if match is None or not _is_count(count, 2):
            wrong.append("rows must map latent shapes such as 128x128 to numbers of rows from 2 on")
            return {}
        rows[int(match[1]), int(match[2])] = count
    return rows


def _warm(found: object, wrong: list[str]) -> tuple[tuple[int, int, int], ...]:
    keys: list[Any] = found if isinstance(found, list) else [found]
    if not all(isinstance(key, list) and len(key) == 3 and all(_is_count(n, 1) for n in key) for key in keys):
        wrong.append("warm must be a list of [rows, latent height, latent width]")
        return ()
    return tuple((key[0], key[1], key[2]) for key in keys)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 100_000
