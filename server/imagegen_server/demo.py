"""Shows the whole service to a newcomer: server, prompt, progress, image, metrics. `python -m imagegen_server.demo`.

Nothing here is special: it starts `imagegen-server` and `imagegen generate` as anybody would.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from imagegen_server.child import end_on_signals
from imagegen_server.local import ServerDidNotStart, Serving, serving

SHOWN = (
    "imagegen_request_duration_seconds_count",
    "imagegen_stage_duration_seconds_sum",
    "imagegen_stage_steps_total",
    "imagegen_images_total",
    "imagegen_image_bytes_sum",
    "grpc_server_handled_total",
    "grpc_server_msg_sent_total",
)
"""The metrics that are printed if they moved."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def main(prompt: str) -> int:
    """Runs the demo and returns the client's exit status.

    Raises SystemExit on SIGINT, SIGTERM and SIGHUP, after the server is stopped.
    """
    end_on_signals()
    print("1. starting the server: imagegen-server --model shapes")
    try:
        with serving("--model", "shapes") as server:
            return _show(server, prompt)
    except ServerDidNotStart as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print("5. the server has stopped")


def _show(server: Serving, prompt: str) -> int:
    print(f"   serving on {server.address} after {server.seconds:.1f} s\n")
    before = _scrape(server.metrics_port)

    image = Path("out", "demo.png")
    image.parent.mkdir(exist_ok=True)
    print(f'2. sending a prompt: imagegen generate "{prompt}" -o {image}')
    client = [sys.executable, "-m", "imagegen.cli", "generate", prompt, "-o", str(image), "--seed", "7"]
    if sys.stderr.isatty():
        client.append("--preview")
    status = subprocess.run([*client, "--server", server.address], check=False).returncode
    if status:
        print(server.log.read_text(errors="replace"), file=sys.stderr)
        return status
    print(f"\n3. the image is in {image.resolve()}\n")

    print(f"4. metrics that moved (http://127.0.0.1:{server.metrics_port}/metrics)")
    after = _scrape(server.metrics_port)
    for (name, labels), value in sorted(after.items()):
        moved = value - before.get((name, labels), 0.0)
        if name in SHOWN and moved:
            text = ",".join(f'{key}="{label}"' for key, label in labels)
            print(f"   {name}{{{text}}}  +{moved:g}")
    print()
    return 0


def _scrape(port: int) -> Samples:
    """Returns every sample of the server's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "a red circle on a blue background"))
