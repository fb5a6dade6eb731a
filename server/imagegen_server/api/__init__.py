"""The gRPC edge: services, conversion and validation, the status table, interceptors and event streams.

server             puts it together; `listener` has the port, `tls` its certificate, `interceptors` surround every call
servicer           what each call does
  generations      the calls that generate: the way of one from its request to its end
    admission      lets them in, with `quotas` and `readers`; `convert` (`validation`, `checks`) completes the request
    stream         what the engine tells becomes messages (`messages`, `enums`); `replies` folds them into one answer
    journal        what was sent, for those who watch; `journals` bounds it
    time_left      ends calls before their deadline; `cut_short` tells why gRPC ended one
  describe         the server and its models
status             which status an error becomes; `ending` writes it
backend, observers what the edge asks of the process around it, and what it tells
auth/              who calls, and what they may
"""

from imagegen_server.api.auth import (
    Authenticate,
    Authenticator,
    JwtVerifier,
    RegisterFile,
    TenantLimits,
    TokenRules,
    new_key,
    open_keys,
    parse_policy,
)
from imagegen_server.api.backend import Backend, ServerState
from imagegen_server.api.generations import EdgeSettings
from imagegen_server.api.journals import JournalSettings
from imagegen_server.api.listener import GrpcServer
from imagegen_server.api.observers import EdgeObserver, RpcObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.server import SERVICE, ServerSettings, create_server, served_methods
from imagegen_server.api.stream import StreamSettings
from imagegen_server.api.tls import ServerTls

__all__ = [
    "SERVICE",
    "Authenticate",
    "Authenticator",
    "Backend",
    "EdgeObserver",
    "EdgeSettings",
    "GrpcServer",
    "JournalSettings",
    "JwtVerifier",
    "Quotas",
    "RegisterFile",
    "RpcObserver",
    "ServerSettings",
    "ServerState",
    "ServerTls",
    "StreamSettings",
    "TenantLimits",
    "TokenRules",
    "create_server",
    "new_key",
    "open_keys",
    "parse_policy",
    "served_methods",
]
