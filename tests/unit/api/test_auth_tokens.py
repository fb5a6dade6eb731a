"""Bearer tokens: good ones of every kind, and all the ways in which they can be bad."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import Authenticate, Authenticator, JwtVerifier, TenantLimits, TokenRules, parse_policy
from imagegen_server.api.auth import SigningKeys
from imagegen_server.api.auth.jwks import ALGORITHMS, parse_keys
from imagegen_server.errors import StartupError, Unauthenticated
from support.edge import Recorder, running_edge
from support.tokens import AUDIENCE, HOURS, ISSUER, key_set, signer

RS, PS, ES, ED = (signer(algorithm) for algorithm in ("RS256", "PS256", "ES256", "EdDSA"))
FOREIGN, ES384 = signer("RS256"), signer("ES384")
RULES = TokenRules(issuer=ISSUER, audience=AUDIENCE)
NOW = int(time.time())
LATER = NOW + HOURS
"""Long after the last of these tests has run; the tokens are made when the first is collected."""


def verifier(content: bytes = key_set(RS, PS, ES, ED, ES384), rules: TokenRules = RULES) -> JwtVerifier:
    """Returns a verifier whose source has these keys."""

    async def fetch() -> bytes:
        return content

    return JwtVerifier(SigningKeys(fetch, refresh=60, pause=60, on_change=lambda _: None), rules)


def b64(data: bytes) -> str:
    """Returns base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hs256(secret: bytes, **header: Any) -> str:
    """Returns a token that is signed with a secret."""
    payload = json.loads(base64.urlsafe_b64decode(RS.token().split(".")[1] + "=="))
    signed = (
        f"{b64(json.dumps({'alg': 'HS256', 'kid': 'rs256', **header}).encode())}.{b64(json.dumps(payload).encode())}"
    )
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def with_header(**header: Any) -> str:
    """Returns a good token under another header, with the old signature."""
    _, payload, signature = RS.token().split(".")
    return f"{b64(json.dumps({'alg': 'RS256', 'kid': 'rs256'} | header).encode())}.{payload}.{signature}"


def with_payload(payload: bytes) -> str:
    """Returns a token that is well signed over any bytes."""
    return jwt.api_jws.PyJWS().encode(payload, RS.private, "RS256", {"kid": "rs256"})


def mangled(change: Callable[[list[str]], object]) -> str:
    """Returns a good token whose parts were changed."""
    parts = RS.token().split(".")
    change(parts)
    return ".".join(parts)


def put(index: int, make: Callable[[str], str]) -> Callable[[list[str]], object]:
    """Returns a change of one part."""
    return lambda parts: parts.__setitem__(index, make(parts[index]))


