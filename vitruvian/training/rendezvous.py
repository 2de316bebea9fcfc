"""How workers find each other: rank 0 listens, all are told where, and each joins the process group by itself.

What Ray Train has for this imports torch in the driver and in the controller too, and on rank 0 before any other
worker; here torch is imported on workers only, by all of them at once.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any, Final

import ray.train
from ray.train.backend import Backend, BackendConfig

# So long rank 0 waits for the others, and each for all when they compute together: some may be saving what is large.
_LONGEST_WAIT: Final = timedelta(minutes=30)

_listening: list[socket.socket] = []
"""Where rank 0 listens until it joins: nobody can take the port meanwhile."""


class Rendezvous(BackendConfig):  # type: ignore[misc]
    """Tells every worker its rank and where rank 0 listens, by the environment variables that torchrun sets."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what Ray Train makes one of."""
        return _Rendezvous


class _Rendezvous(Backend):  # type: ignore[misc]
    # As NCCL wants it: workers of a machine see each other's GPUs.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        host, port = worker_group.execute_single(0, _listen)
        worker_group.execute(_tell, host, port)


def _listen() -> tuple[str, int]:
    host: str = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        _listening[:] = [socket.create_server((host, 0), family=family)]
    except OSError:
        # The address that others reach this machine by needn't be one that it knows of.
        _listening[:] = [socket.create_server(("", 0), family=family)]
    return host, _listening[0].getsockname()[1]


def _tell(host: str, port: int) -> None:
    context = ray.train.get_context()
    told = {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ.update({name: str(value) for name, value in told.items()})


def join(backend: str) -> None:
    """Become one of the process group's workers; it is left with the process, which nobody uses again."""
    import torch.distributed as dist

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world,
        is_master=rank == 0,
        timeout=_LONGEST_WAIT,
        master_listen_fd=_listening.pop().detach() if rank == 0 else None,
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_LONGEST_WAIT)
