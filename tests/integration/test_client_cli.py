"""The command line against a real gRPC server whose answers are scripted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from support import messages
from support.command import Run
from support.scripted_service import ScriptedService


def test_generate_writes_the_image_and_says_how(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The file is there; the output names it, its seed and each stage's time; progress is on the error stream."""
    target = tmp_path / "out.png"
    run = Run(capsys, service, "generate", "a circle", "-o", str(target), "--seed", "7")
    assert run.code == 0
    assert target.read_bytes() == messages.picture()
    assert f"wrote {target} (seed 7, 16x8, {len(messages.picture())} bytes, refined)" in run.out
    assert [line.split()[0] for line in run.out.splitlines()[1:5]] == ["text_encode", "base", "refiner", "vae_decode"]
    assert [line.split()[0] for line in run.err.splitlines()] == ["text_encode", "base", "refiner", "vae_decode"]


def test_several_images_are_numbered(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """-o out.webp with three images makes out-0.webp to out-2.webp."""
    run = Run(capsys, service, "generate", "a", "-o", str(tmp_path / "out.webp"), "--num-images", "3")
    assert run.code == 0
    assert sorted(os.listdir(tmp_path)) == ["out-0.webp", "out-1.webp", "out-2.webp"]
    assert (tmp_path / "out-2.webp").read_bytes() == messages.picture(index=2)
    assert service.requests[0].output.mime_type == "image/webp"


@pytest.mark.parametrize(
    ("words", "mime_type", "suffix"),
    [
        (["-o", "x.png"], "image/png", ".png"),
        (["-o", "x.JPG"], "image/jpeg", ".JPG"),
        (["-o", "x.jpeg"], "image/jpeg", ".jpeg"),
        (["-o", "x.webp"], "image/webp", ".webp"),
        (["-o", "x.data", "--format", "jpeg"], "image/jpeg", ".data"),
        (["--format", "webp"], "image/webp", ".webp"),
        ([], "image/png", ".png"),
    ],
)
def test_the_format_follows_the_name(
    service: ScriptedService,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    mime_type: str,
    suffix: str,
) -> None:
    """The suffix chooses the format, --format does where it does not, and an unnamed file is the request id's."""
    monkeypatch.chdir(tmp_path)
    assert Run(capsys, service, "generate", "a", "--request-id", "x", *words).code == 0
    assert service.requests[0].output.mime_type == mime_type
    assert os.listdir(tmp_path) == [f"x{suffix}"]


FIGURES = ("peak_memory_bytes", "device_seconds", "wasted_device_seconds", "energy_joules", "images_per_joule")


def test_json_is_one_object_and_nothing_else(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--json prints the facts of the result once and keeps the error stream silent."""

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        data, taken = messages.picture(), messages.fallback(request)
        yield messages.accepted(request)
        yield messages.truncated(request)
        yield taken
        yield messages.header(request, data)
        yield from messages.chunks(request, data)
        done = messages.completed(request, [data], [taken])
        for number, name in enumerate(FIGURES, start=1):
            setattr(done.completed, name, number)
        yield done

    service.script = script
    target = tmp_path / "out.png"
    run = Run(capsys, service, "generate", "a", "-o", str(target), "--json", "--request-id", "mine", "--seed", "3")
    assert (run.code, run.err) == (0, "")
    result = run.json
    (image,) = result["images"]
    assert (image["file"], image["seed"], image["size_bytes"]) == (str(target), 3, len(messages.picture()))
    assert result["request_id"] == "mine"
    assert result["plan"]["stages"][1] == {"stage": "base", "steps": 20, "evaluations": 20, "guidance_scale": 0.0}
    assert result["stage_timings"][1] == {"stage": "base", "duration": 0.15, "steps": 20}
    assert [result[name] for name in FIGURES] == [1, 2, 3, 4, 5]
    assert result["fallbacks"][0]["reason"] == "oom"
    assert result["warnings"][0]["truncation"]["removed_text"] == "and a dog"

    text = Run(capsys, service, "generate", "a", "-o", str(target))
    assert "warning: 12 tokens of prompt were cut" in text.out
    assert "fallback: image 0, refiner -> base (oom): the refiner ran out of memory" in text.out


def test_json_names_the_file_of_each_image(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the images' order, whichever arrives first."""

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        pictures = [messages.picture(index=index) for index in range(2)]
        yield messages.accepted(request)
        for index in (1, 0):
            yield messages.header(request, pictures[index], index)
            yield from messages.chunks(request, pictures[index], index)
        yield messages.completed(request, pictures)

    service.script = script
    run = Run(capsys, service, "generate", "a", "-o", str(tmp_path / "out.png"), "--num-images", "2", "--json")
    assert [(image["image_index"], Path(image["file"]).name) for image in run.json["images"]] == [
        (0, "out-0.png"),
        (1, "out-1.png"),
    ]


@pytest.mark.parametrize("command", ["models", "info"])
def test_descriptions_come_as_text_and_as_json(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`models` and `info` say for people what their JSON says for programs."""
    text = Run(capsys, service, command)
    assert text.code == 0
    assert "shapes" in text.out
    result = Run(capsys, service, command, "--json").json
    if command == "models":
        assert result["models"][0]["limits"]["max_steps"] == 100
        assert "20 to 100" in text.out
    else:
        assert result["memory_plan"]["components"] == [{"name": "vae", "parameters": 7, "bytes": 28}]
        assert "8.0 GiB" in text.out


def test_cancel_reports_the_state(service: ScriptedService, capsys: pytest.CaptureFixture[str]) -> None:
    """A known generation is cancelled; an unknown one is exit code 2."""
    assert Run(capsys, service, "cancel", "known").out == "known: cancelled\n"
    assert Run(capsys, service, "cancel", "known", "--json").json == {"request_id": "known", "state": "cancelled"}
    unknown = Run(capsys, service, "cancel", "other")
    assert (unknown.code, unknown.out) == (2, "")
    assert "no such generation" in unknown.err


@pytest.mark.parametrize(("count", "heading"), [(1, "times:"), (2, "times (stages of different images overlap):")])
def test_the_times_of_stages_are_headed(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path, count: int, heading: str
) -> None:
    """Where progress comes line by line into the same file, they are not its lines once more."""
    run = Run(capsys, service, "generate", "a", "-o", str(tmp_path / "out.png"), "--num-images", str(count))
    lines = run.out.splitlines()
    assert lines[0] == heading
    assert lines[1].startswith("text_encode")


def test_a_wait_in_the_queue_is_told(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Who has to wait learns behind how many and for how long."""

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        first, *rest = messages.generation(request)
        first.accepted.queue_position = 3
        first.accepted.estimated_queue_wait.FromSeconds(12)
        yield from (first, *rest)

    service.script = script
    run = Run(capsys, service, "generate", "a", "-o", str(tmp_path / "out.png"))
    assert run.err.splitlines()[0] == "waiting behind 3, about 12 s"


def test_a_preview_that_cannot_be_decoded_costs_the_previews_only(
    service: ScriptedService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is said once, and the image arrives."""

    def script(request: pb.GenerateImageRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        first, *rest = messages.generation(request)
        yield first
        for steps in (1, 2):
            preview = pb.Preview(
                stage=pb.STAGE_BASE, completed_steps=steps, mime_type="image/new", data=b"no picture", size={"width": 8}
            )
            yield pb.GenerateImageResponse(request_id=request.request_id, sequence=first.sequence, preview=preview)
        yield from rest

    service.script = script
    target = tmp_path / "out.png"
    run = Run(capsys, service, "generate", "a", "-o", str(target), "--preview", "blocks")
    assert (run.code, target.read_bytes()) == (0, messages.picture())
    assert run.err.count("cannot be decoded") == 1
    assert "no more previews are shown" in run.err
