"""Files that are whole or absent."""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from imagegen import types
from imagegen._files import write_atomically


@pytest.fixture
def image() -> types.GeneratedImage:
    """An image whose file is five bytes."""
    plan = types.GenerationPlan(
        model="m",
        seed=0,
        size=types.Size(width=1, height=1),
        num_images=1,
        scheduler="S",
        stages=(),
        refiner_mode=None,
        precision="fp32",
        allowed_fallbacks=(),
        mime_type="image/png",
    )
    return types.GeneratedImage(
        request_id="id",
        image_index=0,
        data=b"bytes",
        mime_type="image/png",
        width=1,
        height=1,
        seed=0,
        sha256="",
        refined=True,
        plan=plan,
    )


@pytest.mark.parametrize("kind", [str, Path])
def test_save_writes_the_file_and_says_where(image: types.GeneratedImage, tmp_path: Path, kind: type) -> None:
    """`save` takes text or a path, writes exactly the data and leaves nothing else."""
    target = tmp_path / "out.png"
    assert image.save(kind(target)) == target
    assert target.read_bytes() == b"bytes"
    assert os.listdir(tmp_path) == ["out.png"]


def test_save_replaces_what_is_there(image: types.GeneratedImage, tmp_path: Path) -> None:
    """An existing file is replaced as a whole, even by a shorter one."""
    target = tmp_path / "out.png"
    target.write_bytes(b"something longer")
    image.save(target)
    assert target.read_bytes() == b"bytes"


def test_bytes_are_left_out_of_the_representation(image: types.GeneratedImage) -> None:
    """Printing an image does not print megabytes."""
    assert "bytes" not in repr(image).replace("size_bytes", "")


def test_the_file_obeys_the_umask(tmp_path: Path) -> None:
    """The result is as readable as any file that the user makes."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "out.png", b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out.png")]
    assert modes[0] == modes[1]


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Writing to a symbolic link replaces the file that it names, not the link."""
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """Special files are never renamed over."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"through")
    reader.join(timeout=30)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_open_pipe_can_be_named(tmp_path: Path) -> None:
    """As /dev/stdout and a shell's >(command) name one: through a link to something that has no name."""
    reading, writing = os.pipe()
    link = tmp_path / "link.png"
    link.symlink_to(f"/dev/fd/{writing}")
    for path in (Path(f"/dev/fd/{writing}"), link):
        assert write_atomically(path, b"through") == path
        assert os.read(reading, 100) == b"through"
    os.close(reading)
    os.close(writing)
    assert os.listdir(tmp_path) == ["link.png"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    """Not the temporary one, of which the user knows nothing; nor nothing, where a device is full."""
    for target in (tmp_path / "none" / "out.png", Path("/dev/full")):
        with pytest.raises(OSError, match=re.escape(str(target))) as caught:
            write_atomically(target, b"x")
        assert caught.value.filename == str(target)
        assert ".tmp" not in str(caught.value)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the file cannot take its place, the temporary one is removed and the error tells why."""
    target = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="File name too long"):
        write_atomically(target, b"x")
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a Ctrl-C while a large file is on its way to the disk."""

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "out.png", b"x")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    """Folders are not made on the way."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "out.png", b"x")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """A folder in the file's place is left alone."""
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"x")
    assert tmp_path.is_dir()


def test_a_file_that_is_there_keeps_its_permissions(image: types.GeneratedImage, tmp_path: Path) -> None:
    """What only its owner could read is not shown to others by being replaced."""
    target = tmp_path / "out.png"
    target.touch()
    target.chmod(0o640)
    image.save(target)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"bytes", 0o640)
