"""Messages of other people's protos, as far as this client reads them, wire-compatible with the originals.

They live in a pool of their own: the same names in the default pool would collide with googleapis-common-protos or
grpcio-health-checking where those are installed, and depending on either would burden every caller.

Sources: google/rpc/status.proto and google/rpc/error_details.proto (github.com/googleapis/googleapis),
grpc/health/v1/health.proto (github.com/grpc/grpc-proto), google/protobuf/any.proto and duration.proto. A map field
is declared as the repeated key/value message that it is on the wire; enums are int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "imagegen.private"
_STRING: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BYTES: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_INT32: Final = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_INT64: Final = descriptor_pb2.FieldDescriptorProto.TYPE_INT64

# Message name -> field name -> (number, scalar type or message name, repeated).
_MESSAGES: Final[dict[str, dict[str, tuple[int, Any, bool]]]] = {
    "Any": {"type_url": (1, _STRING, False), "value": (2, _BYTES, False)},
    "Duration": {"seconds": (1, _INT64, False), "nanos": (2, _INT32, False)},
    "Status": {"code": (1, _INT32, False), "message": (2, _STRING, False), "details": (3, "Any", True)},
    "Entry": {"key": (1, _STRING, False), "value": (2, _STRING, False)},
    "ErrorInfo": {"reason": (1, _STRING, False), "domain": (2, _STRING, False), "metadata": (3, "Entry", True)},
    "FieldViolation": {"field": (1, _STRING, False), "description": (2, _STRING, False)},
    "BadRequest": {"field_violations": (1, "FieldViolation", True)},
    "RetryInfo": {"retry_delay": (1, "Duration", False)},
    "ResourceInfo": {
        "resource_type": (1, _STRING, False),
        "resource_name": (2, _STRING, False),
        "description": (4, _STRING, False),
    },
    "PreconditionViolation": {
        "type": (1, _STRING, False),
        "subject": (2, _STRING, False),
        "description": (3, _STRING, False),
    },
    "PreconditionFailure": {"violations": (1, "PreconditionViolation", True)},
    "RequestInfo": {"request_id": (1, _STRING, False)},
    "HealthCheckRequest": {"service": (1, _STRING, False)},
    "HealthCheckResponse": {"status": (1, _INT32, False)},
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    """Describes the table above as a proto file."""
    file = descriptor_pb2.FileDescriptorProto(name="imagegen/private.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
    return file


def _build() -> Mapping[str, Any]:
    """Returns the message classes by name. Their attributes are made at run time, hence `Any`."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES: Final = _build()


def message_class(name: str) -> Any:
    """Returns a message class by its short name; KeyError for one that is not declared here."""
    return _CLASSES[name]
