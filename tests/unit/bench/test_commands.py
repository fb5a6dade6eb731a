"""Both measuring commands, made small: they run and write what they say. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a busy machine slows torch's threads many times over


def test_the_quick_bench_writes_valid_rows(tmp_path: Path) -> None:
    """`bench.run --quick` measures every kind of row and fills the page and the JSON."""
    path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "bench.run", "--quick", "--output", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True)
    written = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    ratios = [row["ratio"] for row in written["rows"]]
    assert {row["arms"] for row in written["rows"]} >= {"C/A", "B/A"}
    assert {row["what"] for row in written["rows"]} == {"latency", "mean latency", "throughput", "time", "size"}
    assert all(0 < ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in ratios)
    assert all(case["turn_ms"] > 0 for case in written["engine_overhead"])
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert page.count("\n| ") >= len(ratios)


def test_the_gpu_measurements_can_be_rehearsed_without_a_gpu(tmp_path: Path) -> None:
    """With the CPU in place of the GPU the same tests pass and write their tables."""
    environment = {**os.environ, "IMAGEGEN_GPU_DEVICE": "cpu", "IMAGEGEN_GPU_OUT": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["tables"]
    assert {
        "memory of a full batch",
        "precision ladder, the embedded pair, 128x128",
        "steps of the base",
        "roof",
        "tuning",
    } <= set(tables)
    assert "| side | rows | ms | tflops | of_roof |" in done.stdout
