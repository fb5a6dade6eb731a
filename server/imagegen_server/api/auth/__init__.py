"""Who may call what: API keys, bearer tokens, client certificates, and a rule for each class of methods."""

from imagegen_server.api.auth.authenticator import Authenticator, RegisterFile
from imagegen_server.api.auth.caller import ANONYMOUS, Caller
from imagegen_server.api.auth.interceptor import Authenticate
from imagegen_server.api.auth.jwks import SigningKeys, open_keys
from imagegen_server.api.auth.keys import new_key
from imagegen_server.api.auth.limits import TenantLimits
from imagegen_server.api.auth.policy import Access, MethodClass, class_of, parse_policy
from imagegen_server.api.auth.tokens import JwtVerifier, TokenRules

__all__ = [
    "ANONYMOUS",
    "Access",
    "Authenticate",
    "Authenticator",
    "Caller",
    "JwtVerifier",
    "MethodClass",
    "RegisterFile",
    "SigningKeys",
    "TenantLimits",
    "TokenRules",
    "class_of",
    "new_key",
    "open_keys",
    "parse_policy",
]
