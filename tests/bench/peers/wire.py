"""The unary gRPC method of the peers: a request as JSON in a StringValue, an image file in a BytesValue.

Written by hand, since Ray Serve's proxy wants protobuf messages and the function that adds a servicer to a server.
"""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from bench.peers.asks import Ask

SERVICE: Final = "imagegen.bench.Peer"
METHOD: Final = f"/{SERVICE}/Generate"


def encode_ask(ask: Ask) -> bytes:
    """Returns a request's message."""
    return StringValue(value=json.dumps(ask.to_json())).SerializeToString()


def decode_ask(message: StringValue) -> Ask:
    """Returns the request of a message."""
    return Ask.from_json(json.loads(message.value))


def decode_reply(data: bytes) -> bytes:
    """Returns the image file of a reply."""
    return BytesValue.FromString(data).value


def add_peer_servicer_to_server(servicer: Any, server: Any) -> None:
    """Registers `servicer.Generate`, as generated code does."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Generate, request_deserializer=StringValue.FromString, response_serializer=BytesValue.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Generate": handler}),))
