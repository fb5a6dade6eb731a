"""Both clients and the command line, when the server that had a generation is started anew while it is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from imagegen import AsyncClient, Client, errors, types
from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.command import Run
from support.scripted_service import ScriptedService, error_info, refuse, serving


class Restarted(ScriptedService):
    """Breaks off after the first events, as a server that is killed does, and then refuses as a new one does."""

    def __init__(self) -> None:
        super().__init__()
        self.script = self._begin
        self.refusal = (grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND")

    def WatchGeneration(  # noqa: N802 (the contract's name)
        self, request: pb.WatchGenerationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchGenerationResponse]:
        """Knows no generation."""
        code, reason = self.refusal
        refuse(context, code, "not here", error_info(reason), pushback=-1)

    def _begin(
        self, request: pb.GenerateImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateImageResponse]:
        yield messages.accepted(request)
        yield from messages.progress(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")  # without ErrorInfo: the transport's own words


@pytest.fixture
def service() -> Iterator[Restarted]:
    """A running server."""
    with serving(service := Restarted()):
        yield service


CONTINUE = types.OnDisconnect.CONTINUE
LOADING = (grpc.StatusCode.UNAVAILABLE, "LOADING")
SAID = (
    r"the connection was lost \(Socket closed\), and the server that answers now does not know the generation: "
    r"its work is lost, unless another server has it$"
)


@pytest.mark.parametrize("loading", [False, True])
def test_the_loss_of_the_work_is_told(service: Restarted, loading: bool) -> None:
    """Not that an id is unknown, which the server had accepted, nor that a model is loading."""
    service.refusal = LOADING if loading else service.refusal
    with Client(service.target) as client, pytest.raises(errors.GenerationLostError, match=SAID) as caught:
        client.generate_image("a", on_disconnect=CONTINUE, request_id="mine")
    assert caught.value.request_id == "mine"


@pytest.mark.parametrize("loading", [False, True])
async def test_the_loss_of_the_work_is_told_under_asyncio(service: Restarted, loading: bool) -> None:
    """The same."""
    service.refusal = LOADING if loading else service.refusal
    async with AsyncClient(service.target) as client:
        with pytest.raises(errors.GenerationLostError, match=SAID) as caught:
            await client.generate_image("a", on_disconnect=CONTINUE, request_id="mine")
    assert caught.value.request_id == "mine"


def test_the_command_line_calls_it_a_lost_connection(
    service: Restarted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 3, and no advice to watch what is not there."""
    words = ["generate", "a", "--keep-running", "--request-id", "mine", "-o", str(tmp_path / "out.png")]
    run = Run(capsys, service, *words)
    assert run.code == 3
    said = "imagegen: the connection was lost (Socket closed), and the server that answers now does not know the "
    assert run.err.endswith(f"{said}generation: its work is lost, unless another server has it\nRequest id: mine\n")
    as_json = Run(capsys, service, *words, "--json").json
    assert (as_json["error"]["type"], as_json["exit_code"]) == ("GenerationLostError", 3)
