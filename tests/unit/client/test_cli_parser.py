"""The arguments of the command line."""

from __future__ import annotations

import pytest

from imagegen import types
from imagegen._cli_failure import ExitCode
from imagegen._cli_parser import UsageError, build_parser, generation_options
from imagegen._request import build_request


def options(*words: str) -> types.GenerationKeywords:
    """Returns the client's options for the words after `generate a`."""
    return generation_options(build_parser({}).parse_args(["generate", "a", *words]), "image/png")


def test_a_bare_prompt_asks_for_nothing_else() -> None:
    """Without options the request leaves every choice to the server, but for the format and the one image."""
    request = build_request("a", options())
    names = {field.name for field, _ in request.ListFields()}
    assert names == {"prompt", "request_id", "num_images", "output"}


def test_every_option_reaches_the_request() -> None:
    """Each argument sets the field of the contract that it is named after."""
    words = (
        "--seed 0 --steps 20 --guidance 1 --width 64 --height 72 --num-images 3 --scheduler S --negative-prompt n "
        "--model m --fast --quality 7 --isolate-batch --no-fallback --refiner-mode ensemble --refiner-steps 4 "
        "--refiner-strength 0.5 --refiner-switch-at 0.6 --refiner-guidance 2 --refiner-prompt r --keep-running "
        "--no-parameters --batch"
    )
    expected: types.GenerationKeywords = {
        "seed": 0,
        "num_inference_steps": 20,
        "guidance_scale": 1.0,
        "width": 64,
        "height": 72,
        "num_images": 3,
        "scheduler": "S",
        "negative_prompt": "n",
        "model": "m",
        "high_quality": False,
        "use_refinement": None,
        "output": types.OutputOptions(mime_type="image/png", quality=7, embed_parameters=False),
        "priority": types.Priority.BATCH,
        "isolate_batch": True,
        "on_disconnect": types.OnDisconnect.CONTINUE,
        "allowed_fallbacks": (),
        "refiner": types.RefinerOptions(
            mode=types.RefinerMode.ENSEMBLE,
            num_inference_steps=4,
            strength=0.5,
            switch_at=0.6,
            guidance_scale=2.0,
            prompt="r",
        ),
    }
    assert options(*words.split()) == expected


def test_the_refiner_can_be_left_out() -> None:
    """--no-refiner turns refinement off and sends no refiner options."""
    chosen = options("--no-refiner")
    assert chosen["use_refinement"] is False
    assert chosen["refiner"] is None


@pytest.mark.parametrize(
    ("environment", "words", "server"),
    [
        ({}, [], "localhost:50051"),
        ({"IMAGEGEN_SERVER": ""}, [], "localhost:50051"),
        ({"IMAGEGEN_SERVER": "there:1"}, [], "there:1"),
        ({"IMAGEGEN_SERVER": "there:1"}, ["--server", "here:2"], "here:2"),
    ],
)
def test_the_server_is_named_by_option_then_environment(
    environment: dict[str, str], words: list[str], server: str
) -> None:
    """--server wins over IMAGEGEN_SERVER, which wins over the default."""
    assert build_parser(environment).parse_args(["info", *words]).server == server


@pytest.mark.parametrize(
    "server",
    ["localhost", "localhost:", "localhost:abc", "localhost:0", "localhost:99999", ":1", "::1", "[::1]", "a/b:1", ""],
)
def test_a_server_without_a_port_is_wrong_usage(server: str) -> None:
    """gRPC would ask port 443, or say that nobody answers; the variable is checked as the option is."""
    for environment, words in (({}, ["--server", server]), ({"IMAGEGEN_SERVER": server}, [])):
        if server or words:
            with pytest.raises(UsageError, match=r"HOST:PORT is needed, as localhost:50051, not "):
                build_parser(environment).parse_args(["info", *words])


@pytest.mark.parametrize(
    "server",
    [
        "there:1",
        "[::1]:50051",
        "dns:///there",
        "dns:there:1",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "unix:a.sock",
        "xds:///a",
    ],
)
def test_a_server_may_be_any_target_of_grpc(server: str) -> None:
    """What names its scheme is left to gRPC."""
    assert build_parser({}).parse_args(["info", "--server", server]).server == server


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["generate"],
        ["cancel"],
        ["models", "extra"],
        ["generate", "a", "--seed", "x"],
        ["generate", "a", "--num-images", "0"],
        ["generate", "a", "--timeout", "0"],
        ["generate", "a", "--timeout", "nan"],
        ["generate", "a", "--timeout", "soon"],
        ["generate", "a", "--format", "gif"],
        ["generate", "a", "--refiner-mode", "none"],
    ],
)
def test_wrong_usage_is_raised_not_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser leaves it to the caller how a mistake is reported, and hands over the usage."""
    with pytest.raises(UsageError) as caught:
        build_parser({}).parse_args(words)
    assert caught.value.usage.startswith("usage: imagegen")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["models", "--help"]])
def test_help_lists_every_exit_code(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """All exit codes are in --help, of the program and of each command."""
    with pytest.raises(SystemExit) as caught:
        build_parser({}).parse_args(words)
    assert caught.value.code == 0
    listed = capsys.readouterr().out.split("exit codes:")[1].splitlines()
    codes = {int(line.split()[0]) for line in listed if line.strip()}
    assert codes == {int(code) for code in ExitCode}


def test_a_deadline_may_be_infinite() -> None:
    """--timeout inf waits for ever."""
    assert build_parser({}).parse_args(["generate", "a", "--timeout", "inf"]).timeout == float("inf")
