"""One connection over HTTP: how long a request's head may be, and how long a client may take to send it.

What is in a head is kept before anybody is asked who is there, so it is bounded here and not in the application.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import time
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vitruvian.inference.problems import HEAD_TOO_LARGE, HEAD_TOO_SLOW, MALFORMED, Problem, problem_response

_log = logging.getLogger(__name__)
MOST_HEAD_BYTES = 65_536
"""Bytes of a request's line and headers; also of the trailers after its body."""
HEAD_SECONDS = 15.0
"""How long a head may take to arrive, and how long a new connection may say nothing."""
NO_ROUTE = "none"
"""The route of what never became a request, in the metrics."""
_MOST_RESERVED = 256
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_TO_READ_A_REFUSAL = 1.0
_MOST_UNHEARD_BYTES = 1_000_000
"""Bytes that a client may still send before it reads that it was refused."""
_last_line = -_SECONDS_BETWEEN_LINES


Count = Callable[[str, int, float], None]
"""Is told of an answer: its route, its status, and the seconds that it took."""


class Connection(HttpToolsProtocol):
    """Uvicorn's, with bounds; each costs a request no more than a few attributes."""

    _count: Count
    """Is told of answers to what never became a request; the application tells of all others."""
    _loose = 0
    """Bytes that came since the last that were a whole head's or a body's."""
    _between = False
    """Whether a request has come whole, and of the next one nothing yet."""
    _since: float | None = None
    """When the wait for a head began, in the loop's seconds; None: nothing is waited for."""
    _refused = False
    _look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        bound = transport.get_extra_info("socket")
        # The kernel gives the lowest number that is free, so all below it are in use, whatever for.
        if bound is not None and bound.fileno() >= most_descriptors():
            _tell_that_none_is_left()
            self._refused = True
            transport.abort()
            return
        self._since = self.loop.time()
        self._look_again = self.loop.call_later(HEAD_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._loose += len(data)
        if self._refused:
            if self._loose > _MOST_UNHEARD_BYTES:
                self.transport.abort()
            return
        if self._between:
            self._between = False
            self._since = self.loop.time()
        super().data_received(data)
        if self._loose > MOST_HEAD_BYTES:
            self._refuse(_too_large())

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        # Exactly only where a body that came with it, or a head that is too large, makes it necessary.
        if self._loose > MOST_HEAD_BYTES and self._head_bytes() > MOST_HEAD_BYTES:
            self._refuse(_too_large())
            return
        self._loose, self._since = 0, None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose, self._between = 0, True
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(Problem(MALFORMED, "this isn't HTTP/1.1"))

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        left = HEAD_SECONDS if self._since is None else self._since + HEAD_SECONDS - now
        if left > 0 or self._answers:
            self._look_again = self.loop.call_later(left if left > 0 else HEAD_SECONDS, self._look)
        elif self._loose:
            self._refuse(Problem(HEAD_TOO_SLOW, f"a head has to arrive within {HEAD_SECONDS:g} s"))
        else:
            # Who has said nothing expects no answer.
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, and read no more; once."""
        if self._refused:
            return
        self._refused = True
        broken = self.cycle if self._answers else None
        if self.transport.is_closing() or (broken is not None and (broken.response_started or self.pipeline)):
            # An answer amid another would be taken for a part of it, and one before another for that.
            self.transport.close()
            return
        if broken is not None:
            # Whoever answers the request is told that nobody waits for that any more, and counts it.
            broken.disconnected = True
            broken.message_event.set()
        request_id = f"{random.getrandbits(128):032x}"
        response = problem_response(problem, "/", request_id)
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        # Before it leaves, as all answers are counted.
        if broken is None:
            self._count(NO_ROUTE, problem.kind.status, 0.0 if self._since is None else self.loop.time() - self._since)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[problem.kind.status], lines, bytes(response.body)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # Closed while something is unread, the kernel would take the answer back, too.
        self.loop.call_later(_SECONDS_TO_READ_A_REFUSAL, self.transport.close)


def counted_by(count: Count) -> type[Connection]:
    """Return the connections of one server, which tell `count` of what they answer themselves."""

    class Counted(Connection):
        _count = staticmethod(count)

    return Counted


def _too_large() -> Problem:
    return Problem(HEAD_TOO_LARGE, f"the request's line and headers may have {MOST_HEAD_BYTES} bytes together")


def most_descriptors() -> int:
    """Return the descriptor from which on connections are refused, so that files can still be opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 31
    return soft - min(_MOST_RESERVED, soft // 8)


def _tell_that_none_is_left() -> None:
    global _last_line
    now = time.monotonic()
    if now - _last_line >= _SECONDS_BETWEEN_LINES:
        _last_line = now
        _log.warning(
            "connections are refused: %d files and connections are open already; raise the limit (ulimit -n)",
            most_descriptors(),
        )
