"""When the server's certificate ends, read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from imagegen_server.telemetry import metrics as m


class CertificateCollector(Collector):
    """Shows the end of the certificate in use."""

    def __init__(self, expiry: Callable[[], float]) -> None:
        """Args: expiry: returns Unix time; called from the threads of scrapes; must not block."""
        self._expiry = expiry

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yields the name, without reading anything."""
        yield GaugeMetricFamily(m.CERTIFICATE_EXPIRY.name, m.CERTIFICATE_EXPIRY.help)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the time."""
        yield GaugeMetricFamily(m.CERTIFICATE_EXPIRY.name, m.CERTIFICATE_EXPIRY.help, value=self._expiry())
