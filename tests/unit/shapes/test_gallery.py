"""docs/gallery.md says of its pictures what the program says that draws them."""

from __future__ import annotations

from pathlib import Path

from imagegen_server.shapes.train import gallery

PAGE = (Path(__file__).parents[3] / "docs" / "gallery.md").read_text(encoding="utf-8")


def test_the_page_has_the_text_and_the_command_of_every_sheet() -> None:
    """Defaults that a text names are the profile's, so that a profile cannot change without the page."""
    for sheet in gallery.sheets(()):
        assert f"## {sheet.title}\n\n{sheet.text}\n\n    {sheet.command}\n" in PAGE, sheet.name
