"""Several processes of one training on this machine, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket


def free_port() -> int:
    """A port of this machine on which the processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def variables_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Returns the environment variables by which a process knows its place among the others."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }


def set_rank(rank: int, world_size: int, port: int) -> None:
    """Sets these variables for this process."""
    os.environ.update(variables_of(rank, world_size, port))
