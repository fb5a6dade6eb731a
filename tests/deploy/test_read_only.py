"""The server works where the image puts it: on a root that nobody can write to, without capabilities."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.dockerfile import exec_form, read

ROOT = Path(__file__).resolve().parents[2]
CONFINE = """
set -e
mount --make-rprivate /
mount -o remount,bind,ro /
mount -t tmpfs -o size=256m,mode=1777 tmpfs "$TMPDIR"
cd "$TMPDIR"
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
"""Makes everything read-only but a fresh directory for temporary files, in a mount namespace of its own."""
PROGRAM = """
import json
from pathlib import Path
from imagegen import Client
from imagegen_server import probe
from imagegen_server.local import serving

def refused():
    try:
        Path("/var/lib/imagegen-was-here").touch()
    except OSError as error:
        return error.strerror

with serving("--model", "shapes", "--no-use-refiner") as server, Client(server.address) as client:
    image = client.generate_image("a red circle", num_inference_steps=20, use_refinement=False)
    capabilities = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())["CapEff"]
    result = {"file": image.data[:4].hex(), "probe": probe.main(["--address", server.address]),
              "capabilities": int(capabilities, 16), "refused": refused()}
print(json.dumps(result))
"""


def _can_confine() -> bool:
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    command = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -o remount,bind,ro /"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _environment(writable: Path) -> dict[str, str]:
    """Returns the image's variables; its volume and /tmp are below one directory here, and Python is this one."""
    image = read(ROOT / "deploy" / "Dockerfile")[-1]
    (volume,) = exec_form(image.one("VOLUME"))
    given = {name: value.replace(volume, f"{writable}/cache") for name, value in image.pairs("ENV").items()}
    given |= {"IMAGEGEN_HOST": "127.0.0.1", "IMAGEGEN_METRICS_HOST": "127.0.0.1", "IMAGEGEN_HEALTH_PORT": "0"}
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
    return given | kept | {"PATH": os.environ["PATH"], "TMPDIR": str(writable)}


@pytest.mark.slow
def test_it_serves_on_a_read_only_root(tmp_path: Path) -> None:
    """With the image's variables it loads the embedded base, draws, answers the probe and drains."""
    if not _can_confine():
        pytest.skip("mount namespaces cannot be made here, which takes root")
    command = ["unshare", "--mount", "sh", "-c", CONFINE, "sh", sys.executable, "-c", PROGRAM]
    found = subprocess.run(
        command, env=_environment(tmp_path), capture_output=True, text=True, check=False, timeout=240
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout.splitlines()[-1])
    assert result == {"file": "89504e47", "probe": 0, "capabilities": 0, "refused": "Read-only file system"}
