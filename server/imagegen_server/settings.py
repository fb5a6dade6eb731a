"""The only reader of the command line and the environment.

Every setting is a flag (`--queue-capacity 8`) and a variable (`IMAGEGEN_QUEUE_CAPACITY=8`); the flag wins, and an
empty variable counts as unset. The groups below are what the rooms below get to see of it; all are frozen.

`python -m imagegen_server.settings` prints the table of the README.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from imagegen_server.core import Limits
from imagegen_server.errors import StartupError

PREFIX = "IMAGEGEN_"
_SERVICE_LINKS = ("tcp://", "udp://")
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: object) -> object:
    """Returns "20GB", "20 GiB" or "1048576" as a number of bytes; anything but text is returned as it is.

    Raises ValueError for a text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B|)\s*", value.upper())
    if match is None:
        raise ValueError("should be a size such as 20GB, 18.5GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(value: object) -> object:
    """Returns "30d", "12h", "5m", "90s" or "90" as seconds; anything but text is returned as it is.

    Raises ValueError for a text that is no time.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value.lower())
    if match is None:
        raise ValueError("should be a time such as 30d, 12h, 5m or a number of seconds")
    return float(match[1]) * _TIMES[match[2]]


def _off(value: object) -> object:
    """Returns None for the ways to write "no port" and "no limit"."""
    return None if value in ("none", "off", "-1", -1) else value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ApiSettings(_Group):
    """The gRPC port"""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to serve gRPC on. 0.0.0.0 or :: lets every host in; see docs/security.md.",
    )
    port: Port = Field(50051, description="gRPC port; 0 takes a free one.")
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate chain, read again when it changes; plain text if unset.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key, without a password.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with authorities, read again when it changes: clients must show a certificate "
        "that one of them signed.",
    )
    health_port: Annotated[Port | None, BeforeValidator(_off)] = Field(
        None, description="Second, plain port with grpc.health.v1 alone, for probes; 0 takes a free one."
    )
    max_request_bytes: Bytes = Field(2**20, ge=2**12, le=2**26, description="Largest request message.")
    chunk_bytes: Bytes = Field(
        2**18, ge=2**10, le=3 * 2**20, description="Image bytes in one message; clients take 4 MB messages by default."
    )
    send_timeout: float = Field(60.0, gt=0, description="Seconds that a caller may leave a message unread.")
    grace_period: float = Field(30.0, ge=0, description="Seconds that running generations get to end on SIGTERM.")
    max_connection_age: float | None = Field(
        None,
        gt=0,
        description="Seconds after which a connection is asked to be made anew, so that clients find new servers; "
        "what runs on it goes on. Never if unset.",
    )
    port_file: Path | None = Field(None, description="File to write the bound ports to, as JSON, once serving.")


class AuthSettings(_Group):
    """Who may call"""

    api_keys: Path | None = Field(
        None,
        description="File of hashed API keys and tenants' limits, read again when it changes; "
        "`imagegen-server key` makes its lines.",
    )
    jwt_keys: str | None = Field(
        None,
        description="JSON Web Key Set with the keys that sign bearer tokens: a file, read again when it changes, "
        "or an https URL.",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="What a token's iss must be; needed for tokens.")
    jwt_audience: str | None = Field(None, min_length=1, description="What a token's aud must have; needed for tokens.")
    jwt_algorithms: str = Field("RS256,PS256,ES256,EdDSA", description="What may sign a token: names with commas.")
    jwt_leeway: float = Field(30.0, ge=0, le=300, description="Seconds by which clocks may differ for exp and nbf.")
    jwt_refresh: float = Field(300.0, ge=1, le=86_400, description="Seconds after which a URL is asked for keys again.")
    jwt_tenant_claim: str = Field("sub", min_length=1, description="Claim that names the tenant.")
    jwt_roles_claim: str = Field(
        "roles", min_length=1, description="Claim with the roles: a list, or a text with spaces, as scope."
    )
    tls_client_identity: bool = Field(
        True, description="With --tls-client-ca: the name in a client's certificate is who calls, and its tenant."
    )
    tenant_max_in_flight: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Generations that a tenant may have queued and running; half of --queue-capacity if unset.",
    )
    tenant_steps_per_minute: float | None = Field(
        None,
        ge=1,
        le=1e9,
        description="Denoising steps that a tenant may use, all images together; any number if unset.",
    )
    tenant_burst_steps: float | None = Field(
        None, ge=1, le=1e9, description="Steps that a tenant may use at once after a pause; a minute's if unset."
    )
    auth_policy: str = Field(
        "",
        description="Who may call what, instead of the default: inference=required,reflection=off; "
        "each of inference, info, admin, reflection, health is open, required, role:NAME or off.",
    )


class ModelSettings(_Group):
    """The model"""

    model: Literal["shapes", "sdxl", "synthetic-sdxl", "fake"] = Field("shapes", description="Model profile.")
    base: str | None = Field(None, description="Hub id or directory of the base, instead of the profile's.")
    refiner: str | None = Field(None, description="Hub id or directory of the refiner, instead of the profile's.")
    use_refiner: bool = Field(True, description="Load the refiner; without it, refined images fall back to the base.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp8"] = Field(
        "auto",
        description="Arithmetic of the UNets; auto is fp32 from 20 GB of device memory on, else fp16; "
        "fp8 changes pixels.",
    )
    vram_budget: Bytes | None = Field(None, gt=0, description="Most device memory to use: 20GB, 18GiB, bytes.")
    cache_dir: Path | None = Field(
        None,
        description="Where downloads, tunings and compiled code are kept; the hub's and XDG's own places if unset.",
    )
    tuning: str = Field(
        "auto",
        min_length=1,
        description="File that `imagegen-server tune` wrote for this device; auto takes the one that it left in the "
        "cache, if any, none runs without.",
    )
    fake_script: str = Field("", description="What the fake model does: times and faults, as JSON.")


class WorkSettings(_Group):
    """The engine"""

    queue_capacity: int = Field(64, ge=1, le=100_000, description="Generations that may wait for the device.")
    max_running: int = Field(8, ge=1, le=1024, description="Generations on the device at one time.")
    max_delivering: int = Field(32, ge=1, le=4096, description="Generations being encoded or sent at one time.")
    row_budget: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="UNet rows in one batch at the native size; a guided image takes two. "
        "The profile's own if unset: 16 for small models, 4 for SDXL.",
    )
    encode_threads: int = Field(2, ge=1, le=64, description="Threads that make image files.")
    allow_isolate_batch: bool = Field(True, description="Serve requests that ask to be alone in their batch.")


class RecallSettings(_Group):
    """What is remembered of generations that have ended"""

    recent_generations: int = Field(
        10_000, ge=1, le=1_000_000, description="Most generations that GetGeneration remembers."
    )
    recent_seconds: float = Field(3600.0, gt=0, description="Seconds that GetGeneration remembers a generation.")
    kept_events_bytes: Bytes = Field(
        2**28,
        ge=2**20,
        le=2**40,
        description="Most bytes of events, images included, that are kept in memory for WatchGeneration.",
    )
    kept_events_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Seconds that the events of a generation that outlives its connection are kept after its end.",
    )


class LimitSettings(_Group):
    """Limits of a request, instead of the profile's"""

    min_steps: int | None = Field(None, ge=1, le=1000, description="Fewest base steps.")
    max_steps: int | None = Field(None, ge=1, le=1000, description="Most base steps.")
    max_refiner_steps: int | None = Field(None, ge=1, le=1000, description="Most refiner steps.")
    min_guidance_scale: float | None = Field(None, ge=0, le=100, description="Least guidance.")
    max_guidance_scale: float | None = Field(None, ge=0, le=100, description="Most guidance.")
    max_side: int | None = Field(None, ge=64, le=16384, description="Longest side in pixels.")
    max_pixels: int | None = Field(None, ge=4096, le=2**28, description="Most pixels in an image.")
    max_images: int | None = Field(None, ge=1, le=1000, description="Most images of one request.")
    max_prompt_characters: int | None = Field(None, ge=1, le=100_000, description="Longest prompt.")

    @field_validator("max_steps", "max_guidance_scale")
    @classmethod
    def _at_least_the_least(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get(f"min_{str(info.field_name).removeprefix('max_')}")
        if value is not None and least is not None and value < least:
            raise ValueError(f"is below the least, {least}")
        return value

    def limits(self, profile: Limits) -> Limits:
        """Returns a profile's limits with what is set here; StartupError if a least is then above a most."""
        chosen = {name: getattr(self, name) for name in LimitSettings.model_fields}
        limits = dataclasses.replace(profile, **{name: value for name, value in chosen.items() if value is not None})
        for least, most in (
            ("min_steps", "max_steps"),
            ("min_guidance_scale", "max_guidance_scale"),
            ("min_side", "max_side"),
        ):
            if getattr(limits, least) > getattr(limits, most):
                raise StartupError(f"{least} {getattr(limits, least)} is above {most} {getattr(limits, most)}")
        return limits


class StoreSettings(_Group):
    """Results that stay"""

    store: str | None = Field(
        None,
        description="Where images are kept with their parameters, prompts included: a directory, s3://BUCKET/PREFIX, "
        "gs://BUCKET/PREFIX or another object store that fsspec knows. Nothing is kept if unset.",
    )
    store_max_bytes: Annotated[Bytes | None, BeforeValidator(_off)] = Field(
        10 * 10**9, ge=2**20, description="Most bytes that are kept; the oldest go first. none: no limit."
    )
    store_max_age: Annotated[Seconds | None, BeforeValidator(_off)] = Field(
        30 * 86400.0, gt=0, description="How long an image is kept: 30d, 12h, seconds. none: no limit."
    )
    store_min_age: Seconds = Field(
        600.0, ge=0, description="How long an image stays at least, whatever the limits: 10m, seconds."
    )
    store_sweep_interval: Seconds = Field(60.0, ge=0.1, description="Time between two looks for what must go.")
    store_timeout: float = Field(
        5.0, gt=0, le=600, description="Seconds that the end of a generation waits at most for its images to be kept."
    )
    images_host: str = Field("127.0.0.1", min_length=1, description="Address to serve the kept images on, over HTTP.")
    images_port: Annotated[Port | None, BeforeValidator(_off)] = Field(
        None, description="Port of the kept images, at /images/NAME; 0 takes a free one, none or unset serves none."
    )
    image_url_base: str | None = Field(
        None,
        pattern=r"^(signed|https?://[^\s?#]+)$",
        description="What callers put before /NAME to fetch an image; signed: URLs that the object store signs. "
        "http://HOST:PORT/images of the images' own port if unset.",
    )
    image_url_lifetime: Seconds = Field(
        86400.0, ge=1, le=7 * 86400, description="How long signed URLs are good: 1d, seconds."
    )

    @field_validator("store_min_age")
    @classmethod
    def _before_the_end(cls, value: float, info: ValidationInfo) -> float:
        most = info.data.get("store_max_age")
        if most is not None and value > most:
            raise ValueError(f"is above the greatest age, {most:g}")
        return value

    @field_validator("images_port", "image_url_base")
    @classmethod
    def _with_a_store(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        if value is not None and info.data.get("store") is None:
            raise ValueError("needs --store")
        return value

    @field_validator("image_url_base")
    @classmethod
    def _reachable(cls, value: str | None, info: ValidationInfo) -> str | None:
        everywhere = info.data.get("images_host") in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        if value is None and everywhere and info.data.get("images_port") is not None:
            raise ValueError("is needed: --images-host is no address that callers can fetch from")
        return value


class TelemetrySettings(_Group):
    """Metrics, logs and traces"""

    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address to serve /metrics, /healthz and /livez on."
    )
    metrics_port: Annotated[Port | None, BeforeValidator(_off)] = Field(
        9464, description="Port of /metrics, /healthz and /livez; 0 takes a free one, none turns them off."
    )
    metrics_token_file: Path | None = Field(
        None, description="File with a bearer token that scrapes of /metrics must show; anybody may scrape if unset."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level of a log line.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, JSON elsewhere."
    )
    log_prompts: bool = Field(False, description="Let prompts into the logs.")
    gpu_script: str = Field(
        "",
        description="Show simulated GPUs instead of the driver's: a JSON object with the keys that "
        "`telemetry/simulated_gpu.py` lists; `{}` is one GPU that is well.",
    )
    tracing: Literal["none", "otlp"] = Field(
        "none", description="Send a trace of every generation to an OpenTelemetry collector; needs the extra otel."
    )
    tracing_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+/?$",
        description="URL of the collector's gRPC port. OTEL_EXPORTER_OTLP_ENDPOINT if unset, else http://localhost:4317.",
    )
    tracing_sample_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of the traces begun here that is kept, 0 to 1; OTEL_TRACES_SAMPLER's, else all, if unset.",
    )


