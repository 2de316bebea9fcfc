"""The page that a predictor's server shows to browsers: plain HTML, styles and ES modules, served as they are."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import NamedTuple

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Lets a page run this server's own scripts and styles and ask this server, and nothing else."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked about each time: after another version was rolled out nobody sees half of each.
    "Cache-Control": "no-cache",
}
"""What goes with each file of the page."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class PageFile(NamedTuple):
    """One file of the page."""

    content: bytes
    type: str
    tag: str
    """Its entity tag, which changes with its content."""


@cache
def page_files() -> dict[str, PageFile]:
    """Return the files by name."""
    found = {}
    for entry in files(__package__).iterdir():
        kind = _TYPES.get(PurePosixPath(entry.name).suffix)
        if kind is not None:
            content = entry.read_bytes()
            found[entry.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found
