"""Both clients and the command line against a server with mutual TLS and API keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme

import imagegen
from imagegen.cli import main
from imagegen_server.api import Authenticate, Authenticator, RegisterFile, ServerTls, new_key, parse_policy
from support.certificates import write
from support.edge import Recorder, running_edge


async def test_a_server_on_this_host_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment names for other hosts: here nobody listens."""
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    async with running_edge() as edge:
        target = f"localhost:{edge.port}"

        def ask() -> int:
            with imagegen.Client(target, api_key="secret", max_attempts=1) as client:
                return len(client.models())

        assert await asyncio.to_thread(ask) > 0
        async with imagegen.AsyncClient(target, api_key="secret", max_attempts=1) as client:
            assert await client.models()


async def test_clients_show_certificates_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With everything right they are let in; without the key, or the certificate, errors of their own say so."""
    servers, clients = trustme.CA(), trustme.CA()
    certificate, server_key = write(servers.issue_cert("localhost"), tmp_path)
    authorities, mine = tmp_path / "clients.pem", clients.issue_cert("alice")
    authorities.write_bytes(clients.cert_pem.bytes())
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    keys = RegisterFile(tmp_path / "keys", print)

    def auth(seen: Recorder) -> Authenticate:
        return Authenticate(Authenticator(keys=keys), parse_policy("", authenticates=True), seen)

    roots = servers.cert_pem.bytes()
    pair = (mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes())
    tls = ServerTls(certificate, server_key, client_ca=authorities)
    async with running_edge(tls=tls, auth=auth) as edge:
        target = f"localhost:{edge.port}"

        def ask(api_key: str | None) -> int:
            with imagegen.Client(target, root_certificates=roots, client_certificate=pair, api_key=api_key) as client:
                return len(client.models())

        assert await asyncio.to_thread(ask, key) > 0
        for wrong in (None, key[:-1]):
            with pytest.raises(imagegen.errors.AuthenticationError):
                await asyncio.to_thread(ask, wrong)
        async with imagegen.AsyncClient(
            target, root_certificates=roots, client_certificate=pair, api_key=lambda: key
        ) as client:
            assert await client.models()
        async with imagegen.AsyncClient(target, root_certificates=roots, api_key=key, max_attempts=1) as client:
            with pytest.raises(imagegen.errors.UnreachableError):
                await client.models()
        for name, content in {"ca": roots, "crt": pair[0], "key": pair[1], "api": key.encode()}.items():
            (tmp_path / name).write_bytes(content)
        files = {"--ca": "ca", "--certificate": "crt", "--certificate-key": "key", "--api-key-file": "api"}
        words = [word for name, file in files.items() for word in (name, str(tmp_path / file))]
        assert await asyncio.to_thread(main, ["models", "--server", target, *words], {}) == 0
        assert capsys.readouterr().out


async def test_trouble_with_tls_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is there is not called missing, whichever side does not trust or understand the other."""
    authority, other = trustme.CA(), trustme.CA()
    served = {}
    for host in ("127.0.0.1", "example.com"):
        (tmp_path / host).mkdir()
        served[host] = ServerTls(*write(authority.issue_cert(host), tmp_path / host))
    for name, ca in (("right", authority), ("wrong", other)):
        (tmp_path / name).write_bytes(ca.cert_pem.bytes())
    right, wrong = ["--ca", str(tmp_path / "right")], ["--ca", str(tmp_path / "wrong")]
    here, elsewhere = served.values()
    async with running_edge() as plain, running_edge(tls=here) as secure, running_edge(tls=elsewhere) as named:
        assert await asyncio.to_thread(main, ["models", "--server", f"127.0.0.1:{secure.port}", *right], {}) == 0
        capsys.readouterr()
        for edge, words in (
            (secure, []),
            (secure, ["--tls"]),
            (secure, wrong),
            (named, right),
            (plain, ["--tls"]),
            (plain, right),
        ):
            server = f"127.0.0.1:{edge.port}"
            assert await asyncio.to_thread(main, ["models", "--server", server, *words], {}) == 3
            error = capsys.readouterr().err
            if words:
                assert f"imagegen: no TLS connection to {server} (" in error
                assert ("leave" in error) == (edge is plain)
            else:
                assert f"imagegen: somebody answers at {server}, but no connection came about" in error
                assert "--tls" in error
            assert "no server answers" not in error


async def test_a_server_is_reached_by_another_name_than_its_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As through a tunnel: both clients and the command line say which name is to be there, and it has to be."""
    authority, name = trustme.CA(), "imagegen.imagegen.svc"
    roots, ca = authority.cert_pem.bytes(), tmp_path / "ca.pem"
    ca.write_bytes(roots)
    async with running_edge(tls=ServerTls(*write(authority.issue_cert(name), tmp_path))) as edge:
        target = f"localhost:{edge.port}"

        def ask(tls_server_name: str | None) -> int:
            with imagegen.Client(
                target, root_certificates=roots, tls_server_name=tls_server_name, max_attempts=1
            ) as client:
                return len(client.models())

        assert await asyncio.to_thread(ask, name) > 0
        for wrong in (None, "example.com"):
            with pytest.raises(imagegen.errors.UnreachableError):
                await asyncio.to_thread(ask, wrong)
        async with imagegen.AsyncClient(target, root_certificates=roots, tls_server_name=name) as client:
            assert await client.models()
        words = ["models", "--server", target, "--ca", str(ca)]
        assert await asyncio.to_thread(main, [*words, "--tls-server-name", name], {}) == 0
        assert await asyncio.to_thread(main, words, {}) == 3
        assert "(else say --tls-server-name)" in capsys.readouterr().err
