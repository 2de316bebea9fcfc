"""The web page that a predictor's server shows to browsers."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def page() -> tuple[bytes, str]:
    """Return the page and the content security policy that lets its own script and style run, and nothing else."""
    html = files(__package__).joinpath("index.html").read_bytes()
    policy = (
        "default-src 'none'",
        f"script-src {_sources(html, b'script')}",
        f"style-src {_sources(html, b'style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return html, "; ".join(policy)


def _sources(html: bytes, tag: bytes) -> str:
    blocks = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(block).digest()).decode() for block in blocks]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
