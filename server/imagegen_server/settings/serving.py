"""Settings of the gRPC port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from imagegen_server.settings.group import Group
from imagegen_server.settings.values import Bytes, Port, off


class ApiSettings(Group):
    """The gRPC port"""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to serve gRPC on. 0.0.0.0 or :: lets every host in; see docs/security.md.",
    )
    port: Port = Field(50051, description="gRPC port; 0 takes a free one.")
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate chain, read again when it changes; plain text if unset.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key, without a password.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with authorities, read again when it changes: clients must show a certificate "
        "that one of them signed.",
    )
    health_port: Annotated[Port | None, BeforeValidator(off)] = Field(
        None, description="Second, plain port with grpc.health.v1 alone, for probes; 0 takes a free one."
    )
    max_request_bytes: Bytes = Field(2**20, ge=2**12, le=2**26, description="Largest request message.")
    chunk_bytes: Bytes = Field(
        2**18, ge=2**10, le=3 * 2**20, description="Image bytes in one message; clients take 4 MB messages by default."
    )
    send_timeout: float = Field(
        60.0, gt=0, description="Seconds that a caller may leave a message unread, and each 4 MiB of a larger answer."
    )
    grace_period: float = Field(30.0, ge=0, description="Seconds that running generations get to end on SIGTERM.")
    max_connection_age: float | None = Field(
        None,
        gt=0,
        le=2_000_000,  # gRPC counts milliseconds in 32 bits
        description="Seconds after which a connection is asked to be made anew, so that clients find new servers; "
        "what runs on it goes on. Never if unset.",
    )
    port_file: Path | None = Field(None, description="File to write the bound ports to, as JSON, once serving.")
