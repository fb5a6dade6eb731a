"""What the edge tells the outside about its work. Implementations must return at once and never raise."""

from __future__ import annotations

from typing import Protocol

import grpc

from imagegen_server.core import AuthFailure, Metadata, Refusal, RpcMethod

OTHER = RpcMethod(type="bidi_stream", service="_OTHER", method="_OTHER")
"""Every method that is not served."""


class RpcObserver(Protocol):
    """Receives the calls of every service. Each `started` is followed by exactly one `handled`.

    Both are told in the call's own task, as is what the handler itself does meanwhile: the edge's refusals, and
    `accepted` or `rejected` of the engine. A context variable that is set at `started` is seen there.
    """

    def started(self, method: RpcMethod, metadata: Metadata) -> None:
        """A call reached its handler."""
        ...

    def msg_received(self, method: RpcMethod) -> None:
        """A message of the caller was received."""
        ...

    def msg_sent(self, method: RpcMethod) -> None:
        """A message was written to the caller."""
        ...

    def handled(self, method: RpcMethod, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended, `seconds` after it started."""
        ...


class EdgeObserver(Protocol):
    """Receives what only the edge can see."""

    def rejected(self, refusal: Refusal) -> None:
        """The edge refused a generation: INVALID broke the contract, QUOTA was its tenant's, AUTH its caller's fault.

        LOADING came before there was a model, DRAINING when there will be none. After AUTH there is no model, since
        nobody looks at the request.
        """
        ...

    def auth_failed(self, failure: AuthFailure) -> None:
        """A call was refused for its credentials. Anybody can cause that, at any rate."""
        ...

    def write_stalled(self, seconds: float) -> None:
        """Writing one message took `seconds`, most of which the caller did not read."""
        ...

    def bug(self, method: str, request_id: str, error: BaseException) -> None:
        """A handler raised something that is not a domain error. Called once for each such call."""
        ...
