"""What a client shows and trusts, and that keys and tokens stay on this host without TLS."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

import imagegen
from imagegen._access import Access, is_this_host
from imagegen._channel import metadata_source
from imagegen._cli_access import access_options
from imagegen._cli_parser import UsageError, build_parser
from imagegen.cli import main

HERE = [
    "localhost:50051",
    "LOCALHOST:1",
    "127.0.0.1:50051",
    "127.8.9.10:1",
    "[::1]:50051",
    "::1",
    "localhost",
    "dns:///localhost:50051",
    "dns://8.8.8.8/localhost:1",
    "dns:localhost",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:1",
    "unix:/run/imagegen.sock",
    "unix:///run/imagegen.sock",
    "unix-abstract:imagegen",
]
ELSEWHERE = [
    "example.com:443",
    "10.0.0.1:50051",
    "0.0.0.0:50051",
    "[::]:50051",
    "[2001:db8::1]:1",
    "localhost.example.com:1",
    "127.0.0.1.example.com:1",
    "localhost@example.com:1",
    "dns:///example.com:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1",
    "xds:///localhost",
    "passthrough:///127.0.0.1:1",
    "",
]


@pytest.mark.parametrize("name", ["api_key", "token"])
@pytest.mark.parametrize("secret", ["s3cret\n", "s3crét", "s3cret\r\nx-tenant: other"])
def test_what_no_header_can_carry_is_refused_and_not_shown(name: str, secret: str) -> None:
    """A text at once, a function's answer with the call."""
    given: Any = {name: secret}
    with pytest.raises(ValueError, match=f"the {name} must be printable ASCII") as refused:
        Access(**given)
    assert "s3cr" not in str(refused.value)
    asked: Any = {name: lambda: secret}
    with pytest.raises(ValueError, match=f"the {name} must be printable ASCII"):
        Access(**asked).metadata()


@pytest.mark.parametrize("target", HERE)
def test_targets_on_this_host(target: str) -> None:
    """However gRPC lets them be written."""
    assert is_this_host(target)


@pytest.mark.parametrize("target", ELSEWHERE)
def test_targets_that_may_be_elsewhere(target: str) -> None:
    """What is not certainly here, is not."""
    assert not is_this_host(target)


@pytest.mark.parametrize("make", [imagegen.Client, imagegen.AsyncClient])
@pytest.mark.parametrize("secret", [{"api_key": "imagegen_x"}, {"token": "abc"}, {"api_key": lambda: "x"}])
def test_keys_and_tokens_do_not_leave_in_plain_text(make: Any, secret: dict[str, Any]) -> None:
    """Not to another host, unless that is asked for; with TLS or to this host they may."""
    with pytest.raises(ValueError, match="plain text") as caught:
        make("example.com:50051", **secret)
    assert "imagegen_x" not in str(caught.value)
    assert make("example.com:50051", **secret, allow_plaintext_credentials=True)
    assert make("example.com:443", **secret, tls=True)
    assert make("example.com:443", **secret, credentials=grpc.ssl_channel_credentials())
    assert make("localhost:50051", **secret)
    assert make("example.com:50051")


def test_what_excludes_each_other() -> None:
    """gRPC's own credentials and ours, and a key and a token."""
    secure = grpc.ssl_channel_credentials()
    pairs: list[dict[str, Any]] = [{"tls": True}, {"root_certificates": b""}, {"client_certificate": (b"", b"")}]
    for more in pairs:
        with pytest.raises(ValueError, match="either credentials"):
            Access(credentials=secure, **more)
    with pytest.raises(ValueError, match="tls_server_name needs tls, "):
        Access(tls_server_name="there")
    assert Access(tls_server_name="there", credentials=secure).channel_options()
    with pytest.raises(ValueError, match="either an api_key or a token"):
        Access(api_key="a", token="b")  # noqa: S106 # it is none


def test_what_is_shown_accompanies_every_call() -> None:
    """After the caller's own metadata, and asked for anew where it is a function; no representation has it."""
    count = itertools.count()
    source = metadata_source([("a", "b")], Access(token=lambda: f"t{next(count)}"))
    assert source() == (("a", "b"), ("authorization", "Bearer t0"))
    assert source()[-1] == ("authorization", "Bearer t1")
    assert metadata_source(lambda: [("a", "b")], Access(api_key="k"))() == (("a", "b"), ("x-api-key", "k"))
    assert metadata_source(())() == ()
    assert "secret" not in repr(Access(api_key="secret"))