GROUPS: tuple[type[_Group], ...] = (
    ApiSettings,
    AuthSettings,
    ModelSettings,
    WorkSettings,
    RecallSettings,
    LimitSettings,
    StoreSettings,
    TelemetrySettings,
)


class Settings(
    TelemetrySettings,
    StoreSettings,
    LimitSettings,
    RecallSettings,
    WorkSettings,
    ModelSettings,
    AuthSettings,
    ApiSettings,
):
    """Everything that an operator can choose."""

    command: Literal["serve", "doctor", "tune"] = Field("serve", description="What to do.")

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("needs --tls-certificate, and the other way round")
        return value

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _with_keys(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is None) != (info.data.get("jwt_keys") is None):
            raise ValueError("is needed with --jwt-keys, and only then")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("needs --tls-certificate and --tls-key")
        return value

    @field_validator("health_port")
    @classmethod
    def _not_the_main_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port"):
            raise ValueError("is the gRPC port")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port") and info.data.get("metrics_host") == info.data.get("host"):
            raise ValueError("is the gRPC port")
        return value


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of this process.

    Args:
        argv: arguments without the program's name; the process's own if None.
        environ: the environment; the process's own if None.

    Raises SystemExit: 0 for --help and --version, 2 after listing on standard error everything that is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    environment = os.environ if environ is None else environ
    command = arguments.pop(0) if arguments and arguments[0] in ("serve", "doctor", "tune") else "serve"
    parser = _parser()
    chosen, unknown = parser.parse_known_args(arguments)
    wrong = [f"{argument}: no such option" for argument in unknown]
    try:
        settings = Settings.model_validate(_from_environment(environment) | vars(chosen) | {"command": command})
    except ValidationError as error:
        wrong += _violations(error)
    if wrong:
        parser.exit(2, "imagegen-server: wrong settings:\n" + "".join(f"  {line}\n" for line in wrong))
    return settings


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Returns the variables that look like settings and are none, sorted: a typing error, or another program's.

    What Kubernetes adds for a Service named imagegen is left out.
    """
    environment = os.environ if environ is None else environ
    known = {_variable(name) for group in GROUPS for name in group.model_fields}
    ours = (name for name in environment if name.startswith(PREFIX) and name not in known)
    return tuple(sorted(name for name in ours if not re.match(rf"{PREFIX}(SERVICE|PORT)_", name)))


def settings_table_markdown() -> str:
    """Returns every setting as Markdown, one table for each group."""
    parts = []
    for group in GROUPS:
        rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
        for name, field in group.model_fields.items():
            default = "" if field.default in (None, "") else f"`{str(field.default).lower()}`"
            values = (
                f" ({_metavar(field.annotation).strip('{}').replace(',', ', ')})" if _choices(field.annotation) else ""
            )
            rows.append(f"| `{_flag(name)}` | `{_variable(name)}` | {default} | {field.description}{values} |")
        parts.append(f"**{group.__doc__}**\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _parser() -> argparse.ArgumentParser:
    """Returns a parser that leaves the checking of values to the model, so that all are checked."""
    parser = argparse.ArgumentParser(
        prog="imagegen-server",
        usage="%(prog)s [serve | doctor | tune | top | key] [options]",
        description="Serves Stable Diffusion XL over gRPC. `doctor` prints device, precision and memory plan instead, "
        "`tune` measures how the model runs fastest on this device and keeps that for the server, "
        "`top` shows in a terminal what a running server does (`top --help`), `key` makes an API key (`key --help`). "
        f"Every option can be set as a variable too: --port as {PREFIX}PORT.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    version = importlib.metadata.version("imagegen")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    for group in GROUPS:
        section = parser.add_argument_group(str(group.__doc__))
        for name, field in group.model_fields.items():
            default = "" if field.default in (None, "") else f" (default: {str(field.default).lower()})"
            text = f"{field.description}{default}".replace("%", "%%")
            if field.annotation is bool:
                section.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
            else:
                section.add_argument(_flag(name), metavar=_metavar(field.annotation), help=text)
    return parser


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings among the variables.

    A Kubernetes Service named imagegen puts IMAGEGEN_PORT=tcp://ADDRESS:PORT into the pods beside it. That is no
    setting.
    """
    values = {name: environ.get(_variable(name), "") for name in Settings.model_fields if name != "command"}
    return {name: value for name, value in values.items() if value and not value.startswith(_SERVICE_LINKS)}


def _violations(error: ValidationError) -> list[str]:
    """Returns a line for each value that is wrong."""
    lines = []
    for found in error.errors():
        name = str(found["loc"][0])
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"{_flag(name)} ({_variable(name)}): {message}; got {found['input']!r}")
    return lines


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _metavar(annotation: Any) -> str:
    """Returns what stands for a value in the help."""
    if choices := _choices(annotation):
        return "{" + ",".join(choices) + "}"
    kinds = {annotation, *get_args(annotation)}
    return next((name for kind, name in ((Path, "PATH"), (float, "X"), (int, "N")) if kind in kinds), "TEXT")


if __name__ == "__main__":
    sys.stdout.write(settings_table_markdown())