BAD_TOKENS: dict[str, str] = {
    "empty": "",
    "no dots": "nonsense",
    "dots alone": "..",
    "two parts": ".".join(RS.token().split(".")[:2]),
    "four parts": RS.token() + ".x",
    "five parts, as an encrypted one": RS.token() + ".x.y",
    "no signature": mangled(put(2, lambda _: "")),
    "no payload": mangled(put(1, lambda _: "")),
    "no header": mangled(put(0, lambda _: "")),
    "signature cut": mangled(put(2, lambda s: s[:-4])),
    "signature of one bit": mangled(put(2, lambda s: ("A" if s[0] != "A" else "B") + s[1:])),
    "signature longer": mangled(put(2, lambda s: s + "AAAA")),
    "signature of another token": mangled(put(2, lambda _: RS.token(sub="bob").split(".")[2])),
    "another payload": mangled(put(1, lambda _: RS.token(sub="root").split(".")[1])),
    "payload with padding": mangled(put(1, lambda s: s + "====")),
    "header is no JSON": mangled(put(0, lambda _: b64(b"{"))),
    "header is a list": mangled(put(0, lambda _: b64(b"[]"))),
    "header nested deeply": mangled(put(0, lambda _: b64(b"[" * 8000))),
    "header not UTF-8": mangled(put(0, lambda _: b64(b"\xff\xfe"))),
    "alg none": with_header(alg="none"),
    "alg none, not signed": mangled(lambda p: p.__setitem__(slice(0, 3), [b64(b'{"alg":"none"}'), p[1], ""])),
    "alg None": with_header(alg="None"),
    "alg NONE": with_header(alg="NONE"),
    "alg empty": with_header(alg=""),
    "alg missing": with_header(alg=None),
    "alg a number": with_header(alg=5),
    "alg a list": with_header(alg=["RS256"]),
    "alg in lower case": with_header(alg="rs256"),
    "HS256 with the public key as PEM": hs256(RS.public_pem()),
    "HS256 with the public key as JWK": hs256(json.dumps(RS.jwk()).encode()),
    "HS256 with an empty secret": hs256(b""),
    "HS256 without a kid": hs256(RS.public_pem(), kid=None),
    "an algorithm that is not allowed": ES384.token(),
    "RS512 of a known key": jwt.encode({"sub": "alice"}, RS.private, "RS512", {"kid": "rs256"}),
    "PS256 with a key for RS256": jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": LATER}, RS.private, "PS256", {"kid": "rs256"}
    ),
    "a foreign key with a known name": FOREIGN.token({"kid": "rs256"}),
    "a foreign key without a name": FOREIGN.token({"kid": None}),
    "an unknown kid": RS.token({"kid": "other"}),
    "another key's kid": RS.token({"kid": "ps256"}),
    "an empty kid": RS.token({"kid": ""}),
    "a kid that is a path": RS.token({"kid": "../../dev/null"}),
    "a kid that is a number": with_header(kid=1),
    "its own key in the header": FOREIGN.token({"kid": "mine", "jwk": FOREIGN.jwk()}),
    "its own key set in the header": FOREIGN.token({"kid": "mine", "jku": "http://127.0.0.1:9/keys"}),
    "its own certificate in the header": FOREIGN.token({"kid": "mine", "x5u": "http://127.0.0.1:9/c", "x5c": ["MII"]}),
    "crit": RS.token({"crit": ["exp"]}),
    "crit with an extension": RS.token({"crit": ["x"], "x": 1}),
    "another type": RS.token({"typ": "secevent+jwt"}),
    "no exp": RS.token(exp=None),
    "exp a text": RS.token(exp=str(LATER)),
    "nbf true": RS.token(nbf=True),
    "exp infinite": with_payload(b'{"iss":"%s","aud":"imagegen","sub":"alice","exp":Infinity}' % ISSUER.encode()),
    "exp not a number": with_payload(b'{"iss":"%s","aud":"imagegen","sub":"alice","exp":NaN}' % ISSUER.encode()),
    "exp a list": RS.token(exp=[LATER]),
    "not yet good": RS.token(nbf=LATER),
    "nbf a text": RS.token(nbf="soon"),
    "made in the future": RS.token(iat=LATER),
    "no issuer": RS.token(iss=None),
    "another issuer": RS.token(iss="https://issuer.example.evil"),
    "issuer with a slash": RS.token(iss=ISSUER + "/"),
    "issuer a list": RS.token(iss=[ISSUER]),
    "no audience": RS.token(aud=None),
    "another audience": RS.token(aud="other"),
    "audience in other case": RS.token(aud="Imagegen"),
    "audiences without ours": RS.token(aud=["a", "b"]),
    "audience a number": RS.token(aud=1),
    "no tenant": RS.token(sub=None),
    "tenant empty": RS.token(sub=""),
    "tenant a number": RS.token(sub=7),
    "tenant with a space": RS.token(sub="a b"),
    "tenant with a newline": RS.token(sub="alice\n"),
    "tenant too long": RS.token(sub="a" * 129),
    "roles a number": RS.token(roles=1),
    "roles a list of numbers": RS.token(roles=[1]),
    "limits a list": RS.token(imagegen_limits=[]),
    "limits out of range": RS.token(imagegen_limits={"max_in_flight": -1}),
    "payload a list": with_payload(b"[]"),
    "payload a text": with_payload(b'"alice"'),
    "payload no JSON": with_payload(b"sub=alice"),
    "payload nested deeply": with_payload(b'{"sub":' + b"[" * 5000),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_bad_tokens_are_refused(token: str) -> None:
    """Each for a reason of its own, and all with one message that says nothing of it."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier().identity(token)
    assert (caught.value.reason, str(caught.value)) == ("invalid", "the token is not valid")
    assert caught.value.detail


@pytest.mark.parametrize("key", [RS, PS, ES, ED], ids=lambda key: key.algorithm)
async def test_good_tokens_are_taken(key: Any) -> None:
    """The control for the table above: every allowed algorithm, with and without an audience among others."""
    for token in (key.token(), key.token(aud=["other", AUDIENCE]), key.token({"typ": "at+jwt"}), key.token(nbf=None)):
        assert (await verifier().identity(token)).tenant == "alice"


def test_there_are_enough_bad_tokens() -> None:
    """Each is another one."""
    assert len(set(BAD_TOKENS.values())) == len(BAD_TOKENS) >= 30


@pytest.mark.parametrize("exp", [NOW - 31, NOW - 3600, 0, -1, NOW - 31.5], ids=["31 s", "an hour", "0", "-1", "31.5 s"])
async def test_expired_tokens_are_told_apart(exp: float) -> None:
    """Past the leeway; but a bad signature comes first."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier().identity(RS.token(exp=exp))
    assert caught.value.reason == "expired"
    with pytest.raises(Unauthenticated) as caught:
        await verifier().identity(FOREIGN.token({"kid": "rs256"}, exp=exp))
    assert caught.value.reason == "invalid"