def parsed(*words: str) -> argparse.Namespace:
    """Returns the arguments of a command."""
    return build_parser({}).parse_args(["models", *words])


def test_options_of_the_command_line(tmp_path: Path) -> None:
    """Files are preferred to variables; a key or token is never an argument that others on the host can see."""
    for name in ("ca", "crt", "key"):
        (tmp_path / name).write_text(f"a comment\n-----BEGIN {name}-----\n")
    for name in ("api", "token"):
        (tmp_path / name).write_text(f" {name} \n")
    words = ["--ca", "ca", "--certificate", "crt", "--certificate-key", "key", "--api-key-file", "api"]
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    variables = {"IMAGEGEN_API_KEY": "from the variable", "IMAGEGEN_TOKEN": "token"}
    assert access_options(parsed(*paths), variables) == {
        "tls": False,
        "root_certificates": b"a comment\n-----BEGIN ca-----\n",
        "client_certificate": (b"a comment\n-----BEGIN crt-----\n", b"a comment\n-----BEGIN key-----\n"),
        "api_key": "api",
        "allow_plaintext_credentials": False,
    }
    assert access_options(parsed("--token-file", str(tmp_path / "token")), variables)["token"] == "token"  # noqa: S105
    assert access_options(parsed("--tls"), variables)["api_key"] == "from the variable"
    assert access_options(parsed(), {"IMAGEGEN_TOKEN": "t"})["token"] == "t"  # noqa: S105
    assert "token" not in access_options(parsed(), {"IMAGEGEN_TOKEN": ""})
    with pytest.raises(UsageError, match="--certificate needs"):
        access_options(parsed("--certificate", "x"), {})
    with pytest.raises(UsageError, match="either"):
        access_options(parsed("--api-key-file", "x", "--token-file", "y"), {})


@pytest.mark.parametrize("wrong", ["--ca", "--certificate", "--certificate-key"])
def test_a_file_that_is_no_pem_is_wrong_usage(tmp_path: Path, wrong: str) -> None:
    """It is named: gRPC would say of it that nobody answers."""
    (tmp_path / "pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "der").write_bytes(b"0\x82\x01")
    options = dict.fromkeys(("--ca", "--certificate", "--certificate-key"), tmp_path / "pem")
    words = [str(word) for item in (options | {wrong: tmp_path / "der"}).items() for word in item]
    with pytest.raises(UsageError, match="der is no PEM file"):
        access_options(parsed(*words), {})


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    ("server", "hint"), [("http://there:1", "say there:1"), ("HTTPS://there:1/", "say there:1 and --tls")]
)
def test_a_url_is_no_server(capsys: pytest.CaptureFixture[str], server: str, hint: str, variable: bool) -> None:
    """gRPC would look for a host of this name."""
    words, variables = (["models"], {"IMAGEGEN_SERVER": server}) if variable else (["models", "--server", server], {})
    assert main(words, variables) == 2
    assert f"{server} is a URL, not HOST:PORT; {hint}\n" in capsys.readouterr().err


def test_wrong_use_of_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A key that would leave in plain text is wrong usage; a file that is not there is a failure."""
    assert main(["models", "--server", "example.com:1"], {"IMAGEGEN_API_KEY": "imagegen_secret"}) == 2
    error = capsys.readouterr().err
    assert "plain text: use --tls or --ca FILE, or say --allow-plaintext-credentials" in error
    assert "imagegen_secret" not in error
    assert main(["models", "--ca", str(tmp_path / "none")], {}) == 1
    capsys.readouterr()
    assert main(["models", "--tls-server-name", "there"], {}) == 2
    assert "--tls-server-name needs --tls, --ca or --certificate" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--api-key-file", "--token-file"])
@pytest.mark.parametrize("content", [b"\xff\xfe", "schlüssel".encode(), b"two\nlines"])
def test_a_file_without_a_key_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, content: bytes
) -> None:
    """What no header can carry is named by its file, and not shown."""
    (tmp_path / "key").write_bytes(content)
    assert main(["models", option, str(tmp_path / "key"), "--json"], {}) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["type"] == "UsageError"
    assert answer["error"]["message"] == f"{tmp_path / 'key'} holds no key or token: these are printable ASCII"


def test_a_variable_without_a_key_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """As a file without one is."""
    assert main(["models"], {"IMAGEGEN_TOKEN": "two\nlines"}) == 2
    assert "IMAGEGEN_TOKEN holds no key or token" in capsys.readouterr().err
