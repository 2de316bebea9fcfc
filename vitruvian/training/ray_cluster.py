"""Reaching a Ray cluster, or starting one of this process's own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitruvian.errors import Terminated, TrainingError

_SECONDS_TO_ANSWER = 10.0
# How a connection begins, with settings that are all the defaults; they are answered by settings (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def start_ray(workers: int, log: Path) -> bool:
    """Reach the Ray cluster that RAY_ADDRESS names, or start one on this machine with room for so many workers.

    Returns whether it started one, which ends with the connection; raises `TrainingError` where the cluster can't be
    reached, or asks for a token, and `Terminated` where SIGTERM comes meanwhile.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if address and not _answers(address):
        # Ray itself would ask for ever, and heed no signal.
        raise _unreached(address)
    # More workers than cores share them; 'local' keeps out of any cluster that happens to run here.
    own = {"num_cpus": max(os.cpu_count() or 1, workers), "include_dashboard": False}
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        started = ray.init(
            address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else own)
        )
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise _unreached(address, e) from e
    except SystemExit as e:
        # What Ray makes of SIGTERM.
        raise Terminated("ended by SIGTERM while Ray started", hint="run the same command again to go on") from e
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process before anything is saved.
            signal.signal(signal.SIGTERM, terminated)
    with open(log, "a") as file:
        file.write(f"Ray {ray.__version__} at {started.address_info['address']}\n")
        file.write(f"logs of its workers: {started.address_info['session_dir']}/logs\n")
    return not address


def _answers(address: str) -> bool:
    """Return whether what Ray speaks, HTTP/2, is spoken at HOST:PORT; other addresses are left to Ray."""
    host, separator, port = address.rpartition(":")
    if not separator or "/" in address or not port.isdecimal():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0", "false", "False"):
                return True
            connection.settimeout(_SECONDS_TO_ANSWER)
            connection.sendall(_PREFACE)
            return connection.recv(9, socket.MSG_WAITALL)[3:4] == b"\x04"
    except (OSError, OverflowError):
        return False


def _unreached(address: str | None, error: BaseException | None = None) -> TrainingError:
    where = f"RAY_ADDRESS={address}" if address else "Ray"
    # In the text of an error that stands behind others only.
    if error and "InvalidAuthToken" in "".join(traceback.format_exception(error)):
        hint = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token holds another cluster's"
        return TrainingError("the cluster doesn't answer without its token", where=where, hint=hint)
    hint = "start one with 'ray start --head' and name it by HOST:PORT, or leave RAY_ADDRESS out to have one of its own"
    return TrainingError("there is no Ray cluster", where=where, hint=hint)


@contextlib.contextmanager
def logged_to(log: Path) -> Iterator[None]:
    """Send the log lines of Ray's driver side to a file instead of the terminal."""
    # Its import sets up the loggers that are redirected here.
    import ray.train  # noqa: F401
    from ray._private import worker as printing

    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray", "ray.train", "ray.data")]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False

    def write(told: dict[str, Any], **_: Any) -> None:
        loggers[0].error("%s: %s", told.get("pid"), "\n".join(told.get("lines", ())))

    # Of processes that end it tells by print, in many words.
    printed, printing.print_to_stdstream = printing.print_to_stdstream, write
    try:
        yield
    finally:
        printing.print_to_stdstream = printed
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
