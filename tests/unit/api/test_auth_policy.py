"""The rule for each class of methods, and the class of each method."""

from __future__ import annotations

import pytest

from imagegen_server.api import parse_policy, served_methods
from imagegen_server.api.auth import ANONYMOUS, Access, Caller, MethodClass, class_of
from imagegen_server.api.auth.certificates import certificate_name
from imagegen_server.api.auth.credentials import credentials_of
from imagegen_server.errors import PermissionDenied, StartupError, Unauthenticated

KNOWN = Caller(tenant="alice", roles=frozenset({"painter"}))


def test_every_served_method_has_the_class_that_it_should_have() -> None:
    """Nothing that is served is `admin` by accident."""
    names = [f"{method.service}/{method.method}" for method in served_methods()]
    classes = {name: class_of(f"/{name}").value for name in names}
    service = "imagegen.v1.ImageGen/"
    assert {name.removeprefix(service) for name, kind in classes.items() if kind == "inference"} == {
        "GenerateImage",
        "RenderImage",
        "WatchGeneration",
        "CancelGeneration",
        "GetGeneration",
    }
    assert {name.removeprefix(service) for name, kind in classes.items() if kind == "info"} == {
        "ListModels",
        "GetServerInfo",
    }
    assert not [name for name, kind in classes.items() if kind == "admin"]
    assert class_of("/imagegen.v1.ImageGen/Shutdown") is MethodClass.ADMIN
    assert class_of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") is MethodClass.REFLECTION


def test_the_default_depends_on_whether_callers_can_be_told_apart() -> None:
    """Without credentials everything is open; with them health alone is."""
    assert {rule.access for rule in parse_policy("", authenticates=False).values()} == {Access.OPEN}
    rules = parse_policy("", authenticates=True)
    assert {kind.value: rule.access.value for kind, rule in rules.items()} == {
        "inference": "required",
        "info": "required",
        "admin": "role",
        "reflection": "required",
        "health": "open",
    }


def test_rules_are_checked() -> None:
    """Open is for all, required for the known, a role for those who have it."""
    rules = parse_policy("info=open, inference=role:painter,reflection=role:root", authenticates=True)
    rules[MethodClass.INFO].check(ANONYMOUS)
    rules[MethodClass.INFERENCE].check(KNOWN)
    rules[MethodClass.HEALTH].check(ANONYMOUS)
    with pytest.raises(PermissionDenied, match="root"):
        rules[MethodClass.REFLECTION].check(KNOWN)
    with pytest.raises(Unauthenticated):
        rules[MethodClass.REFLECTION].check(ANONYMOUS)


def test_every_mistake_in_a_policy_is_named() -> None:
    """Unknown classes and rules, doubles, and rules that need what is not there."""
    with pytest.raises(StartupError) as caught:
        parse_policy("metrics=open,info=maybe,health=off,health=open,info=role:", authenticates=True)
    for part in ("'metrics' is none of", "'maybe'", "health is there twice", "info is there twice", "'role:'"):
        assert part in str(caught.value)
    with pytest.raises(StartupError, match=r"needs a way to authenticate.*info=role:x needs"):
        parse_policy("inference=required,info=role:x,reflection=off", authenticates=False)


@pytest.mark.parametrize(
    "metadata",
    [
        [("x-api-key", "a"), ("x-api-key", "a")],
        [("x-api-key", "a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer a"), ("authorization", "Bearer a")],
        [("authorization", "Basic YTpi")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer  two spaces")],
        [("authorization", "")],
        [("x-api-key", "")],
        [("x-api-key", "schlüssel")],
        [("x-api-key", b"bytes")],
        [("authorization", "Bearer " + "a" * 20_000)],
    ],
)
def test_what_is_neither_a_key_nor_a_token_is_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    """Several, other schemes, empty, not ASCII, too long."""
    with pytest.raises(Unauthenticated) as caught:
        credentials_of(metadata)
    assert caught.value.reason == "invalid"


def test_credentials_are_found_and_never_shown() -> None:
    """A key or a token; the scheme's case does not matter; a representation has neither."""
    assert credentials_of([("user-agent", "x"), ("x-api-key", "secret")]).key == "secret"
    assert credentials_of([("authorization", "bearer secret")]).token == "secret"  # noqa: S105 # it is none
    assert "secret" not in repr(credentials_of([("x-api-key", "secret")]))
    assert credentials_of([("user-agent", "x")]) == credentials_of([])


def test_the_name_in_a_certificate() -> None:
    """A URI is preferred to a DNS name, that to an address; a certificate without a usable one is no good."""
    shown = {"x509_pem_cert": [b"PEM"]}
    names = {"peer_uri": [b"spiffe://example/ns/a"], "peer_dns": [b"a.example", b"b.example"], "peer_email": [b"a@b.c"]}
    assert certificate_name(shown | names) == "spiffe://example/ns/a"
    assert certificate_name(shown | names | {"peer_uri": []}) == "a.example"
    assert certificate_name(shown | {"peer_email": [b"a@b.c"]}) == "a@b.c"
    assert certificate_name({"transport_security_type": [b"ssl"]}) is None
    for bad in ({}, {"peer_dns": [b"a b"]}, {"peer_uri": ["ü".encode()]}, {"peer_ip": [b"10.0.0.1"]}):
        with pytest.raises(Unauthenticated):
            certificate_name(shown | bad)
