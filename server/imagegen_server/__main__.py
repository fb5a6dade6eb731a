"""`imagegen-server`: serves; `doctor`, `tune`, `top` and `key` prepare and watch that, as `--help` says."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from typing import TYPE_CHECKING

from imagegen_server.device_thread import leave

if TYPE_CHECKING:
    from imagegen_server.settings import Settings

STARTUP_FAILED = 3
"""Exit status when the server cannot start; 2 is a wrong setting, 1 a lost device."""


def main() -> int:
    """Runs the command line and returns the exit status: a server that is loading still ends the process itself."""
    try:
        status = _run()
    except KeyboardInterrupt:  # before the server has handlers of its own; the other commands never have
        status = 128 + signal.SIGINT
    leave(status)
    return status


def _run() -> int:
    top = sys.argv[1:2] == ["top"]
    needed = ("prometheus_client", "rich") if top else ("pydantic", "structlog", "prometheus_client")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"imagegen-server needs its extra (missing: {', '.join(missing)}): "
            "pip install '.[server]' in a checkout of ImageGen",
            file=sys.stderr,
        )
        return STARTUP_FAILED
    # imported here, so that the bare install can say what it lacks
    if top:  # it looks at a server from outside, and has options of its own
        from imagegen_server.top import main as run_top  # noqa: PLC0415

        return run_top(sys.argv[2:])
    if sys.argv[1:2] == ["key"]:
        from imagegen_server.key import main as make_key  # noqa: PLC0415

        return make_key(sys.argv[2:])
    from imagegen_server import settings  # noqa: PLC0415
    from imagegen_server.errors import StartupError  # noqa: PLC0415

    chosen = settings.parse()
    try:
        return {"serve": _serve, "doctor": _doctor, "tune": _tune}[chosen.command](chosen)
    except StartupError as error:
        print(f"imagegen-server: {error}", file=sys.stderr)
        return STARTUP_FAILED


def _serve(chosen: Settings) -> int:
    from imagegen_server.garbage import collected_later  # noqa: PLC0415 - as below

    with collected_later():
        from imagegen_server import app, telemetry  # noqa: PLC0415 - not needed by the doctor

    telemetry.configure(chosen.log_level, chosen.log_format)
    status = asyncio.run(app.serve(chosen))
    telemetry.log_stopped(status)
    return status


def _doctor(chosen: Settings) -> int:
    from imagegen_server import models, options  # noqa: PLC0415 - not needed to complain about settings

    report = models.diagnose(chosen.model, options.model_options(chosen))
    print(report.text)
    return report.exit_status


def _tune(chosen: Settings) -> int:
    from imagegen_server import models, options  # noqa: PLC0415 - not needed to complain about settings

    written = models.tune(chosen.model, options.model_options(chosen), say=lambda line: print(line, flush=True))
    print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
