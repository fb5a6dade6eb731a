"""Lets calls in, or refuses them, before their handler sees them."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from imagegen_server import errors
from imagegen_server.api.auth.authenticator import Authenticator
from imagegen_server.api.auth.caller import current_caller, refusal, set_current_caller
from imagegen_server.api.auth.policy import Access, MethodClass, Policy, class_of
from imagegen_server.api.convert import request_id_of
from imagegen_server.api.ending import abort
from imagegen_server.api.handlers import Handler, behaviour_of, with_behaviour
from imagegen_server.api.interceptors import UNKNOWN_METHOD, Continuation
from imagegen_server.api.observers import EdgeObserver
from imagegen_server.api.status import is_bug
from imagegen_server.core import AuthFailure, Metadata, RejectReason

_GENERATING: Final = ("/imagegen.v1.ImageGen/GenerateImage", "/imagegen.v1.ImageGen/RenderImage")


class Authenticate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Finds out who calls and whether they may; the handler finds the caller with `current_caller()`."""

    def __init__(self, authenticator: Authenticator, policy: Policy, observer: EdgeObserver) -> None:
        self._authenticator = authenticator
        self._policy = policy
        self._observer = observer

    async def intercept_service(  # type: ignore[override] # a method that is not served has no handler
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler behind a check of the caller; methods that are off are not there for anybody."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or handler is UNKNOWN_METHOD:
            return handler
        if self._policy[class_of(path)].access is Access.OFF:
            return UNKNOWN_METHOD
        inner, metadata = behaviour_of(handler), handler_call_details.invocation_metadata

        async def call(request: Any, context: Any) -> Any:
            try:
                await self._let_in(path, metadata, context)
            except Exception as error:  # noqa: BLE001 # whatever goes wrong, nobody is let in
                await self._refuse(error, path, request, context)
            return await inner(request, context)

        return with_behaviour(handler, call)

    async def _let_in(self, path: str, metadata: Metadata, context: Any) -> None:
        """Notes who calls. Raises `Unauthenticated`, `PermissionDenied` or `Unavailable` if they may not."""
        kind = class_of(path)
        rule = self._policy[kind]
        if kind is MethodClass.HEALTH and rule.access is Access.OPEN:
            return  # whatever a probe sends along
        caller = await self._authenticator.caller(metadata, context.auth_context)
        set_current_caller(caller)  # before the check: who is denied is told
        rule.check(caller)

    async def _refuse(self, error: Exception, path: str, request: Any, context: Any) -> NoReturn:
        given = getattr(getattr(request, "generation", request), "request_id", "")
        request_id = request_id_of(given if isinstance(given, str) else "")
        if is_bug(error):
            self._observer.bug(path, request_id, error)
        elif isinstance(error, errors.Unauthenticated | errors.PermissionDenied):
            self._observer.auth_failed(_failure(error, path, request_id))
        if path in _GENERATING:
            self._observer.rejected(refusal(request_id, "", RejectReason.AUTH, error))
        await abort(context, error, request_id)


def _failure(error: errors.Unauthenticated | errors.PermissionDenied, path: str, request_id: str) -> AuthFailure:
    (reason,) = errors.details_of(error)
    caller = current_caller()
    return AuthFailure(
        method=path,
        request_id=request_id,
        reason=reason,
        detail=(error.detail if isinstance(error, errors.Unauthenticated) else "") or str(error),
        tenant=caller.tenant,
        key_id=caller.key_id,
    )
