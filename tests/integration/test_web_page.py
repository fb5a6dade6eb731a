"""The page of client/examples/web in a real browser, served by a real Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.http_edge.envoy import Envoy
from support.browser import Browser, browser
from support.clients.liar import Liar
from support.http_edge import in_front_of, served_over_http
from support.live_server import LiveServer
from support.scripted_service import ScriptedService, error_info, refuse, retry_info, serving
from support.waiting import eventually

SCRIPT = '{"evaluation": 0.01}'
SLOW = "a cat " + " ".join(f"{{base:stall=0.1@{step}}}" for step in range(50))

WATCH_THE_ALERT = """
    window.told = 0
    const everything = {subtree: true, childList: true, characterData: true}
    new MutationObserver(() => { window.told += 1 }).observe(document.getElementById('alert'), everything)
"""


@pytest.fixture(scope="module")
def server_and_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Envoy, Browser]]:
    """A server on the fake model, Envoy, and a browser."""
    directory = tmp_path_factory.mktemp("page")
    with browser(directory) as window, served_over_http(directory, "--fake-script", SCRIPT) as (server, edge):
        yield server, edge, window


@pytest.fixture
def server(server_and_browser: tuple[LiveServer, Envoy, Browser]) -> LiveServer:
    return server_and_browser[0]


@pytest.fixture
def window(server_and_browser: tuple[LiveServer, Envoy, Browser]) -> Browser:
    """The browser's window, for pages of other servers."""
    return server_and_browser[2]


@pytest.fixture
def page(server_and_browser: tuple[LiveServer, Envoy, Browser]) -> Iterator[Browser]:
    """The page, loaded anew; it must not complain on the console."""
    _, edge, window = server_and_browser
    window.open(f"{edge.url}/")
    window.wait_for("document.getElementById('model').textContent === 'fake'")
    yield window
    assert window.complaints() == []


def fill(page: Browser, name: str, value: str) -> None:
    """Types a value into a field of the form."""
    page.run("document.querySelector('#form').elements[arguments[0]].value = arguments[1]", name, value)


def test_progress_previews_and_the_image(page: Browser) -> None:
    """Steps are counted, previews come, and the image is there at the end with what made it."""
    fill(page, "seed", "7")
    page.click("#generate")
    page.wait_for("!document.getElementById('badge').hidden")
    page.wait_for("/^Base, step \\d+ of 50/.test(document.getElementById('status').textContent)")
    page.wait_for("document.getElementById('frame').dataset.state === 'done'")
    assert page.run("const i = document.getElementById('image'); return [i.naturalWidth, i.naturalHeight]") == [
        1024,
        1024,
    ]
    facts = page.text("#facts")
    assert "50 base + 30 refiner" in facts
    assert "\n7\n" in facts
    assert "…, checked" in facts
    assert page.text("#status") == "Done."
    assert page.run("return document.getElementById('badge').hidden") is True


def test_a_refusal_is_told_beside_its_field(page: Browser) -> None:
    """The server's violations are at their fields, which screen readers hear of as well."""
    fill(page, "prompt", " ")
    page.click("#generate")
    page.wait_for("document.getElementById('prompt').getAttribute('aria-invalid') === 'true'")
    assert "must not be blank" in page.text("#prompt-error")
    assert page.text("#alert strong") == "The request is not right"
    assert page.run("return document.activeElement.id") == "prompt"


def test_a_failure_is_told(page: Browser) -> None:
    """What goes wrong on the device ends in an alert, and the form can be used again."""
    fill(page, "prompt", "a cat {base:nan@30}")
    page.click("#generate")
    page.wait_for("!document.getElementById('alert').hidden")
    assert "NUMERIC" in page.text("#alert")
    assert page.run("return document.getElementById('generate').disabled") is False


def test_a_hash_that_is_not_checked_is_told_as_such(page: Browser) -> None:
    """Browsers offer SHA-256 to pages on https and on the same machine; here the page is told that it is not."""
    page.run("Object.defineProperty(window, 'isSecureContext', {value: false})")
    page.click("#generate")
    page.wait_for("document.getElementById('frame').dataset.state === 'done'")
    assert "…, not checked: " in page.text("#facts")


def test_a_damaged_image_is_told_and_not_offered(window: Browser) -> None:
    """The page compares the file with the hash that was announced."""
    with serving(Liar()) as liar, in_front_of(liar.target) as edge:
        window.open(f"{edge.url}/")
        fill(window, "prompt", "wrong hash")
        window.click("#generate")
        window.wait_for("!document.getElementById('alert').hidden")
    assert window.text("#alert strong") == "The image arrived damaged"
    assert window.run("return document.getElementById('download').hidden") is True
    assert window.text("#facts") == ""


def test_a_wait_is_counted_where_nobody_has_to_listen(window: Browser) -> None:
    """The alert says once how long to wait, and is not written to again."""

    def full(_: pb.GenerateImageRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateImageResponse]:
        refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error_info("QUEUE_FULL"), retry_info(30_000))

    service = ScriptedService()
    service.script = full
    with serving(service), in_front_of(service.target) as edge:
        window.open(f"{edge.url}/")
        window.click("#generate")
        window.wait_for("!document.getElementById('alert').hidden")
        window.run(WATCH_THE_ALERT)
        window.wait_for("document.getElementById('again').textContent === 'Try again in 28 s.'")
    assert "Try again in 30 s." in window.run("return document.getElementById('alert').textContent")
    assert window.run("return window.told") == 0


def test_cancel_stops_the_device(server: LiveServer, page: Browser) -> None:
    """The button ends the call, and the server hears it."""
    before = server.metrics().total("imagegen_request_duration_seconds_count", outcome="cancelled")
    fill(page, "prompt", SLOW)
    page.click("#generate")
    page.wait_for("/^Base, step/.test(document.getElementById('status').textContent)")
    page.click("#cancel")
    page.wait_for("document.getElementById('status').textContent.startsWith('Cancelled')")

    def cancelled() -> bool:
        return server.metrics().total("imagegen_request_duration_seconds_count", outcome="cancelled") == before + 1

    eventually(cancelled, "the generation goes on")


def test_nothing_is_left_of_a_browser_whose_driver_died(tmp_path: Path) -> None:
    """The block fails, since its session cannot be ended, but ends what it began."""
    us = psutil.Process()
    before = us.children(recursive=True)
    begun: list[psutil.Process] = []

    def lose_the_driver() -> None:
        with browser(tmp_path):
            begun.extend(each for each in us.children(recursive=True) if each not in before)
            next(each for each in begun if each.name() == "chromedriver").kill()

    with pytest.raises(OSError, match=r"refused|reset|closed"):
        lose_the_driver()
    assert len(begun) > 1

    def ended(each: psutil.Process) -> bool:
        return not each.is_running() or each.status() == psutil.STATUS_ZOMBIE

    eventually(lambda: all(map(ended, begun)), lambda: f"{[each for each in begun if not ended(each)]} go on")


def test_every_field_has_a_label_and_nothing_is_wider_than_a_phone(page: Browser) -> None:
    """What a person without a mouse, without sight, or with a small screen needs."""
    unnamed = "return [...document.querySelectorAll('input, textarea')].filter(e => !e.labels.length).map(e => e.id)"
    assert page.run(unnamed) == []
    page.resize(500, 900)
    assert page.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
