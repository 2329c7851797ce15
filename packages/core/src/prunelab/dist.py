"""Several processes: start-up under torchrun, averaged gradients, equal buffers, lists without duplicates.

Every function does the right thing in a single process too (mostly nothing), so a loop is written once. Small
messages travel over a gloo group of their own, on the CPU: they never wait for an accelerator, and a rank may
wait for hours there while another works. Everything here except `rank`, `world_size` and `is_main` is
collective: all ranks call it, in the same order.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.nn import Module

from prunelab.errors import UserError

T = TypeVar("T")

BUCKET_BYTES = 32 * 2**20
"""Gradients travel in pieces of about this size, so that the copy of one overlaps the transfer of another."""

_PATIENCE = timedelta(days=7)
"""How long a rank waits for a message: as long as the one-off work of another may take."""

_control: Any = None  # the gloo group of small messages, or None in a single process


def start(device: str = "auto") -> torch.device:
    """Choose this process's device and, under torchrun with more than one process, join the others.

    Args:
        device: ``auto`` (CUDA where there is one, else the CPU) or the name of a torch device. Under torchrun
            a plain ``cuda`` means the device of the local rank.

    Returns:
        The device to put models and batches on.

    Raises:
        UserError: no such device, or torchrun's variables are incomplete.
    """
    global _control
    chosen = _choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {', '.join(missing)} is not set; "
                "expected a start by torchrun, which sets all of them"
            )
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        distributed.init_process_group(backend, device_id=chosen if backend == "nccl" else None)
        atexit.register(stop)  # several runs may follow each other in one process, so none of them leaves
    if distributed.is_initialized() and _control is None:
        _control = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return chosen


def _choose_device(name: str) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    index = local_rank if device.index is None else device.index
    count = torch.cuda.device_count()
    if index >= count:
        raise UserError(f"device is {name!r} (number {index}); expected one of the {count} CUDA devices here")
    return torch.device("cuda", index)


def stop() -> None:
    """Leave the group of processes; does nothing in a single process."""
    global _control
    _control = None
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, the only process that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until all ranks have come here."""
    if world_size() > 1:
        distributed.barrier(group=_control)


def broadcast_object(value: T, source: int = 0) -> T:
    """Give every rank the ``value`` of rank ``source`` (anything that can be sent between processes)."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=source, group=_control)
    return box[0]


def reduce_max(values: Sequence[int]) -> list[int]:
    """The element-wise maximum over all ranks of a short list of whole numbers, equally long on each."""
    if world_size() == 1:
        return list(values)
    message = torch.tensor(values, dtype=torch.int64)
    distributed.all_reduce(message, op=distributed.ReduceOp.MAX, group=_control)
    return message.tolist()


def mean_over_ranks(count: torch.Tensor) -> torch.Tensor:
    """The mean of a count () over all ranks, in float64 on its device; the count itself in one process.

    A sum over this rank's part of a batch, divided by it, has gradients whose mean over the ranks is that of
    the whole batch's sum divided by the whole batch's count.
    """
    if world_size() == 1:
        return count
    total = count.detach().double()
    distributed.all_reduce(total)
    return total / world_size()


def on_main(work: Callable[[], T]) -> T:
    """Do something on rank 0 alone and give its result to all ranks; the others wait, for days if need be.

    Args:
        work: must not call anything collective.

    Raises:
        UserError: ``work`` raised it; on every rank.
        RuntimeError: elsewhere than on rank 0, where ``work`` raised anything else there.
    """
    if world_size() == 1:
        return work()
    outcome: Any = None
    if is_main():
        try:
            outcome = ("done", work())
        except BaseException as error:
            outcome = ("mistake" if isinstance(error, UserError) else "failure", str(error))
            broadcast_object(outcome)
            raise
    kind, value = broadcast_object(outcome)  # ("done", result) or what went wrong
    if kind == "mistake":
        raise UserError(value)
    if kind == "failure":
        raise RuntimeError(f"rank 0 failed: {value}")
    return value


def gather_objects(items: Sequence[T], key: Callable[[T], Hashable] | None = None) -> list[T]:
    """Join the lists of all ranks, in rank order, on every rank.

    Args:
        items: this rank's part, e.g. its results of an evaluation.
        key: what makes two items the same one, e.g. the picture's id; of several with one key the first
            stays, so that samplers that pad the last round count each sample once. Without it nothing is
            dropped.

    Returns:
        The joined list; the same on all ranks.
    """
    parts: list[Any] = [list(items)]
    if world_size() > 1:
        parts = [None] * world_size()
        distributed.all_gather_object(parts, list(items), group=_control)
    joined = [item for part in parts for item in part]
    if key is None:
        return joined
    first: dict[Hashable, T] = {}
    for item in joined:
        first.setdefault(key(item), item)
    return list(first.values())


def gather_to_main(value: T) -> list[T]:
    """The values of all ranks, in rank order, on rank 0; an empty list elsewhere."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    distributed.gather_object(value, values, dst=0, group=_control)
    return values or []


