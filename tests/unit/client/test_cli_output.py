"""Where the command line puts images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagegen._cli_output import checked
from imagegen._cli_parser import UsageError

NOBODY = 65534


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Gives up for a while what lets root write everywhere."""
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that can be read only, with a file in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old.png").touch(mode=0o666)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_made(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For new files and for those that would be replaced, through links, and where no file is named."""
    with tempfile.TemporaryDirectory() as name:
        link = Path(name, "link.png")
        link.symlink_to(closed / "new.png")
        Path(name).chmod(0o755)
        monkeypatch.chdir(closed)
        with bound_by_permissions():
            for output in (closed / "new.png", closed / "old.png", link, Path("id.png")):
                with pytest.raises(UsageError, match="cannot be written to"):
                    checked(str(output))


def test_a_folder_that_can_be_written_to_is_taken(tmp_path: Path) -> None:
    """Whether the file is there or not."""
    (tmp_path / "old.png").touch()
    for name in ("old.png", "new.png"):
        assert checked(str(tmp_path / name)) == tmp_path / name


def test_a_device_is_asked_itself(closed: Path) -> None:
    """Nothing is made in its folder."""
    assert checked("/dev/null") == Path("/dev/null")
    pipe = closed / "pipe"
    closed.chmod(0o777)
    os.mkfifo(pipe, 0o400)
    with bound_by_permissions(), pytest.raises(UsageError, match="pipe cannot be written to"):
        checked(str(pipe))
