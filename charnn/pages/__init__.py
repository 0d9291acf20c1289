"""What the pages that charnn makes have in common: one palette, light and dark, and one frame."""

from __future__ import annotations

from importlib import resources


def style_sheet(own: str) -> str:
    """The style sheet of a page: what all share, then the page's `own` rules."""
    return resources.files(__name__).joinpath("base.css").read_text("utf-8") + own
