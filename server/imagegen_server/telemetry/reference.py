"""docs/metrics.md, written from the catalogue: `python -m imagegen_server.telemetry.reference > docs/metrics.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from imagegen_server.core import STEP_STAGES, FallbackReason, Outcome, Priority, RejectReason, Stage
from imagegen_server.telemetry import closed_sets
from imagegen_server.telemetry import metrics as m

_HEAD = """\
# Metrics

<!-- written by `make metrics-reference` from reference.py, metrics.py and closed_sets.py of telemetry/; edit those -->

The server answers `GET /metrics` on its own port (`--metrics-port`, 9464 by default) in the Prometheus text form, or
in OpenMetrics if the scraper asks for it; exemplars are in the latter only. `GET /healthz` on the same port answers 200
with `{"state": "serving"}` while generations are taken, and 503 with another state before and after; `GET /livez`
answers 200 with the state always, for what restarts processes that no longer answer.

The tables are the catalogue in `server/imagegen_server/telemetry/metrics.py`. Durations are in seconds, sizes in bytes.
Every label value comes from a set that is fixed when the server starts, and every series of such a set exists from the
start, at 0. The exceptions: `model_info` and `build_info` appear when there is something to tell, and what a device
does not support is an absent series and a counted error, never 0.
"""
_PARTS = (
    (
        "Calls",
        "grpc_",
        "The names and labels are those of go-grpc-middleware, so dashboards made for it work.",
    ),
    (
        "GPU",
        "imagegen_gpu_",
        "Of the GPU that the server uses, from when that is known: a machine's other GPUs are not read. A server on\n"
        "an instance of a divided GPU (MIG) shows every GPU that is divided, since the driver does not tell which of\n"
        "them it is on; one on a CPU shows all there are.\n\n"
        "Read through NVML on a thread of its own, every 5 seconds. Readings older than three polls are not shown,\n"
        "and `imagegen_gpu_collector_up` is 0 then: a driver that hangs holds up neither a scrape nor the server.\n"
        "Counters begin at 0 with the server and never go down, whatever the driver's own counters do.",
    ),
    ("torch's allocator", "imagegen_torch_", "Absent without a CUDA device."),
    (
        "Process",
        "process_",
        "As of every program with a Prometheus client: others have series of the same names, so choose by `job`.\n"
        "On Linux alone. A `process_start_time_seconds` that changes is a restart, all of whose counters begin at 0.",
    ),
    (
        "Generations",
        "imagegen_",
        "At any moment the generations admitted are those that ended, summed over the outcomes `ok`, `degraded`,\n"
        "`cancelled`, `deadline` and `error` of `imagegen_request_duration_seconds_count`, plus\n"
        "`imagegen_requests_in_flight`. A dry run (`validate_only`) is no generation: it is in the metrics of calls\n"
        "alone, whether it gets its plan or is refused. Refused credentials count in any case, as nobody has looked\n"
        "at the request by then. One observation of `imagegen_step_duration_seconds` is one turn of the\n"
        "device, whatever its batch; `imagegen_stage_steps_total` counts the steps of every image in it. Energy is\n"
        "observed where the GPU counts it (Volta and later, not under MIG), peak memory where there is a GPU.",
    ),
)
"""Title, the prefix of its metrics (the first part that fits has them) and what is to be known."""


def markdown() -> str:
    """Returns the whole page."""
    parts = [_HEAD, _labels()]
    left = list(m.CATALOGUE)
    for title, prefix, text in _PARTS:
        mine = [metric for metric in left if metric.name.startswith(prefix)]
        left = [metric for metric in left if metric not in mine]
        rows = ((f"`{x.name}`", x.kind.value, ", ".join(x.labels), x.help.replace("|", "\\|")) for x in mine)
        parts.append(f"## {title}\n\n{text}\n\n{_table(('metric', 'type', 'labels', 'meaning'), rows)}")
    parts.append(f"## Buckets\n\n{_table(('upper bounds', 'histograms'), _buckets())}")
    return "\n".join(parts)


def _labels() -> str:
    rows = (
        (
            "`model`",
            "the model profile that is served; `other` for requests that name another one or were not complete",
        ),
        ("`stage`", f"{_values(Stage)}; where steps or rows are counted and for loaded models: {_values(STEP_STAGES)}"),
        (
            "`outcome`",
            f"{_values(Outcome)}: `degraded` if a fallback was taken, `rejected` if refused at admission, `invalid` "
            f"if it broke the contract; of a stage: {_values(closed_sets.STAGE_OUTCOMES)}",
        ),
        ("`priority`", _values(Priority)),
        ("`format`", _values(closed_sets.IMAGE_FORMATS)),
        (
            "`from`, `to`",
            "the stage that was left, and the stage whose result was used instead: "
            f"{', or '.join(_values(pair) for pair in closed_sets.FALLBACK_STAGES)} for an image decoded in tiles",
        ),
        ("`source`", _values(closed_sets.TEXT_SOURCES)),
        ("`outcome` of `store_writes_total`", _values(closed_sets.STORE_WRITES)),
        ("`outcome` of `store_reads_total`", _values(closed_sets.STORE_READS)),
        ("`reason` of `rejected_total`", _values(RejectReason)),
        ("`reason` of `fallbacks_total`", _values(FallbackReason)),
        ("`reason` of `wasted_device_seconds_total`", _values(closed_sets.WASTE_REASONS)),
        ("`reason` of `auth_failures_total`", _values(closed_sets.AUTH_FAILURES)),
        ("`reason` of `store_removed_total`", _values(closed_sets.STORE_REMOVALS)),
        ("`feature`", "; ".join(f"`{feature}`: {text}" for feature, text in closed_sets.DEGRADED_FEATURES.items())),
        ("`revision`, `dtype`, `residency`", "of the loaded model, as `imagegen models` and the memory plan name them"),
        ("`version`", "the server's"),
        ("`grpc_type`", _values(closed_sets.RPC_TYPES)),
        ("`grpc_service`, `grpc_method`", "the RPCs that are served; `_OTHER` for any other, with type `bidi_stream`"),
        ("`grpc_code`", f"as go-grpc-middleware spells them: {_values(closed_sets.RPC_CODES.values())}"),
        ("`gpu`", "the GPU's index, as in `nvidia-smi`"),
        ("`uuid`, `name`, `driver`", "the GPU's, and its driver's version, as in `nvidia-smi`"),
        ("`mig`", "`enabled`, `disabled`, `unsupported`"),
        ("`clock`", _values(closed_sets.GPU_CLOCKS)),
        ("`reason` of `gpu_throttle_seconds_total`", _values(closed_sets.THROTTLE_REASONS)),
        ("`type`", _values(closed_sets.ECC_TYPES)),
        ("`xid`", f"{_values(closed_sets.XIDS)}; any other is `{closed_sets.OTHER_XID}`"),
        ("`call`", f"the reading that failed: {_values(closed_sets.GPU_CALLS)}"),
        ("`error`", _values(closed_sets.GPU_ERRORS)),
    )
    return f"## Labels\n\n{_table(('label', 'values'), rows)}"


def _buckets() -> Iterable[tuple[str, str]]:
    names: dict[tuple[float, ...], list[str]] = {}
    for metric in m.CATALOGUE:
        if metric.buckets:
            names.setdefault(metric.buckets, []).append(f"`{metric.name}`")
    for bounds, users in names.items():
        yield f"`{' '.join(f'{bound:.12g}' for bound in bounds)}`", ", ".join(users)


def _values(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" if line[0] != "---" else f"|{'|'.join(line)}|\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
