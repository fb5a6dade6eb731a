"""The command line and the environment."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from imagegen._cli_parser import KEY_VARIABLE, SERVER_VARIABLE
from imagegen_server.core import Limits
from imagegen_server.errors import StartupError
from imagegen_server.settings import (
    GROUPS,
    LimitSettings,
    Settings,
    TelemetrySettings,
    parse,
    parse_bytes,
    parse_seconds,
    settings_table_markdown,
    unknown_variables,
)

SERV = "serv is no command: serve, doctor, tune, top or key"


def test_nothing_given_means_the_defaults() -> None:
    """Without arguments and variables, the embedded model is served on this host only."""
    settings = parse([], {})
    assert (settings.command, settings.model, settings.host, settings.port) == ("serve", "shapes", "127.0.0.1", 50051)
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 9464)
    assert (settings.queue_capacity, settings.max_running, settings.row_budget) == (64, 8, None)
    assert (settings.chunk_bytes, settings.max_request_bytes) == (256 * 1024, 1024 * 1024)
    assert (settings.vram_budget, settings.use_refiner, settings.log_prompts) == (None, True, False)


def test_flags_variables_and_defaults_in_that_order() -> None:
    """A flag wins over its variable, a variable over the default, and an empty variable is none."""
    environ = {"IMAGEGEN_PORT": "1000", "IMAGEGEN_MODEL": "fake", "IMAGEGEN_HOST": "", "OTHER": "x"}
    settings = parse(["--port", "2000"], environ)
    assert (settings.port, settings.model, settings.host) == (2000, "fake", "127.0.0.1")


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--port", "0"], "port", 0),
        (["--metrics-port", "0"], "metrics_port", 0),
        (["--metrics-port", "none"], "metrics_port", None),
        (["--metrics-port", "-1"], "metrics_port", None),
        (["--metrics-port=off"], "metrics_port", None),
        (["--no-use-refiner"], "use_refiner", False),
        (["--log-prompts"], "log_prompts", True),
        (["--device", "cuda:3"], "device", "cuda:3"),
        (["--vram-budget", "20GB"], "vram_budget", 20 * 10**9),
        (["--cache-dir", "/models"], "cache_dir", Path("/models")),
        (["--fake-script", '{"step_seconds": 0.1}'], "fake_script", '{"step_seconds": 0.1}'),
        (["--grace-period", "0"], "grace_period", 0.0),
        (["doctor", "--model", "sdxl"], "command", "doctor"),
        (["serve"], "command", "serve"),
    ],
)
def test_a_flag_sets_its_field(argv: list[str], name: str, value: object) -> None:
    """Flags in kebab case reach the field, converted."""
    assert getattr(parse(argv, {}), name) == value


@pytest.mark.parametrize(
    ("text", "value"), [("false", False), ("0", False), ("off", False), ("1", True), ("TRUE", True)]
)
def test_switches_are_words_in_variables(text: str, value: bool) -> None:
    """A switch reads the usual words from a variable."""
    assert parse([], {"IMAGEGEN_USE_REFINER": text}).use_refiner is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("123", 123),
        ("20GB", 20_000_000_000),
        ("20gb", 20_000_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("512MiB", 2**29),
        ("7kb", 7000),
        (" 2 KiB ", 2048),
    ],
)
def test_sizes_have_units(text: str, value: int) -> None:
    """Decimal and binary units are told apart; none means bytes."""
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "20 gigs", "20G", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Texts that are no size raise ValueError."""
    with pytest.raises(ValueError, match="should be a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "value"), [("30d", 2_592_000), ("12h", 43_200), ("1.5 m", 90), ("90s", 90), ("90", 90), (" 2D ", 172_800)]
)
def test_times_have_units(text: str, value: float) -> None:
    """None means seconds."""
    assert parse_seconds(text) == value