def broadcast_module(module: Module) -> None:
    """Give the parameters and buffers of ``module`` the values that rank 0 has."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor.detach(), src=0)


def sync_buffers(module: Module) -> None:
    """Make the buffers of ``module`` equal on all ranks: the mean where floating-point, else rank 0's.

    Meant for running statistics, before evaluation and saving. Equal buffers (masks) keep their exact bits:
    single precision and below is averaged in double precision.
    """
    world = world_size()
    if world == 1:
        return
    for buffer in module.buffers():
        if not buffer.is_floating_point():
            distributed.broadcast(buffer.detach(), src=0)
            continue
        total = buffer.detach().to(torch.float64, copy=True)
        distributed.all_reduce(total)
        buffer.detach().copy_(total / world)


def average_gradients(params: Iterable[torch.Tensor]) -> None:
    """Replace each ``.grad`` by its mean over all ranks; call it after backward and before clipping.

    One all-reduce per bucket of about `BUCKET_BYTES` and data type. A gradient that is missing on this rank
    counts as zero and is created if any other rank has one; a parameter without a gradient on every rank
    keeps None, so that optimizers skip it as they do in one process. All ranks hold equal bits afterwards,
    non-finite values included.

    Args:
        params: the same parameters in the same order on every rank.
    """
    world = world_size()
    if world == 1:
        return
    pending = [(bucket, *_send(bucket)) for bucket in _buckets(params)]
    for bucket, flat, work in pending:
        work.wait()
        _receive(bucket, flat, world)


def _buckets(params: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Neighbours of one data type and device, up to `BUCKET_BYTES` together; the same cut on every rank."""
    done: list[list[torch.Tensor]] = []
    filling: dict[tuple[torch.dtype, torch.device], tuple[list[torch.Tensor], int]] = {}
    for param in params:
        kind = param.dtype, param.device
        bucket, size = filling.pop(kind, ([], 0))
        bucket.append(param)
        size += param.numel() * param.element_size()
        if size >= BUCKET_BYTES:
            done.append(bucket)
        else:
            filling[kind] = bucket, size
    return done + [bucket for bucket, _ in filling.values()]


def _send(bucket: list[torch.Tensor]) -> tuple[torch.Tensor, Any]:
    """Start the sum of a bucket; its last ``len(bucket)`` values count the ranks that have each gradient."""
    pieces = []
    for param in bucket:
        if param.grad is None:
            pieces.append(torch.zeros(param.numel(), dtype=param.dtype, device=param.device))
        else:
            dense = param.grad.to_dense() if param.grad.is_sparse else param.grad
            pieces.append(dense.detach().reshape(-1))
    present = [float(param.grad is not None) for param in bucket]
    pieces.append(torch.tensor(present, dtype=bucket[0].dtype, device=bucket[0].device))
    flat = torch.cat(pieces)
    return flat, distributed.all_reduce(flat, async_op=True)


def _receive(bucket: list[torch.Tensor], flat: torch.Tensor, world: int) -> None:
    """Write a bucket's sum back as means."""
    total = flat.numel() - len(bucket)
    # The counts are read (which waits for an accelerator) only where this rank misses a gradient itself.
    misses = any(param.grad is None for param in bucket)
    counts = flat[total:].tolist() if misses else [1.0] * len(bucket)
    means = flat[:total].div_(world).split([param.numel() for param in bucket])
    for param, mean, count in zip(bucket, means, counts, strict=True):
        if param.grad is not None and not param.grad.is_sparse:
            param.grad.detach().copy_(mean.view_as(param))
        elif count > 0:
            param.grad = mean.view_as(param).clone()


class StopSignals:
    """Notes SIGTERM and SIGUSR1 instead of dying from them; a second one has its ordinary effect.

    Signals reach only the main thread; elsewhere nothing is installed.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._earlier: dict[int, Any] = {}

    def install(self) -> None:
        """Begin to note the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._earlier[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Give the signals back their earlier handlers."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()

    def _note(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name
        handler = self._earlier.pop(number, signal.SIG_DFL)
        signal.signal(number, handler)


class Agreement:
    """Lets all ranks act on what one of them knows (a signal, the time), at the same step border.

    A message at every step would cost more than it brings. Ranks therefore agree at each message on the step
    of the next one, about half a second later by rank 0's speed. In a single process there is no message at
    all.
    """

    _SECONDS = 0.5

    def __init__(self) -> None:
        self._next = 0
        self._interval = 1

    def reach(self, step: int, stop: bool, flags: int, seconds_per_step: float) -> tuple[bool, int] | None:
        """Agree at the border after ``step``; collective, and called at every border.

        Args:
            step: the same on all ranks.
            stop: whether this rank was told to stop; one is enough.
            flags: bits that rank 0 decides; ignored from others.
            seconds_per_step: rank 0's speed; ignored from others.

        Returns:
            What all ranks get (stop, flags), or None if this border has no message.
        """
        if world_size() == 1:
            return stop, flags
        if step < self._next:
            return None
        main = is_main()
        # Doubling at most: the first steps are slow and say little about the later ones.
        wanted = int(self._SECONDS / seconds_per_step) if seconds_per_step > 0 else 1
        interval = max(1, min(wanted, 2 * self._interval))
        agreed = reduce_max([int(stop), flags if main else 0, interval if main else 0])
        self._interval = agreed[2]
        self._next = step + self._interval
        return bool(agreed[0]), agreed[1]
