"""PromQL from the metric catalogue: a query names metrics that exist, and is filtered by the variables it can be.

Idle is not broken: a rate of nothing is 0, a quantile or quotient of nothing has no value, and none is NaN.
"""

from __future__ import annotations

from typing import Final

from imagegen_server.telemetry.metrics import Kind, Metric

TARGET_MATCHERS: Final = 'job=~"$job",instance=~"$instance"'
"""What every series of a scraped target has."""
_MODEL_MATCHER: Final = 'model=~"$model"'
_BY_RATE: Final = "[$__rate_interval]"


def select(metric: Metric | str, *matchers: str, suffix: str = "") -> str:
    """Returns a selector that is filtered by the dashboard's variables.

    Args:
        metric: of the catalogue; a name for what Prometheus itself adds, such as `up`.
        matchers: further ones, such as `outcome="ok"`.
        suffix: of a histogram's series: _bucket, _sum or _count.

    Raises ValueError if a histogram is named without a suffix, or anything else with one.
    """
    if isinstance(metric, str):
        return f"{metric}{{{','.join((TARGET_MATCHERS, *matchers))}}}"
    if (metric.kind is Kind.HISTOGRAM) != bool(suffix):
        raise ValueError(f"{metric.name} is a {metric.kind}: suffix {suffix!r} is wrong")
    filters = (TARGET_MATCHERS, *((_MODEL_MATCHER,) if "model" in metric.labels else ()), *matchers)
    return f"{metric.name}{suffix}{{{','.join(filters)}}}"


def recorded(rule: str, *matchers: str) -> str:
    """Returns a selector of what a recording rule made; its name begins with the labels that it has besides `job`."""
    level = rule.split(":", 1)[0].split("_")
    filters = ['job=~"$job"', *(f'{label}=~"${label}"' for label in ("instance", "model") if label in level)]
    return f"{rule}{{{','.join((*filters, *matchers))}}}"


def total(metric: Metric | str, *matchers: str, by: str = "", of: str = "sum") -> str:
    """Returns a gauge, aggregated by labels (comma-separated) with `of`: sum, min, max, count."""
    return aggregate(select(metric, *matchers), by=by, of=of)


def rate(metric: Metric, *matchers: str, by: str = "", suffix: str = "") -> str:
    """Returns a counter's increase per second, summed by labels; of observations if it is a histogram."""
    suffix = suffix or ("_count" if metric.kind is Kind.HISTOGRAM else "")
    return aggregate(f"rate({select(metric, *matchers, suffix=suffix)}{_BY_RATE})", by=by)


def increase(metric: Metric, *matchers: str, by: str = "", window: str = "$__rate_interval", suffix: str = "") -> str:
    """Returns a counter's increase in a window, summed by labels; of observations if it is a histogram."""
    suffix = suffix or ("_count" if metric.kind is Kind.HISTOGRAM else "")
    return aggregate(f"increase({select(metric, *matchers, suffix=suffix)}[{window}])", by=by)


def quantile(q: float, metric: Metric, *matchers: str, by: str = "") -> str:
    """Returns a histogram's quantile by labels; no value where nothing was observed, which would be NaN (not >= 0)."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(metric, *matchers, by=labels, suffix='_bucket')}) >= 0"


def mean(metric: Metric, *matchers: str, by: str = "") -> str:
    """Returns a histogram's mean by labels; no value where nothing was observed."""
    return quotient(rate(metric, *matchers, by=by, suffix="_sum"), rate(metric, *matchers, by=by))


def buckets(metric: Metric, *matchers: str) -> str:
    """Returns a histogram's observations by bucket, for a heatmap."""
    return increase(metric, *matchers, by="le", suffix="_bucket")


def occurring(metric: Metric, by: str) -> str:
    """Returns a counter's increase by a label, for those values of it that were counted in the range shown at all."""
    ever = increase(metric, by=by, window="$__range")
    return f"{increase(metric, by=by)} and on ({by}) ({ever} > 0)"


def quotient(numerator: str, denominator: str) -> str:
    """Returns a quotient that has no value while the denominator is 0, instead of NaN."""
    return f"{numerator} / ({denominator} > 0)"


def share(part: str, whole: str) -> str:
    """Returns the share of a counted part, 0 while nothing is counted: for rates whose part is 0 when the whole is."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def aggregate(expr: str, *, by: str = "", of: str = "sum") -> str:
    """Returns an aggregation by labels (comma-separated); over everything without."""
    return f"{of} by ({by}) ({expr})" if by else f"{of}({expr})"
