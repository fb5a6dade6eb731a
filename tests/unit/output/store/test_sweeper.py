"""The thread that sweeps: again and again, and each time it says how that went."""

from __future__ import annotations

from pathlib import Path

from imagegen_server.output import store
from support.store import Ledger
from support.waiting import eventually


class Sometimes(store.ImageStore):
    """A store that cannot be swept while it is broken."""

    broken = True

    def sweep(self, wanted: int = 0) -> store.Held:
        """Fails, or sweeps."""
        if self.broken:
            raise PermissionError("not yours")
        return super().sweep(wanted)


def test_each_sweep_says_how_it_went(tmp_path: Path) -> None:
    """The first one is at once. A failure ends nothing: sweeps go on, and succeed once they can."""
    ledger = Ledger()
    images = Sometimes(store.open_files(str(tmp_path)), store.Limits(), ledger)
    sweeper = store.Sweeper(images, ledger, 0.01)
    sweeper.start()
    eventually(lambda: len(ledger.sweep_errors) > 1, "sweeps did not go on")
    assert ledger.sweeps == 0
    assert {type(error) for error in ledger.sweep_errors} == {PermissionError}
    images.broken = False
    eventually(lambda: ledger.sweeps > 1, "no sweep succeeded")
    failed = len(ledger.sweep_errors)
    eventually(lambda: ledger.sweeps > 3, "sweeps did not go on")
    assert len(ledger.sweep_errors) == failed
    sweeper.stop()
