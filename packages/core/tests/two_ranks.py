"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

import math
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunelab import checkpoint, dist
from prunelab.data.memory import shared_memory
from prunelab.errors import UserError
from prunelab.mask import Pruning
from prunelab.optim import guarded_step
from prunelab.run import Run, RunConfig
from prunelab.seed import preserved


class Killed(BaseException):
    """Stands for a kill of the whole job."""


def config(folder: Path, *, resume: bool = False) -> RunConfig:
    return RunConfig(dir=folder, seed=5, resume=resume, device="cpu", tensorboard=False, quiet=True)


def attempt(train, cfg: RunConfig, stage: str, at: int):
    """End a loop when a stage is reached for the ``at``-th time: on both ranks, or in rank 0's own work."""
    count = 0

    def watch(reached: str) -> None:
        nonlocal count
        count += reached == stage
        if reached == stage and count == at:
            raise Killed

    checkpoint.watchers.append(watch)
    try:
        return train(cfg)
    except (Killed, RuntimeError):
        return None
    finally:
        checkpoint.watchers.clear()


def loops(folder: Path, found: dict) -> None:
    for path in sorted((Path(__file__).parent / "loops").glob("loop_*.py")):
        train = runpy.run_path(str(path))["train"]
        whole = train(config(folder / path.stem / "whole"))
        found[f"{path.stem}/whole"] = flat(whole)
        stages = [
            ("step", 4),
            ("border", 3),
            ("write: tensors", 1),
            ("remove: renamed", 1),
            ("once: done", 3),
        ]
        for stage, at in stages:
            where = folder / path.stem / stage.replace(": ", "-")
            if attempt(train, config(where), stage, at) is None:
                found[f"{path.stem}/{stage}"] = flat(train(config(where, resume=True)))


def flat(state: dict) -> torch.Tensor:
    return torch.cat([value.detach().reshape(-1).double() for value in state.values()])


def gradients(found: dict) -> None:
    rank = dist.rank()
    a, b, c = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    big, half = nn.Parameter(torch.zeros(5000, 2000)), nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    a.grad = torch.full((3,), rank + 1.0)
    b.grad = torch.ones(3) if rank == 1 else None
    big.grad, half.grad = torch.full_like(big, 1.0 + rank), torch.full_like(half, 2.0 * rank)
    dist.average_gradients([a, b, c, big, half])
    found.update({"mean": a.grad, "one missing": b.grad, "bfloat16": half.grad.float()})
    found["both missing"] = torch.tensor(float(c.grad is None))
    found["big"] = big.grad.unique()


def equal_to_one_process(found: dict) -> None:
    """Half of each batch on each rank, in double precision; every step must leave equal weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    data = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    history = []
    for batch in data:
        optimizer.zero_grad()
        model(batch[dist.rank() :: 2]).square().mean().backward()
        guarded_step(optimizer, model.parameters(), clip=0.5)
        history.append(flat(model.state_dict()))
    found["history"] = torch.stack(history)


def guarded(found: dict) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.tensor([1.0, math.inf if dist.rank() == 1 else 1.0])
    done = guarded_step(optimizer, [weight], on_nonfinite="skip")
    found["skipped on both"] = torch.tensor([float(bool(done)), *weight.tolist()])


def messages(found: dict) -> None:
    rank = dist.rank()
    buffered = nn.BatchNorm1d(2)
    buffered.running_mean.fill_(float(rank))
    buffered.num_batches_tracked.fill_(rank + 5)
    dist.sync_buffers(buffered)
    found["buffers"] = torch.tensor([*buffered.running_mean.tolist(), float(buffered.num_batches_tracked)])
    parts = [(0, "a"), (2, "c"), (4, "e")] if rank == 0 else [(1, "b"), (3, "d"), (0, "again")]
    joined = dist.gather_objects(parts, key=lambda item: item[0])
    found["gathered"] = torch.tensor([float(key) for key, _ in joined])
    assert dict(joined)[0] == "a"
    assert dist.gather_objects([rank, rank]) == [0, 0, 1, 1]
    found["mean count"] = dist.mean_over_ranks(torch.tensor(3 + 4 * rank)).view(1)

    def mistake() -> None:
        raise UserError("disk full")

    try:
        dist.on_main(mistake)
    except UserError as error:
        found["mistake on both"] = torch.tensor(float(str(error) == "disk full"))


def prunings(found: dict) -> None:
    """SNIP from the batches of each rank, and magnitudes of weights that differ: masks must not."""
    data = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    batches = [batch[dist.rank() :: 2] for batch in data]
    pruning = Pruning.snip(model, 0.5, batches=batches, loss=lambda x: model(x).square().mean())
    found["snip"] = flat(pruning.masks)
    torch.manual_seed(dist.rank())
    found["magnitude"] = flat(Pruning.magnitude(nn.Linear(4, 5), 0.5).masks)


def memories(found: dict) -> None:
    """Each rank keeps one of two images and finds both."""
    memory = shared_memory([10, 11])
    memory.put(10 + dist.rank(), np.full((2, 3), dist.rank(), np.float32))
    dist.barrier()
    found["kept by both"] = torch.tensor(
        [float(rows.sum()) for i in (10, 11) if (rows := memory.get(i)) is not None]
    )
    dist.barrier()


def signals(folder: Path, found: dict) -> None:
    """Rank 1 alone is told to stop; both stop at one step, and go on to the same end."""

    def train(cfg: RunConfig, stop_at: int | None = None) -> tuple[torch.Tensor, int, bool]:
        with Run(cfg) as run:
            model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            run.track(model=model, optimizer=optimizer)
            with preserved():
                found.setdefault("random", torch.rand(1))
            for _ in run.epochs(1):
                for step, batch in run.steps([torch.full((2, 3), float(i)) for i in range(30)]):
                    optimizer.zero_grad()
                    model(batch).mean().backward()
                    guarded_step(optimizer, model.parameters())
                    run.due("1000 min")
                    if step == stop_at and run.rank == 1:
                        os.kill(os.getpid(), signal.SIGUSR1)
        return flat(model.state_dict()), run.step, run.stopping

    whole, *_ = train(config(folder / "unstopped"))
    _, step, stopped = train(config(folder / "stopped"), stop_at=5)
    rest, *_ = train(config(folder / "stopped", resume=True))
    found["stopped at"] = torch.tensor([float(step), float(stopped)])
    found["same after a stop"] = torch.tensor(float(torch.equal(whole, rest)))


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    dist.start("cpu")
    found: dict[str, torch.Tensor] = {}
    for check in (gradients, equal_to_one_process, guarded, messages, prunings, memories):
        check(found)
    signals(folder, found)
    loops(folder, found)
    torch.save(found, folder / f"rank{dist.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