@pytest.mark.parametrize("text", ["", "d", "-1d", "1e3", "1 week", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Texts that are no time raise ValueError."""
    with pytest.raises(ValueError, match="should be a time"):
        parse_seconds(text)


def test_nothing_is_kept_unless_asked_for() -> None:
    """Prompts lie beside images: keeping them is an operator's choice, with limits from the start."""
    settings = parse([], {})
    assert (settings.store, settings.images_port, settings.image_url_base) == (None, None, None)
    settings = parse(["--store", "/images", "--images-port", "0"], {})
    assert (settings.store_max_bytes, settings.store_max_age) == (10_000_000_000, 30 * 86_400)
    assert settings.store_min_age == 600
    unlimited = parse(["--store", "/images", "--store-max-bytes", "none", "--store-max-age", "none"], {})
    assert (unlimited.store_max_bytes, unlimited.store_max_age) == (None, None)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--max-connection-age", "2592000"],
            "--max-connection-age (IMAGEGEN_MAX_CONNECTION_AGE): Input should be less",
        ),
        (["--store", ""], "--store (IMAGEGEN_STORE): String should have at least 1 character"),
        (["--images-port", "80"], "--images-port (IMAGEGEN_IMAGES_PORT): needs --store; got '80'"),
        (["--image-url-base", "signed"], "--image-url-base (IMAGEGEN_IMAGE_URL_BASE): needs --store; got 'signed'"),
        (["--store", "x", "--image-url-base", "ftp://x"], "--image-url-base (IMAGEGEN_IMAGE_URL_BASE): String should"),
        (["--store", "x", "--image-url-base", "http://x/a?b"], "--image-url-base (IMAGEGEN_IMAGE_URL_BASE): String"),
        (["--store", "x", "--store-max-age", "60"], "--store-min-age (IMAGEGEN_STORE_MIN_AGE): is above the greatest"),
        (
            ["--store", "x", "--images-port", "80", "--images-host", "::"],
            "--image-url-base (IMAGEGEN_IMAGE_URL_BASE): is needed: --images-host is no address",
        ),
    ],
)
def test_what_results_need_of_each_other(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that nobody could fetch is a wrong setting, not a surprise."""
    with pytest.raises(SystemExit):
        parse(argv, {})
    assert line in capsys.readouterr().err


def test_every_violation_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is wrong, in flags and variables, is named at once on standard error, with exit status 2."""
    argv = ["--port", "x", "--model", "no", "--min-steps", "9", "--max-steps", "3", "--vram-budget", "much", "--nope"]
    environ = {"IMAGEGEN_ROW_BUDGET": "1", "IMAGEGEN_DEVICE": "tpu", "IMAGEGEN_SEND_TIMEOUT": "nan"}
    with pytest.raises(SystemExit) as exit_info:
        parse(argv, environ)
    output = capsys.readouterr()
    assert exit_info.value.code == 2
    assert output.out == ""
    lines = output.err.splitlines()[1:]
    assert {line.split()[0].rstrip(":") for line in lines} == {
        "--nope",
        "--port",
        "--model",
        "--max-steps",
        "--vram-budget",
        "--row-budget",
        "--device",
        "--send-timeout",
    }
    assert "  --row-budget (IMAGEGEN_ROW_BUDGET): Input should be greater than or equal to 2; got '1'" in lines
    assert "  --max-steps (IMAGEGEN_MAX_STEPS): is below the least, 9; got '3'" in lines


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        (["--prot", "1"], ["--prot: no such option; did you mean --port?"]),
        (["--prot=1", "--port", "2"], ["--prot=1: no such option; did you mean --port?"]),
        (["-x", "1"], ["-x: no such option"]),
        (["serv", "--prot", "1"], [SERV, "--prot: no such option; did you mean --port?"]),
        (["serv"], [SERV]),
        (["--port", "1", "doctor"], ["doctor: a command is the first word"]),
        (["doctor", "serve"], ["serve: a command is the first word"]),
        (["--xyz", "--port", "1", "more"], ["--xyz: no such option", "more: belongs to no option"]),
    ],
)
def test_what_means_nothing_is_named_once(
    argv: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With what may have been meant, and without a line for the value of an option that does not exist."""
    with pytest.raises(SystemExit) as exit_info:
        parse(argv, {})
    assert exit_info.value.code == 2
    assert [line.strip() for line in capsys.readouterr().err.splitlines()[1:]] == wrong


def test_both_ports_must_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """One port for both servers is refused, except 0 and on different addresses."""
    with pytest.raises(SystemExit):
        parse(["--port", "9464"], {})
    assert "--metrics-port (IMAGEGEN_METRICS_PORT): is the gRPC port; got 9464" in capsys.readouterr().err
    assert parse(["--port", "0", "--metrics-port", "0"], {}).metrics_port == 0
    assert parse(["--port", "9464", "--metrics-host", "127.0.0.2"], {}).metrics_port == 9464


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """--help exits with 0 and has every flag, both commands and every group."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--help"], {})
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    for group in GROUPS:
        assert f"{group.__doc__}:" in text
        for name in group.model_fields:
            assert f"--{name.replace('_', '-')}" in text
    assert "[serve | doctor | tune | top | key]" in text


