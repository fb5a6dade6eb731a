"""One scrape of `/metrics`, and how two of them are told apart from a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = Mapping[str, Mapping[Labels, float]]
"""Values by sample name (`imagegen_images_total`, `imagegen_batch_rows_bucket`) and labels."""

OF_THE_DEVICE: Final = ("imagegen_gpu_", "imagegen_torch_")
"""What the names begin with whose values are read from the device."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Snapshot:
    """What a server said at one moment. A series that it did not mention is absent here too, never 0."""

    at: float
    """When, in seconds of a monotonic clock."""
    gauges: Samples
    """Values that go up and down."""
    counters: Samples
    """Values that only grow while the process lives: counters, and the buckets, sums and counts of histograms."""

    def total(self, name: str, /, **labels: str) -> float | None:
        """Returns the sum of the series of a gauge or counter that have these labels; None if there is none."""
        return total(self.gauges if name in self.gauges else self.counters, name, labels)

    def label_sets(self, name: str) -> list[dict[str, str]]:
        """Returns the labels of every series of a gauge, in a stable order."""
        return sorted((dict(labels) for labels in self.gauges.get(name, {})), key=lambda labels: sorted(labels.items()))

    def is_after_restart(self, earlier: Snapshot) -> bool:
        """Returns whether another process said this than said `earlier`.

        It is so if something fell back which a GPU or its driver cannot reset.
        """
        return any(
            value < earlier.counters.get(name, {}).get(labels, 0.0)
            for name, series in self.counters.items()
            if not name.startswith(OF_THE_DEVICE)
            for labels, value in series.items()
        )


def parse(text: str, at: float) -> Snapshot:
    """Reads the Prometheus text form, scraped at `at`. Raises ValueError if it is something else."""
    gauges: dict[str, dict[Labels, float]] = {}
    counters: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            into = counters if family.type in ("counter", "histogram", "summary") else gauges
            for sample in family.samples:
                into.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError("the answer is not in Prometheus' text form") from error
    if not gauges and not counters:
        raise ValueError("the answer has no metrics")
    return Snapshot(at=at, gauges=gauges, counters=counters)


def total(samples: Samples, name: str, labels: Mapping[str, str]) -> float | None:
    """Returns the sum of the series of a name that have these labels; None if there is none."""
    wanted = labels.items()
    found = [value for has, value in samples.get(name, {}).items() if wanted <= has]
    return sum(found) if found else None


def by_label(samples: Samples, name: str, label: str, labels: Mapping[str, str]) -> dict[str, float]:
    """Returns the sums of a name's series that have these labels, for each value of one more label."""
    wanted = labels.items()
    sums: dict[str, float] = {}
    for has, value in samples.get(name, {}).items():
        if wanted <= has:
            key = dict(has).get(label, "")
            sums[key] = sums.get(key, 0.0) + value
    return sums