async def test_clocks_may_differ_a_little() -> None:
    """Within the leeway, both at the beginning and at the end."""
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, leeway=300)
    now = int(time.time())
    accepted: tuple[dict[str, Any], ...] = ({"exp": now - 100}, {"nbf": now + 100}, {"iat": now + 100})
    for claims in accepted:
        assert await verifier(rules=rules).identity(RS.token(**claims))


async def test_claims_give_tenant_roles_and_limits() -> None:
    """From the claims that the settings name; a text of roles is split at spaces."""
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, tenant_claim="org", roles_claim="scope")
    limits = {"max_in_flight": 2, "weight": 0.5}
    token = RS.token(org="acme", scope="paint look", imagegen_limits=limits)
    found = await verifier(rules=rules).identity(token)
    assert (found.tenant, found.roles) == ("acme", frozenset({"paint", "look"}))
    assert found.limits == TenantLimits(max_in_flight=2, weight=0.5)
    assert (await verifier().identity(RS.token(roles=["a", "b"]))).roles == {"a", "b"}


async def test_a_caller_has_what_its_token_says() -> None:
    """Tenant, roles and limits."""
    token = RS.token(roles=["admin"], imagegen_limits={"weight": 3})
    caller = await Authenticator(tokens=verifier()).caller([("authorization", f"Bearer {token}")], dict)
    assert (caller.tenant, caller.roles, caller.key_id) == ("alice", frozenset({"admin"}), "")
    assert caller.limits == TenantLimits(weight=3.0)


async def test_a_token_need_not_name_the_only_key() -> None:
    """With one key for its algorithm there is no question which it is; with two there is."""
    nameless = RS.token({"kid": None})
    assert await verifier(key_set(RS, ES)).identity(nameless)
    with pytest.raises(Unauthenticated):
        await verifier(key_set(RS, FOREIGN)).identity(nameless)


def test_algorithms_are_chosen_from_those_with_public_keys() -> None:
    """None and HMAC cannot be allowed, even on purpose."""
    assert not [name for name in ALGORITHMS if name.lower() == "none" or name.startswith("HS")]
    with pytest.raises(StartupError, match=r"'none' is none of .*'HS256' is none of"):
        TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=("none", "RS256", "HS256"))
    with pytest.raises(StartupError, match="no algorithm"):
        TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=())


def test_key_sets_that_are_no_good() -> None:
    """Not a set, no public key for signatures, a broken key, a weak one; keys for other uses are skipped."""
    secret = {"kty": "oct", "k": b64(b"secret" * 10), "kid": "s"}
    for content in (b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}', b"[" * 100_000):
        with pytest.raises(ValueError, match="no JSON Web Key Set"):
            parse_keys(content)
    encryption = RS.jwk() | {"use": "enc"}
    for keys in ([], [secret], [encryption], [RS.jwk() | {"key_ops": ["encrypt"]}], [{"kty": "EC", "crv": "P-192"}]):
        with pytest.raises(ValueError, match="no public key"):
            parse_keys(json.dumps({"keys": keys}).encode())
    with pytest.raises(ValueError, match="key 2 is broken"):
        parse_keys(json.dumps({"keys": [RS.jwk(), {"kty": "RSA", "n": "AQAB"}]}).encode())
    weak: Any = jwt.get_algorithm_by_name("RS256")
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 # that is the point
    with pytest.raises(ValueError, match="1024 bits"):
        parse_keys(b'{"keys": [%s]}' % weak.to_jwk(small.public_key()).encode())
    wrong: tuple[object, ...] = ("verify", 7, {})
    for operations in wrong:
        with pytest.raises(ValueError, match="no public key"):
            parse_keys(json.dumps({"keys": [RS.jwk() | {"key_ops": operations}]}).encode())
    assert parse_keys(json.dumps({"keys": [RS.jwk() | {"key_ops": None, "use": None}]}).encode())
    kept = parse_keys(json.dumps({"keys": [secret, encryption, ES.jwk()]}).encode())
    assert [key.kid for key in kept] == ["es256"]


async def test_bad_tokens_are_refused_at_the_port() -> None:
    """The same table over a connection, as far as headers can carry it; a good token gets in, before and after."""

    def auth(seen: Recorder) -> Authenticate:
        return Authenticate(Authenticator(tokens=verifier()), parse_policy("", authenticates=True), seen)

    async with running_edge(auth=auth) as edge:

        async def ask(token: str) -> grpc.StatusCode:
            metadata = (("authorization", f"Bearer {token}"),)
            try:
                await edge.stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        assert await ask(RS.token()) is grpc.StatusCode.OK
        codes = {kind: await ask(token) for kind, token in BAD_TOKENS.items() if len(token) < 7000}
        assert set(codes.values()) == {grpc.StatusCode.UNAUTHENTICATED}, codes
        assert len(codes) == len(edge.seen.auth_failures) >= 60
        assert await ask(RS.token()) is grpc.StatusCode.OK
        assert edge.seen.bugs == []
