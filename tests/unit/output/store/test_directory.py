"""The local directory under real trouble: killed processes, a full disk, no rights, read-only mounts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_server.core import KeepFailure
from imagegen_server.output.store.directory import Directory
from imagegen_server.output.store.failures import failure_of
from support.mounts import needs_mounts, tmpfs

WRITER = """
    import hashlib, os, sys
    from pathlib import Path
    from imagegen_server.output.store.directory import Directory
    files = Directory(Path(sys.argv[1]))
    print("ready", flush=True)
    number = 0
    while True:
        data = hashlib.sha256(b"%d %d" % (os.getpid(), number)).digest() * 40_000
        files.write(hashlib.sha256(data).hexdigest() + ".png", data)
        number += 1
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that is ready."""
    Directory(tmp_path / "store").prepare()
    return tmp_path / "store"


def whole(place: Path) -> int:
    """Returns how many files are visible; each must be what its name says."""
    files = list(Directory(place).entries())
    for file in files:
        assert hashlib.sha256((place / file.name).read_bytes()).hexdigest() == file.name.partition(".")[0]
    return len(files)


def partials(place: Path) -> list[Path]:
    """Returns what is half written."""
    return list(place.glob(".*.partial"))


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a Python program."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_is_killed_while_it_writes_leaves_no_part_of_a_file_in_sight(place: Path) -> None:
    """Eight processes are killed at odd moments; what is visible is whole, and what is left over goes."""
    left = 0
    for round_ in range(4):
        writers = [child(WRITER, str(place)) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        seen = whole(place)
        while whole(place) < seen + 2 + round_:
            pass
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert whole(place) > seen
        half = len(partials(place))
        assert Directory(place).clean() == half
        assert partials(place) == []
        left += half
    assert left >= 1  # or no one was killed while it wrote


def test_what_a_living_process_writes_is_not_taken_for_left_over(place: Path) -> None:
    """Its file is locked, so that another process's start does not remove it."""
    partial = place / f".{'a' * 64}.png.1.abcd.partial"
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert Directory(place).clean() == 0
        assert partial.exists()
    assert Directory(place).clean() == 1
    assert not partial.exists()


def test_a_file_that_cannot_be_written_whole_is_not_there_at_all(place: Path) -> None:
    """A limit of the process on the size of files, as a quota would: FULL, and nothing is left behind."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failure:
            Directory(place).write("a.png", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure_of(failure.value) is KeepFailure.FULL
    assert [path.name for path in place.iterdir()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with tmpfs(tmp_path / "disk", "64k") as disk:
        yield disk


@needs_mounts
def test_a_full_disk(small_disk: Path) -> None:
    """FULL; what was there stays, nothing half written stays, and there is room again once something goes."""
    files = Directory(small_disk)
    files.write("first.png", bytes(40_000))
    with pytest.raises(OSError, match="No space left") as failure:
        files.write("second.png", bytes(40_000))
    assert failure_of(failure.value) is KeepFailure.FULL
    assert [entry.name for entry in files.entries()] == ["first.png"]
    assert partials(small_disk) == []
    assert files.delete("first.png", written_before=4e9)
    files.write("second.png", bytes(40_000))
    assert files.read("second.png") == bytes(40_000)


@needs_mounts
def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    """DENIED for writing; reading goes on."""
    with tmpfs(tmp_path / "disk", "64k") as disk:
        Directory(disk).write("first.png", b"x")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="Read-only") as failure:
            Directory(disk).write("second.png", b"x")
        assert failure_of(failure.value) is KeepFailure.DENIED
        assert Directory(disk).read("first.png") == b"x"


def test_a_directory_without_the_right_to_write(place: Path) -> None:
    """DENIED, as somebody who is not root."""
    program = """
        import os, sys
        from pathlib import Path
        from imagegen_server.output.store.directory import Directory
        from imagegen_server.output.store.failures import failure_of
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            Directory(Path(sys.argv[1])).write("a.png", b"x")
        except OSError as error:
            print(failure_of(error))
    """
    for folder in (place, *place.parents[:3]):
        folder.chmod(0o755)
    place.chmod(0o555)
    output, errors = child(program, str(place)).communicate()
    assert (output, errors) == ("denied\n", "")
    assert list(place.iterdir()) == []


def test_a_directory_that_is_gone(place: Path) -> None:
    """MISSING for writing; reading says so too, instead of that there is no such image."""
    files = Directory(place)
    place.rmdir()
    with pytest.raises(FileNotFoundError) as failure:
        files.write("a.png", b"x")
    assert failure_of(failure.value) is KeepFailure.MISSING
    with pytest.raises(OSError, match="the directory is gone"):
        files.read("a.png")
    assert not place.exists()


def test_files_are_for_their_owner_and_group(place: Path) -> None:
    """Prompts lie there."""
    Directory(place).write("a.json", b"{}")
    assert (place / "a.json").stat().st_mode & 0o007 == 0
    assert place.stat().st_mode & 0o007 == 0


def test_links_and_folders_are_no_images(place: Path) -> None:
    """Nothing outside is listed."""
    (place / "folder").mkdir()
    os.symlink("/etc/passwd", place / "link")
    assert list(Directory(place).entries()) == []