def test_defaults_are_shown_as_they_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README and --help have for a default means the default, the case of its letters included."""
    shown = re.findall(r"^\| `[^`]+` \| `([^`]+)` \| `([^`]+)` \|", settings_table_markdown(), re.MULTILINE)
    assert {("IMAGEGEN_JWT_ALGORITHMS", "RS256,PS256,ES256,EdDSA"), ("IMAGEGEN_USE_REFINER", "true")} <= set(shown)
    assert parse([], dict(shown)) == parse([], {})
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    text = " ".join(capsys.readouterr().out.split())
    assert [value for _, value in shown if f"(default: {value})" not in text] == []


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--version exits with 0 and prints the distribution's version."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--version"], {})
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("imagegen-server 0.")


def test_kubernetes_service_links_are_no_settings() -> None:
    """What Kubernetes puts into the environment for a Service named imagegen neither fails nor is complained of."""
    environ = {
        "IMAGEGEN_PORT": "tcp://10.0.0.1:50051",
        "IMAGEGEN_SERVICE_HOST": "10.0.0.1",
        "IMAGEGEN_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    }
    assert parse([], environ).port == 50051
    assert unknown_variables(environ) == ()


def test_mistyped_variables_are_found() -> None:
    """Variables with the prefix that are no settings are named."""
    environ = {"IMAGEGEN_PROT": "1", "IMAGEGEN_COMMAND": "doctor", "IMAGEGEN_PORT": "1", "HOME": "/"}
    assert unknown_variables(environ) == ("IMAGEGEN_COMMAND", "IMAGEGEN_PROT")
    assert parse([], environ).command == "serve"


def test_where_the_client_finds_its_server_is_no_mistyped_variable() -> None:
    """Both programs may run with one environment. A key that the client shows there is none of the server's."""
    environ = {SERVER_VARIABLE: "localhost:50051", KEY_VARIABLE: "key"}
    assert unknown_variables(environ) == (KEY_VARIABLE,)


def test_settings_are_frozen() -> None:
    """A field cannot be set afterwards."""
    settings = parse([], {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    assert settings.port == 50051


def test_a_room_sees_its_group() -> None:
    """The whole is each of its groups, and every field but the command belongs to exactly one of them."""
    settings = parse([], {})
    assert isinstance(settings, TelemetrySettings)
    assert all(isinstance(settings, group) for group in GROUPS)
    names = [name for group in GROUPS for name in group.model_fields]
    assert len(names) == len(set(names))
    assert {*names, "command"} == set(Settings.model_fields)


def test_every_field_is_described() -> None:
    """Every field has a description that ends as a sentence."""
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name


def test_limits_replace_only_what_is_set() -> None:
    """Unset limits are the profile's."""
    profile = Limits(max_side=512, max_steps=40)
    assert parse([], {}).limits(profile) == profile
    changed = parse(["--max-images", "2", "--min-guidance-scale", "0"], {}).limits(profile)
    assert changed == dataclasses.replace(profile, max_images=2, min_guidance_scale=0.0)


def test_limits_that_cross_the_profiles_are_refused() -> None:
    """A least above the profile's most, and a size of which nothing is allowed, cannot start the server."""
    with pytest.raises(StartupError, match="min_steps 150 is above max_steps 100"):
        parse(["--min-steps", "150"], {}).limits(Limits())
    with pytest.raises(StartupError, match="min_side 256 squared is above max_pixels 65535"):
        parse(["--max-pixels", "65535"], {}).limits(Limits(min_side=256))


def test_every_limit_of_a_request_can_be_set() -> None:
    """Limits that have no setting are those that the models fix."""
    names = {field.name for field in dataclasses.fields(Limits)}
    assert names - set(LimitSettings.model_fields) == {"min_side", "side_multiple"}
    assert set(LimitSettings.model_fields) <= names


def test_the_table_has_every_setting() -> None:
    """The table for the README has a row for each setting with its flag, variable and default."""
    table = settings_table_markdown()
    assert (
        "| `--queue-capacity` | `IMAGEGEN_QUEUE_CAPACITY` | `64` | Generations that may wait for the device. |" in table
    )
    assert table.count("| `--") == len(Settings.model_fields) - 1
