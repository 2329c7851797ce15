"""One process for each GPU, as the original's flag ``num_gpus`` asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from prunelab.errors import UserError


def start_processes(count: int, port: int, module: str, argv: Sequence[str]) -> None:
    """Become ``torchrun`` with ``count`` processes of a command; for one process nothing is done.

    Processes that torchrun has started go on as they are.

    Args:
        count: ``num_gpus``.
        port: ``ddp_sync_port``, at which they meet.
        module: the command, ``expansionnet.train``.
        argv: its arguments.

    Raises:
        UserError: torchrun has started another number of processes.
    """
    running = os.environ.get("WORLD_SIZE")
    if running is not None:
        if count not in (1, int(running)):
            raise UserError(f"num_gpus is {count}, but {running} processes run: expected {running}, or 1")
        return
    if count == 1:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    place = ["--nnodes", "1", "--nproc_per_node", str(count), "--master_port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *place, "-m", module, *argv])
