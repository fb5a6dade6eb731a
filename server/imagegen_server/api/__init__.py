"""The gRPC edge: services, conversion and validation, the status table, interceptors and event streams."""

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
from imagegen_server.api.observers import OTHER, EdgeObserver, RpcObserver
from imagegen_server.api.quotas import Quotas
from imagegen_server.api.server import SERVICE, ServerSettings, create_server, served_methods
from imagegen_server.api.servicer import ImageGenServicer
from imagegen_server.api.stream import StreamSettings
from imagegen_server.api.tls import ServerTls

__all__ = [
    "OTHER",
    "SERVICE",
    "Authenticate",
    "Authenticator",
    "Backend",
    "EdgeObserver",
    "EdgeSettings",
    "GrpcServer",
    "ImageGenServicer",
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
