"""What this project uses of three custom resources, as JSON schemas: their own are some thousand lines each.

They take no field that is not used here, and follow the published ones in names, types and what is required
(monitoring.coreos.com/v1 PodMonitor and PrometheusRule, keda.sh/v1alpha1 ScaledObject). A misspelt field is found,
which an API server would drop or refuse; whether a newer operator still takes the fields is not.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_SECONDS: Final[Schema] = {"type": "string", "pattern": r"^\d+(s|m)$"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def _object(required: str = "", **fields: Schema) -> Schema:
    """Returns the schema of an object with these fields and no others, all of them required unless some are named."""
    names = required.split() if required else list(fields)
    return {"type": "object", "properties": fields, "required": names, "additionalProperties": False}


_METADATA: Final = _object(name=_TEXT, namespace=_TEXT)
_LABELS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT, "minProperties": 1}
_OBSERVED: Final = _object(name=_TEXT, namespace=_TEXT, labels=_object(release=_TEXT))
"""What kube-prometheus-stack finds: by a label, which is required."""

POD_MONITOR: Final = _object(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=_OBSERVED,
    spec=_object(
        required="selector podMetricsEndpoints",
        jobLabel=_TEXT,
        selector=_object(matchLabels=_LABELS),
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(required="port", port=_TEXT, path=_TEXT, interval=_SECONDS, scrapeTimeout=_SECONDS),
        },
    ),
)
"""A PodMonitor."""

_RECORD: Final = _object(record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"}, expr=_TEXT)
_ALERT: Final = _object(
    required="alert expr labels annotations",
    alert=_TEXT,
    expr=_TEXT,
    labels=_LABELS,
    annotations=_LABELS,
    **{"for": {"type": "string", "pattern": r"^\d+(s|m|h)$"}},
)
PROMETHEUS_RULE: Final = _object(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PrometheusRule"},
    metadata=_OBSERVED,
    spec=_object(
        groups={
            "type": "array",
            "minItems": 1,
            "items": _object(name=_TEXT, rules={"type": "array", "minItems": 1, "items": {"oneOf": [_RECORD, _ALERT]}}),
        },
    ),
)
"""A PrometheusRule."""

_SCALING: Final = _object(
    required="stabilizationWindowSeconds",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies={
        "type": "array",
        "items": _object(
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        ),
    },
)

SCALED_OBJECT: Final = _object(
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=_METADATA,
    spec=_object(
        required="scaleTargetRef triggers",
        scaleTargetRef=_object(name=_TEXT),
        minReplicaCount=_COUNT,
        maxReplicaCount=_COUNT,
        pollingInterval=_COUNT,
        advanced=_object(horizontalPodAutoscalerConfig=_object(behavior=_object(scaleUp=_SCALING, scaleDown=_SCALING))),
        triggers={
            "type": "array",
            "minItems": 1,
            "items": _object(
                type={"const": "prometheus"},
                name=_TEXT,
                metricType={"enum": ["AverageValue", "Value"]},
                # every value is text in KEDA, numbers and truth as well
                metadata=_object(
                    serverAddress={"type": "string", "pattern": "^https?://"},
                    query=_TEXT,
                    threshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                    ignoreNullValues={"enum": ["true", "false"]},
                ),
            ),
        },
    ),
)
"""A ScaledObject with Prometheus' triggers."""
