"""Writes the rules of deploy/prometheus/rules as prometheus-operator's PrometheusRule. `make prometheus-rule` runs it.

python deploy/kubernetes/prometheus_rule.py                 writes components/monitoring/prometheusrule.yaml
python deploy/kubernetes/prometheus_rule.py --output FILE   writes elsewhere
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus" / "rules"
WRITTEN = HERE / "components" / "monitoring" / "prometheusrule.yaml"

_HEAD = """\
# The rules of deploy/prometheus/rules for prometheus-operator, written by `make prometheus-rule`: change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: imagegen-server
  namespace: imagegen
spec:
  groups:
"""
_GROUPS = "groups:\n"


def manifest() -> str:
    """Returns the groups of every file of rules, with their comments, in one manifest."""
    return _HEAD + "".join(line for path in sorted(RULES.glob("*.yml")) for line in _groups(path))


def _groups(path: Path) -> Iterator[str]:
    """Yields the lines of a file's groups as deep as the manifest has them. Raises ValueError without groups."""
    head, found, groups = path.read_text(encoding="utf-8").partition(_GROUPS)
    if not found or any(line and not line.startswith("#") for line in head.splitlines()):
        raise ValueError(f"{path} is no file of rules: comments and then groups are expected")
    yield f"    # {path.name}\n"
    for line in groups.splitlines():
        yield f"  {line}\n" if line else "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the manifest and returns the exit status, 0."""
    parser = argparse.ArgumentParser(description="Writes the PrometheusRule.")
    parser.add_argument("--output", type=Path, default=WRITTEN, help="file to write")
    output: Path = parser.parse_args(arguments).output
    output.write_text(manifest(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
