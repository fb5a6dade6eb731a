"""TLS: what files are refused, and that a new certificate is used without a restart."""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagegen_server.api import ServerTls
from imagegen_server.errors import StartupError
from support.certificates import write
from support.live_server import live_server


@pytest.fixture
def authority() -> trustme.CA:
    """An authority of our own."""
    return trustme.CA()


def test_unusable_files_are_refused_at_the_start(authority: trustme.CA, tmp_path: Path) -> None:
    """A missing file, no PEM, and a key of another certificate each have their message."""
    certificate, key = write(authority.issue_cert("localhost"), tmp_path)
    with pytest.raises(StartupError, match="No such file"):
        ServerTls(certificate, tmp_path / "none.key")
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = write(authority.issue_cert("localhost"), other)
    with pytest.raises(StartupError, match="not that of the certificate"):
        ServerTls(certificate, foreign)
    with pytest.raises(StartupError, match="no PEM private key"):
        ServerTls(certificate, certificate)
    with pytest.raises(StartupError, match="no PEM certificate"):
        ServerTls(key, key)


def test_the_end_of_the_certificate_follows_the_files(authority: trustme.CA, tmp_path: Path) -> None:
    """A new certificate's end is told; half a change, with a key that does not fit, is not used."""
    heard: list[str] = []
    end = datetime.datetime(2099, 1, 2, tzinfo=datetime.UTC)
    certificate, key = write(authority.issue_cert("localhost", not_after=end), tmp_path)
    tls = ServerTls(certificate, key, heard.append)
    assert tls.expiry() == end.timestamp()
    later = end + datetime.timedelta(days=90)
    renewed = authority.issue_cert("localhost", not_after=later)
    certificate.write_bytes(renewed.cert_chain_pems[0].bytes())
    assert tls.expiry() == end.timestamp()
    assert "not that of the certificate" in heard[-1]
    key.write_bytes(renewed.private_key_pem.bytes())
    assert tls.expiry() == later.timestamp()
    assert heard[-1] == "reloaded"
    assert len(heard) == 2


def test_a_server_speaks_tls_and_takes_a_new_certificate(tmp_path: Path) -> None:
    """Calls succeed over TLS and not without; after the files changed, only the new authority's clients get in."""
    first, second = trustme.CA(), trustme.CA()
    end = datetime.datetime(2099, 1, 2, tzinfo=datetime.UTC)
    certificate, key = write(first.issue_cert("localhost", not_after=end), tmp_path)
    with live_server(tmp_path, "--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        target = f"localhost:{server.port}"
        assert server.metrics().total("imagegen_tls_cert_expiry_timestamp_seconds") == end.timestamp()
        assert healthy(target, first)
        assert not healthy(target, second)
        assert not healthy(target, None)
        write(second.issue_cert("localhost"), tmp_path)
        assert healthy(target, second)
        assert not healthy(target, first)


def healthy(target: str, authority: trustme.CA | None) -> bool:
    """Returns whether a new connection that trusts the authority gets an answer; None: in plain text."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if authority is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(authority.cert_pem.bytes()), options)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
