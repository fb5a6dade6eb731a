"""A module that stands where pynvml is: cards, their troubles, and a driver that comes and goes."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass(slots=True)
class Card:
    """One GPU, in NVML's units. `fail` maps a function, or a function and its argument, to the status it raises."""

    uuid: str
    name: str = "NVIDIA Card"
    mig: int = 0
    used: int = 5_000
    total: int = 9_000
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    """Process ids and bytes."""
    utilization: tuple[int, int] = (50, 25)
    temperature: int = 61
    slowdown: int = 90
    milliwatts: int = 250_000
    limit_milliwatts: int = 350_000
    megahertz: dict[int, int] = field(
        default_factory=lambda: {pynvml.NVML_CLOCK_SM: 1_700, pynvml.NVML_CLOCK_MEM: 2_600}
    )
    millijoules: int = 7_000_000
    violation_ns: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(6), 0))
    ecc: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    """By error type: corrected, uncorrected."""
    remap_pending: int = 0
    remap_failed: int = 0
    lost: bool = False
    hidden: bool = False
    """Left out by connections that are made from now on."""
    fail: dict[Any, int] = field(default_factory=dict)


class FakeNvml(SimpleNamespace):
    """A driver with cards. `fail` maps a function to the status it raises for every card.

    As with the real one, nothing works outside of a connection, and handles and events end with it.
    """

    def __init__(self, *cards: Card) -> None:
        known = {name: getattr(pynvml, name) for name in dir(pynvml) if name.startswith(("NVML_", "nvmlEventType"))}
        super().__init__(**known)
        self.NVMLError = pynvml.NVMLError
        self.cards = list(cards)
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.opened = self.closed = 0
        self.hold = ""
        """The function that does not return before `release` is set."""
        self.waiting, self.release = threading.Event(), threading.Event()
        self.queue: deque[tuple[Card, int, int]] = deque()
        """Events: card, type, data."""
        self._shown: list[Card] = []
        self._registered: dict[int, set[str]] = {}

    def report(self, card: Card, xid: int, kind: int = pynvml.nvmlEventTypeXidCriticalError) -> None:
        """Queues an event."""
        self.queue.append((card, kind, xid))

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name, as below
        self._enter("nvmlInit")
        self.opened += 1
        self._shown = [card for card in self.cards if not card.hidden]

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._enter("nvmlShutdown")
        self.closed += 1
        self._shown = []
        self._registered.clear()

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._enter("nvmlSystemGetDriverVersion")
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._enter("nvmlDeviceGetCount")
        return len(self._shown)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        self._enter("nvmlDeviceGetHandleByIndex", card=self._shown[index] if self._shown else None)
        return self._handle(index)

    def nvmlEventSetCreate(self) -> int:  # noqa: N802
        self._enter("nvmlEventSetCreate")
        self._registered[len(self._registered)] = set()
        return len(self._registered) - 1

    def nvmlEventSetFree(self, events: int) -> None:  # noqa: N802
        self._enter("nvmlEventSetFree")
        del self._registered[events]
        self.queue.clear()  # what nobody waited for is not told any more

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: int) -> None:  # noqa: N802
        card = self._card(handle)
        self._enter("nvmlDeviceRegisterEvents", card=card)
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        self._registered[events].add(card.uuid)

    def nvmlEventSetWait_v2(self, events: int, milliseconds: int) -> Any:  # noqa: N802
        assert 0 < milliseconds <= 10, "the other readings wait for this"
        while self.queue and self.queue[0][0].uuid not in self._registered[events]:
            self.queue.popleft()
        if not self.queue:
            self._enter("nvmlEventSetWait_v2")
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        card, kind, data = self.queue.popleft()
        return SimpleNamespace(device=self._handle(self._shown.index(card)), eventType=kind, eventData=data)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Returns a function of NVML about a card."""
        if name not in ANSWERS:
            raise AttributeError(name)

        def call(handle: Any, *arguments: int) -> Any:
            card = self._card(handle)
            self._enter(name, arguments, card)
            return ANSWERS[name](card, *arguments)

        return call

    def _enter(self, name: str, arguments: Sequence[int] = (), card: Card | None = None) -> None:
        self.calls.append(name)
        if name == self.hold:
            self.waiting.set()
            self.release.wait()
        if name in self.fail:
            raise pynvml.NVMLError(self.fail[name])
        if card is not None and card.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        for key in (name, (name, *arguments)):
            if card is not None and key in card.fail:
                raise pynvml.NVMLError(card.fail[key])

    def _handle(self, index: int) -> Any:
        return ctypes.cast(ctypes.c_void_p(0x1000 + index), pynvml.c_nvmlDevice_t)

    def _card(self, handle: Any) -> Card:
        if not self._shown:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        return self._shown[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 0x1000]


def _processes(card: Card) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.processes]


def _ecc(card: Card, kind: int, counter: int) -> int:
    assert counter == pynvml.NVML_VOLATILE_ECC
    return card.ecc[kind]


def _temperature(card: Card, sensor: int) -> int:
    assert sensor == pynvml.NVML_TEMPERATURE_GPU
    return card.temperature


def _threshold(card: Card, threshold: int) -> int:
    assert threshold == pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    return card.slowdown


ANSWERS: dict[str, Callable[..., Any]] = {
    "nvmlDeviceGetUUID": lambda card: card.uuid,
    "nvmlDeviceGetName": lambda card: card.name,
    "nvmlDeviceGetMigMode": lambda card: [card.mig, card.mig],
    "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(
        used=card.used, total=card.total, free=card.total - card.used
    ),
    "nvmlDeviceGetComputeRunningProcesses": _processes,
    "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(gpu=card.utilization[0], memory=card.utilization[1]),
    "nvmlDeviceGetTemperature": _temperature,
    "nvmlDeviceGetTemperatureThreshold": _threshold,
    "nvmlDeviceGetPowerUsage": lambda card: card.milliwatts,
    "nvmlDeviceGetEnforcedPowerLimit": lambda card: card.limit_milliwatts,
    "nvmlDeviceGetClockInfo": lambda card, clock: card.megahertz[clock],
    "nvmlDeviceGetTotalEnergyConsumption": lambda card: card.millijoules,
    "nvmlDeviceGetViolationStatus": lambda card, policy: SimpleNamespace(
        referenceTime=1, violationTime=card.violation_ns[policy]
    ),
    "nvmlDeviceGetTotalEccErrors": _ecc,
    "nvmlDeviceGetRemappedRows": lambda card: (0, 0, card.remap_pending, card.remap_failed),
}


def mig_card(uuid: str) -> Card:
    """A divided card, seen from a container: its instances have the readings, and it keeps them from others."""
    refused = dict.fromkeys(
        ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses"), pynvml.NVML_ERROR_NO_PERMISSION
    )
    missing = dict.fromkeys(("nvmlDeviceGetUtilizationRates",), pynvml.NVML_ERROR_NOT_SUPPORTED)
    return Card(uuid=uuid, mig=1, fail={**refused, **missing})


def consumer_card(uuid: str) -> Card:
    """A card without ECC, remapping, MIG and violation times."""
    missing = (
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetViolationStatus",
    )
    return Card(uuid=uuid, fail=dict.fromkeys(missing, pynvml.NVML_ERROR_NOT_SUPPORTED))
