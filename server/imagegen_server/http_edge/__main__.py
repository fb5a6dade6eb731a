"""Serves HTTP on this machine: a server on the embedded model, and Envoy in front of it. `make http` runs it.

Both end with this process.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final

from imagegen_server.child import end_on_signals
from imagegen_server.http_edge.configure import Edge
from imagegen_server.http_edge.envoy import Envoy, EnvoyDidNotStart, envoy, is_taken, program
from imagegen_server.local import ServerDidNotStart, Serving, serving

COULD_NOT_START: Final = 3
"""Exit status if the port is taken, or the server or Envoy does not start, as imagegen-server's own."""
EXAMPLE: Final = """\
curl -X POST {url}/api/media/generate-image -H "Content-Type: application/json" \\
  -d '{{"prompt": "a red circle on a blue background", "use_generation": true, "use_refinement": true,
       "num_inference_steps": 50, "guidance_scale": 8.0}}'"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it with the arguments, the process's own if None; returns the exit status once one of the two has ended.

    Raises SystemExit on SIGINT, SIGTERM and SIGHUP, after both are stopped.
    """
    options = _parser().parse_args(argv)
    end_on_signals()
    try:
        if is_taken(options.port):
            raise EnvoyDidNotStart(f"port {options.port} is taken; choose another: make http PORT={options.port + 1}")
        program()  # said before a model is loaded for nothing
        print(f"starting imagegen-server --model {options.model}, and Envoy …", flush=True)
        return _serve(options.port, options.model)
    except (ServerDidNotStart, EnvoyDidNotStart) as error:
        print(f"http: {error}", file=sys.stderr)
        return COULD_NOT_START


def _serve(port: int, model: str) -> int:
    with contextlib.ExitStack() as started:
        folder = started.enter_context(tempfile.TemporaryDirectory(prefix="imagegen-http-"))
        store = (
            "--store",
            folder,
            "--store-max-bytes",
            "1GB",
            "--images-port",
            "0",
            "--image-url-base",
            f"http://localhost:{port}/images",
        )
        server = started.enter_context(serving("--model", model, *store))
        images = f"127.0.0.1:{server.images_port}"
        behind = Edge(listen=f"127.0.0.1:{port}", servers=[server.address], images=[images], health_interval=1.0)
        edge = started.enter_context(envoy(behind))
        _show(server, edge)
        while True:
            time.sleep(0.5)
            for name, process, log in (("the server", server.process, server.log), ("Envoy", edge.process, edge.log)):
                if process.poll() is not None:
                    print(f"http: {name} has ended:\n{log.read_text(errors='replace')}", file=sys.stderr)
                    return 1


def _show(server: Serving, edge: Envoy) -> None:
    url = f"http://localhost:{edge.port}"
    example = EXAMPLE.format(url=url).replace("\n", "\n    ")
    print(
        f"serving after {server.seconds:.1f} s:\n\n"
        f"  page    {url}/\n"
        f"  JSON    {url}/api/media/generate-image\n"
        f"  models  {url}/api/media/models\n"
        f"  health  {url}/healthz\n"
        f"  gRPC    localhost:{edge.port}, gRPC-Web included\n\n"
        f"Ask for an image:\n\n    {example}\n\n"
        "Images are kept until this ends. docs/http.md is the guide. Ctrl-C stops everything.",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imagegen_server.http_edge",
        description="Serves HTTP/JSON, gRPC-Web and a page on this machine: a server behind Envoy.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="where to listen (default: %(default)s)")
    parser.add_argument("--model", default="shapes", metavar="NAME", help="model profile (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
