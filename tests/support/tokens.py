"""Bearer tokens as an identity provider makes them, and as it never would."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "imagegen"
HOURS: Final = 6 * 3600
"""Seconds that a good token holds: longer than any run of the tests."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Signer:
    """A private key with a name."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)

    def jwk(self) -> dict[str, Any]:
        """Returns the public key as a JSON Web Key."""
        maker: Any = jwt.get_algorithm_by_name(self.algorithm)
        public = json.loads(maker.to_jwk(self.private.public_key()))
        return {**public, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def public_pem(self) -> bytes:
        """Returns the public key as PEM."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Returns a good token, except for the claims and header fields given here; a claim of None is left out."""
        now = int(time.time())
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + HOURS, "nbf": now - 10, "iat": now - 10}
        chosen = {name: value for name, value in (good | claims).items() if value is not None}
        headers = {"kid": self.kid} | (header or {})
        kept = {name: value for name, value in headers.items() if value is not None}
        return jwt.api_jws.PyJWS().encode(json.dumps(chosen).encode(), self.private, self.algorithm, kept)


def signer(algorithm: str, kid: str = "") -> Signer:
    """Returns a new private key for an algorithm."""
    make = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "PS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[algorithm]
    return Signer(kid=kid or algorithm.lower(), algorithm=algorithm, private=make())


def key_set(*signers: Signer) -> bytes:
    """Returns a JSON Web Key Set with the public keys."""
    return json.dumps({"keys": [each.jwk() for each in signers]}).encode()
