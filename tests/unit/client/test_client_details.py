"""The status details, read without googleapis-common-protos and compared with its messages."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2, descriptor_pool, duration_pb2
from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from imagegen._details import NO_DETAILS, ErrorDetails, Violation, decode_details
from imagegen._health import decode_check, encode_check
from imagegen._wire import message_class
from support.scripted_service import details, error_info, retry_info

ORIGINALS: dict[str, Descriptor] = {
    "Any": any_pb2.Any.DESCRIPTOR,
    "Duration": duration_pb2.Duration.DESCRIPTOR,
    "Status": status_pb2.Status.DESCRIPTOR,
    "Entry": error_details_pb2.ErrorInfo.MetadataEntry.DESCRIPTOR,
    "ErrorInfo": error_details_pb2.ErrorInfo.DESCRIPTOR,
    "FieldViolation": error_details_pb2.BadRequest.FieldViolation.DESCRIPTOR,
    "BadRequest": error_details_pb2.BadRequest.DESCRIPTOR,
    "RetryInfo": error_details_pb2.RetryInfo.DESCRIPTOR,
    "ResourceInfo": error_details_pb2.ResourceInfo.DESCRIPTOR,
    "PreconditionViolation": error_details_pb2.PreconditionFailure.Violation.DESCRIPTOR,
    "PreconditionFailure": error_details_pb2.PreconditionFailure.DESCRIPTOR,
    "RequestInfo": error_details_pb2.RequestInfo.DESCRIPTOR,
    "HealthCheckRequest": health_pb2.HealthCheckRequest.DESCRIPTOR,
    "HealthCheckResponse": health_pb2.HealthCheckResponse.DESCRIPTOR,
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_our_messages_agree_with_the_originals(name: str) -> None:
    """Every field that we declare has the original's name, number, wire type and cardinality."""
    original = ORIGINALS[name].fields_by_name
    for field in message_class(name).DESCRIPTOR.fields:
        theirs = original[field.name]
        enum_as_int = theirs.type == theirs.TYPE_ENUM and field.type == field.TYPE_INT32
        assert field.number == theirs.number
        assert field.type == theirs.type or enum_as_int
        assert field.is_repeated == theirs.is_repeated


def test_the_private_messages_stay_out_of_the_default_pool() -> None:
    """Neither our names nor google.rpc's are registered by reading details."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("imagegen.private.Status")
    assert message_class("Status").DESCRIPTOR.file.pool is not descriptor_pool.Default()


def test_all_details_of_the_service_are_read() -> None:
    """One trailer with every kind of detail gives one value with all of it."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="width", description="must be a multiple of 8")
    trailer = details(
        error_info("QUEUE_FULL", {"capacity": "16", "unit": "generations"}),
        error_details_pb2.BadRequest(field_violations=[violation]),
        retry_info(2500),
        error_details_pb2.ResourceInfo(resource_type="imagegen.v1.model", resource_name="sdxl"),
        error_details_pb2.RequestInfo(request_id="abc"),
    )
    assert decode_details(trailer) == ErrorDetails(
        reason="QUEUE_FULL",
        domain="imagegen.v1",
        metadata={"capacity": "16", "unit": "generations"},
        violations=(Violation(field="width", description="must be a multiple of 8"),),
        retry_after=2.5,
        resource_type="imagegen.v1.model",
        resource_name="sdxl",
        request_id="abc",
    )


def test_a_failed_precondition_names_its_subject() -> None:
    """The violation of a precondition has the subject, or the type, in place of a field."""
    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type="MODEL_LOADED", subject="refiner", description="not loaded")
    failure.violations.add(type="LICENCE", description="not accepted")
    assert decode_details(details(failure)).violations == (
        Violation(field="refiner", description="not loaded"),
        Violation(field="LICENCE", description="not accepted"),
    )


def test_details_of_strangers_are_skipped() -> None:
    """Unknown types and other packages' messages of the same short name change nothing."""
    status = status_pb2.Status(code=3)
    status.details.add(type_url="type.googleapis.com/other.ErrorInfo", value=error_info("NO").SerializeToString())
    status.details.add().Pack(error_details_pb2.QuotaFailure())
    status.details.add(type_url="ErrorInfo", value=b"")
    assert decode_details(status.SerializeToString()) == NO_DETAILS


def test_a_malformed_detail_leaves_the_others_readable() -> None:
    """A detail whose bytes are no message is skipped alone."""
    status = status_pb2.Status(code=3)
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff")
    status.details.add().Pack(error_info("DRAINING"))
    assert decode_details(status.SerializeToString()) == ErrorDetails(reason="DRAINING", domain="imagegen.v1")


def test_a_negative_delay_means_at_once() -> None:
    """A clock that ran backwards on the server does not become a negative wait."""
    assert decode_details(details(retry_info(-500))).retry_after == 0.0


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise(trailer: bytes) -> None:
    """Whatever the trailer holds, details come back."""
    assert isinstance(decode_details(trailer), ErrorDetails)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("SERVING", True), ("NOT_SERVING", False), ("UNKNOWN", False), ("SERVICE_UNKNOWN", False)],
)
def test_the_health_messages_agree_with_the_originals(status: str, expected: bool) -> None:
    """Our health check is the one that a health server reads, and its answer is understood."""
    assert health_pb2.HealthCheckRequest.FromString(encode_check("imagegen.v1.ImageGen")).service == (
        "imagegen.v1.ImageGen"
    )
    answer = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    assert decode_check(answer.SerializeToString()) is expected
