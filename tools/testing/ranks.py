"""What the ranks of a job do in a script that `testing.runs.two_ranks` starts, and what they must find."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunelab import dist

Part = TypeVar("Part", Tensor, list[Any])


def work(find: Callable[[Path], Mapping[str, Any]]) -> None:
    """Be a rank of the job: a warning is an error, and what was found goes into the folder that was typed."""
    folder = Path(sys.argv[1])
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.start("cpu")
    torch.save(dict(find(folder)), folder / f"rank{dist.rank()}.pt")


def flat(module: nn.Module) -> Tensor:
    """All weights and buffers of a network, (values,), in double precision."""
    return torch.cat([value.detach().reshape(-1).double() for value in module.state_dict().values()])


def share(values: Part, rank: int, world: int) -> Part:
    """A rank's neighbouring pictures of a batch."""
    return values[len(values) * rank // world : len(values) * (rank + 1) // world]


def check_equal(found: Sequence[Mapping[str, Any]], kind: str, steps: int) -> None:
    """The ranks had equal weights after each step of a run, but random numbers of their own."""
    first, second = found
    assert len(first[f"{kind}/history"]) == len(second[f"{kind}/history"]) == steps
    assert all(map(torch.equal, first[f"{kind}/history"], second[f"{kind}/history"]))
    assert not torch.equal(first[f"{kind}/random"], second[f"{kind}/random"])


def check_apart(found: Sequence[Mapping[str, Any]], kind: str) -> None:
    """No rank saw a picture of another one."""
    first, second = (set(each[f"{kind}/pictures"].tolist()) for each in found)
    assert first
    assert not first & second


def check_cut(found: Sequence[Mapping[str, Any]], kind: str, steps: int) -> None:
    """A run that was cut and went on made the steps of the run that was not, on every rank."""
    for each in found:
        assert len(each[f"{kind}/twice"]) == steps
        assert all(map(torch.equal, each[f"{kind}/twice"], each[f"{kind}/history"]))


def check_as_one(
    found: Sequence[Mapping[str, Any]], name: str, alone: Sequence[Tensor], *, rtol: float, atol: float
) -> None:
    """The ranks' weights after each step are equal, and those of one process with the whole batch."""
    first, second = (each[name] for each in found)
    assert len(alone) == len(first) > 1
    for one, mine, other in zip(alone, first, second, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, one, rtol=rtol, atol=atol)
