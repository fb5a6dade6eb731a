"""What must go from a store, as a pure question."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from imagegen_server.output.store.files import Entry
from imagegen_server.output.store.retention import SLACK, Held, Limits, look_through

NOW = 1_000_000.0


def image(number: int, age: float, size: int = 100, extension: str = "png") -> Entry:
    """Returns an image that was written `age` seconds ago."""
    name = hashlib.sha256(str(number).encode()).hexdigest()
    return Entry(name=f"{name}.{extension}", size=size, modified=NOW - age)


def beside(entry: Entry, size: int = 10) -> Entry:
    """Returns the parameters beside an image."""
    return Entry(name=f"{entry.name[:64]}.json", size=size, modified=entry.modified)


def test_the_too_old_go_with_what_lies_beside_them() -> None:
    """By age alone; the reason says so, and the bytes include the parameters."""
    old, young = image(1, 5000), image(2, 100, extension="jpg")
    held, removals = look_through([young, beside(old), old], Limits(max_age=3600, min_age=10), NOW)
    assert held == Held(images=2, bytes=210)
    assert [(gone.name, gone.reason, gone.size, gone.parameters) for gone in removals] == [
        (old.name, "age", 110, beside(old).name)
    ]


def test_the_oldest_of_too_many_bytes_go_first() -> None:
    """Down to a little below the limit, so that the next image does not begin a new sweep."""
    images = [image(number, 1000 + number) for number in range(20)]
    _, removals = look_through(images, Limits(max_bytes=1000, min_age=10), NOW)
    assert [gone.name for gone in removals] == [entry.name for entry in images[:8:-1]]
    assert {gone.reason for gone in removals} == {"bytes"}


def test_as_many_go_as_make_the_room_that_is_wanted() -> None:
    """Also where that is more than the little below the limit."""
    images = [image(number, 1000 + number) for number in range(20)]
    for wanted, left in ((0, 20), (100, 18), (500, 15), (2000, 0)):
        _, removals = look_through(images, Limits(max_bytes=2000, min_age=10), NOW, wanted=wanted)
        assert len(images) - len(removals) == left


def test_parameters_without_an_image_go_once_they_are_old_enough() -> None:
    """They are there before their image is, for a moment."""
    stray, fresh = beside(image(1, 5000)), beside(image(2, 5))
    held, removals = look_through([stray, fresh], Limits(min_age=10), NOW)
    assert held == Held(images=0, bytes=20)
    assert [gone.name for gone in removals] == [stray.name]


def test_what_cannot_be_removed_still_counts() -> None:
    """An image, and parameters without one: others go in their place."""
    images = [image(number, 1000 + number) for number in range(10)]
    stray = beside(image(99, 5000), size=500)
    stuck = {stray.name, images[9].name}
    _, removals = look_through([*images, stray], Limits(max_bytes=1000, min_age=10), NOW, stuck=stuck)
    assert [gone.name for gone in removals] == [entry.name for entry in images[8:2:-1]]


def test_what_is_not_the_stores_is_left_alone() -> None:
    """Whatever else lies there neither counts nor goes."""
    names = ("README.md", "x.png", f"{'A' * 64}.png", f"{'a' * 64}.gif", f"{'a' * 64}.png.bak", f"{'a' * 64}.png\n")
    others = [Entry(name=name, size=10**9, modified=0) for name in names]
    assert look_through(others, Limits(max_bytes=1, max_age=1, min_age=0), NOW) == (Held(), [])


@given(
    ages=st.lists(st.integers(0, 100_000), max_size=30),
    sizes=st.lists(st.integers(1, 10_000), min_size=30, max_size=30),
    max_bytes=st.none() | st.integers(1, 100_000),
    max_age=st.none() | st.integers(100, 100_000),
    min_age=st.integers(0, 100),
)
def test_for_any_store_the_promises_hold(
    ages: list[int], sizes: list[int], max_bytes: int | None, max_age: int | None, min_age: int
) -> None:
    """None that is promised goes, all that are too old go, and no more bytes go than must."""
    limits = Limits(max_bytes=max_bytes, max_age=max_age, min_age=min_age)
    entries = [image(number, age, size) for number, (age, size) in enumerate(zip(ages, sizes, strict=False))]
    held, removals = look_through(entries, limits, NOW)
    gone = {removal.name for removal in removals}
    left = [entry for entry in entries if entry.name not in gone]
    assert held.bytes == sum(entry.size for entry in entries)
    for entry in entries:
        age = NOW - entry.modified
        if age <= min_age:
            assert entry.name not in gone
        elif max_age is not None and age > max_age:
            assert entry.name in gone
    oldest_left = min((entry.modified for entry in left), default=NOW)
    assert all(entry.modified <= oldest_left for entry in entries if entry.name in gone)
    total = sum(entry.size for entry in left)
    if max_bytes is not None and total > max_bytes:
        assert all(NOW - entry.modified <= min_age for entry in left)
    by_bytes = [removal for removal in removals if removal.reason == "bytes"]
    if by_bytes and max_bytes is not None:
        assert total + by_bytes[-1].size > int(max_bytes * SLACK)
