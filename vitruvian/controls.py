"""Characters that steer what shows a text, instead of being read: terminals obey escape sequences."""

from __future__ import annotations

import re
from typing import Final

# All of Unicode's control characters, its line breaks, and what turns the direction of writing.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def steers(text: str) -> bool:
    """Return whether a text holds such a character."""
    return _CONTROLS.search(text) is not None


def escaped(text: str) -> str:
    """Return a text with such characters written out, as in `\\x1b`."""
    return _CONTROLS.sub(lambda found: _written(ord(found[0])), text)


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
