"""A real browser without a window: Chromium through its WebDriver, spoken by hand (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from imagegen_server.child import free_port, ready_child
from support.needs import lacking

SETTLE_SECONDS: Final = 60.0
"""How long `Browser.wait_for` waits before it calls something a failure."""
END_SECONDS: Final = 10.0
"""How long chromedriver may take to end before it is killed."""
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One window. Made by `browser`."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        """Loads a page."""
        self._post("/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Returns what the body of a function returns in the page."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, expression: str) -> Any:
        """Returns what an expression is in the page once it is true there. Raises AssertionError if it never is."""
        began = time.monotonic()
        while not (value := self.run(f"return {expression}")):
            if time.monotonic() - began > SETTLE_SECONDS:
                raise AssertionError(f"{expression} does not come to hold in:\n{self.text()}")
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Clicks the element as a person does: it must be seen and not be covered."""
        found = self._post("/element", {"using": "css selector", "value": selector})
        self._post(f"/element/{next(iter(found.values()))}/click", {})

    def text(self, selector: str = "body") -> str:
        """Returns the text that is shown of an element."""
        shown: str = self.run("return document.querySelector(arguments[0]).innerText", selector)
        return shown

    def resize(self, width: int, height: int) -> None:
        """Makes the window so many pixels wide and high."""
        self._post("/window/rect", {"width": width, "height": height})

    def scheme(self, name: str) -> None:
        """Makes the page prefer `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": name}
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        self._post("/goog/cdp/execute", command)

    def picture(self) -> bytes:
        """Returns what is seen, as PNG."""
        return base64.b64decode(_call("GET", f"{self._session}/screenshot"))

    def complaints(self) -> list[str]:
        """Returns what the console was told of errors since it was last asked."""
        lines = self._post("/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def _post(self, path: str, body: object) -> Any:
        return _call("POST", self._session + path, body)


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Starts Chromium with a new profile below a directory. Skips the test if there is none; fails it under CI."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        lacking("needs Debian's packages chromium and chromium-driver")
    address = f"http://127.0.0.1:{(port := free_port())}"
    with (
        tempfile.TemporaryDirectory(dir=directory) as profile,
        contextlib.ExitStack() as afterwards,
        ready_child(
            [driver, f"--port={port}"],
            directory / "chromedriver.log",
            name="chromedriver",
            ready=lambda: _is_ready(address),
            start_seconds=SETTLE_SECONDS,
            stop_seconds=END_SECONDS,
            failure=AssertionError,
            start_new_session=True,
        ) as driving,
    ):
        afterwards.callback(_end_session_of, driving)
        options = {"binary": program, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = _call("POST", f"{address}/session", {"capabilities": {"alwaysMatch": capabilities}})
        session = f"{address}/session/{made['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _call("DELETE", session)


def _end_session_of(driver: subprocess.Popen[bytes]) -> None:
    """Ends Chromium, which chromedriver leaves to itself if its session has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)


def _is_ready(address: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(_call("GET", f"{address}/status")["ready"])
    return False


def _call(method: str, url: str, body: object = None) -> Any:
    """Returns the value of an answer. Raises AssertionError with WebDriver's own words if it is an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode(errors="replace")) from error
