"""Results that stay, as the settings want them: the store, who writes to it, its retention and its port."""

from __future__ import annotations

from typing import Final, Self

from imagegen_server.engine import Keep
from imagegen_server.errors import StartupError
from imagegen_server.http_server import HttpServer
from imagegen_server.output import store
from imagegen_server.settings import StoreSettings, bracketed
from imagegen_server.telemetry import StoreListener

WRITERS: Final = 4
"""Images that are written at one time."""
WAITING: Final = 64
"""Images that may wait to be written; their bytes are in memory."""
READERS: Final = 8
"""Images that are read at one time."""


class Results:
    """What the server does with images beside sending them. Without a store: nothing."""

    def __init__(
        self,
        keeper: store.Keeper | None = None,
        sweeper: store.Sweeper | None = None,
        server: HttpServer | None = None,
        workers: tuple[store.Workers, ...] = (),
    ) -> None:
        self._keeper = keeper
        self._sweeper = sweeper
        self._server = server
        self._workers = workers

    @classmethod
    def open(cls, settings: StoreSettings, listener: StoreListener) -> Self:
        """Opens the store, and binds the images' port.

        A store that does not answer now may do so later, and the images are sent whether or not it does: that is told,
        and no reason not to start. Raises StartupError for what can never work, and for a port that cannot be bound.
        """
        if settings.store is None:
            return cls()
        files = store.open_files(settings.store)
        if settings.image_url_base == "signed" and not files.signs:
            raise StartupError(
                f"--image-url-base signed: {files.described} signs no URLs; use --images-port, or give the URL of a "
                "server that has the files"
            )
        limits = store.Limits(
            max_bytes=settings.store_max_bytes, max_age=settings.store_max_age, min_age=settings.store_min_age
        )
        listener.limited(limits.max_bytes)
        try:
            files.prepare()
        except OSError as error:
            listener.sweep_failed(error)
        images = store.ImageStore(files, limits, listener)
        writers = store.Workers(threads=WRITERS, capacity=WAITING, name="store-write")
        readers = store.Workers(threads=READERS, capacity=WAITING, name="store-read")
        server = None
        if settings.images_port is not None:
            server = _serve(settings, images, readers, listener)
        keeper = store.Keeper(images, writers, _keeper_settings(settings, server), listener)
        sweeper = store.Sweeper(images, listener, settings.store_sweep_interval)
        return cls(keeper, sweeper, server, (writers, readers))

    @property
    def keep(self) -> Keep | None:
        """What puts images into the store; None if none are kept."""
        return self._keeper

    @property
    def port(self) -> int | None:
        """The images' port; None if there is none."""
        return None if self._server is None else self._server.port

    def start(self) -> None:
        """Begins to sweep and to serve images."""
        if self._sweeper is not None:
            self._sweeper.start()
        if self._server is not None:
            self._server.start()

    def stop(self) -> None:
        """Ends all of it, without waiting for a store that hangs."""
        if self._server is not None:
            self._server.stop()
        if self._sweeper is not None:
            self._sweeper.stop()
        for workers in self._workers:
            workers.stop()


def _serve(
    settings: StoreSettings, images: store.ImageStore, readers: store.Workers, listener: StoreListener
) -> HttpServer:
    """Binds the images' port. Raises StartupError if that cannot be done."""
    host, port = settings.images_host, settings.images_port or 0

    def get(name: str) -> bytes:
        return readers.call(lambda: images.get(name), patience=settings.store_timeout)

    try:
        return HttpServer(store.images_app(get, listener), host=host, port=port, purpose="images")
    except OSError as error:
        raise StartupError(f"cannot serve images on {host}:{port}: {error.strerror}") from error


def _keeper_settings(settings: StoreSettings, server: HttpServer | None) -> store.KeeperSettings:
    """Returns what results say of where they are."""
    signed = settings.image_url_base == "signed"
    base = "" if signed else settings.image_url_base or ""
    if settings.image_url_base is None and server is not None:
        base = f"http://{bracketed(settings.images_host)}:{server.port}/images"
    return store.KeeperSettings(
        timeout=settings.store_timeout,
        url_base=base.rstrip("/"),
        signed_seconds=settings.image_url_lifetime if signed else None,
    )
