"""Reaching a Ray cluster, or starting one of this process's own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitruvian.errors import TrainingError

_FILES = 65536
_SECONDS_TO_ANSWER = 10.0
# How a connection begins, with settings that are all the defaults; they are answered by settings (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

_nodes: list[Any] = []
"""What was started here and runs still."""


def start_ray(workers: int, log: Path) -> None:
    """Reach the Ray cluster that RAY_ADDRESS names, or start one on this machine with room for so many workers.

    Raises `TrainingError` where the cluster can't be reached, or asks for a token.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if address and not _answers(address):
        # Ray itself would ask for ever, and heed no signal.
        raise _unreached(address)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        started = ray.init(address or _head(workers), logging_level=logging.ERROR, log_to_driver=False)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process before anything is saved.
            signal.signal(signal.SIGTERM, terminated)
        with open(log, "a") as file:
            file.write(f"Ray {ray.__version__} at {started.address_info['address']}\n")
            file.write(f"logs of its workers: {started.address_info['session_dir']}/logs\n")
    except (ConnectionError, RuntimeError, ValueError) as e:
        end_ray()
        raise _unreached(address, e) from e
    except BaseException:
        end_ray()
        raise


def end_ray() -> None:
    """Leave the cluster, and end it where it was started here."""
    import ray

    try:
        ray.shutdown()
    finally:
        while _nodes:
            node = _nodes.pop()
            node.destroy_external_storage()
            node.kill_all_processes(check_alive=False, allow_graceful=True)


def _head(workers: int) -> str:
    """Start what makes a cluster, with room for so many workers, and return its address.

    `ray.init` would do so too, but with two more processes, and at the same port each time: where that isn't free yet
    after a run before, it waits for four seconds.
    """
    from ray._common.usage import usage_lib
    from ray._private.authentication.authentication_token_setup import (
        enable_token_auth_by_default,
        ensure_token_if_auth_enabled,
    )
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    # It listens to the network: only who knows the token is answered.
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled(None, create_token_if_missing=True)
    usage_lib.set_usage_stats_enabled_via_env_var(False)
    _allow_files()
    asked = RayParams(
        # More workers than cores share them.
        num_cpus=max(os.cpu_count() or 1, workers),
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        dashboard_agent_listen_port=None,
    )
    # It ends with this process should that be killed. Of any other than `ray.init`'s it would tell Ray's makers.
    node = Node(asked, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True)
    _nodes.append(node)
    address: str = node.gcs_address
    return address


def _allow_files() -> None:
    """Let Ray's processes open as many files as `ray.init` lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
