"""The parts that exported pages and reports share: palette, templates, names, escaping."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2

MAX_NAME = 80  # characters
LARGEST = 1e15  # numbers beyond it are not shown


def render(template: str, values: dict[str, Any]) -> str:
    """Fills a jinja2 template.

    Every string that is inserted is escaped, after `visible`; only what the template marks with
    the filter `safe` is not.
    """
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_visible_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(values)


def read(room: str, name: str) -> str:
    """Returns the text of a file in the folder of a package, such as `charnn.report`."""
    return resources.files(room).joinpath(name).read_text("utf-8")


def style_sheet(*rules: str) -> str:
    """Joins the palette and layout that all pages share with a page's own rules."""
    return read(__name__, "base.css") + "".join(rules)


def source_hash(text: str) -> str:
    """Returns the Content-Security-Policy source that allows one inline script or style."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest())
    return f"'sha256-{digest.decode('ascii')}'"


def visible(text: str) -> str:
    r"""Replaces characters that are not printable by escapes such as ``\x07`` or ``\u202e``.

    Newlines, tabs and no-break spaces stay. A surrogate that stands for a byte that is not UTF-8
    is shown as that byte.
    """
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else _escape(c) for c in text)


def plain_name(name: str) -> str:
    """Returns a name on one line of at most `MAX_NAME` characters, never empty."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name[:MAX_NAME]).strip() or "charnn"


def level(value: float, steps: tuple[float, ...]) -> int:
    """Returns the number of `steps` that a value reaches."""
    return sum(value >= step for step in steps)


def find_number(info: Any, *keys: str) -> float | None:
    """Returns the number at nested keys of untrusted JSON, from 0 to `LARGEST`, or None."""
    value = find_value(info, *keys)
    return float(value) if type(value) in (int, float) and 0 <= value <= LARGEST else None


def find_value(info: Any, *keys: str) -> Any:
    """Returns the value at nested keys of untrusted JSON, or None."""
    for key in keys:
        info = info.get(key) if isinstance(info, dict) else None
    return info


def _visible_value(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogate escape of a byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
