"""Ports that nothing listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return one of this machine's own address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
