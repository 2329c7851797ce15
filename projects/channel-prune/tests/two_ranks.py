"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune import steps, train
from channel_prune import test as evaluation
from channel_prune.choosing.choose import choose
from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.config import NetConfig, OptimConfig, PruneConfig
from channel_prune.data import open_data
from channel_prune.files.loading import load_network
from channel_prune.lowering import lower_values
from channel_prune.model import build
from prunelab import dist, syncnorm
from testing.ranks import flat, share, work

BATCH, STEPS, SAMPLED = 8, 4, 4
"""Pictures of a step and steps, of all processes together; mini-batches on which channels are chosen."""
NET = NetConfig(name="tiny", width_divisor=2)
OPTIM = OptimConfig(lrn_rate_init=0.05, loss_w_dcy=0.01)
WAYS = {
    "crops": PruneConfig(
        selection="ista",
        reconstruction="adam",
        sample_mode="train",
        positions="crops",
        compensate_shortcut=False,
        recalibrate=0,
    ),
    "scattered": PruneConfig(recalibrate=16),
    "all": PruneConfig(positions="all", recalibrate=16),
}


def histories(way: str, rank: int = 0, world: int = 1) -> list[Tensor]:
    """All weights after the choice, and after each step of fine-tuning; in double precision."""
    cfg = replace(WAYS[way], nb_smpls=SAMPLED * BATCH, batch_size=BATCH)
    generator = torch.Generator().manual_seed(3)

    def pictures() -> Tensor:
        return torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)

    torch.manual_seed(0)
    model = build(NET).double()
    batches = [pictures() for _ in range(SAMPLED)]
    if cfg.positions != "crops":
        batches = batches[rank::world]
    example = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    choose(model, batches, cfg, example=example)
    history = [flat(model)]
    if world > 1:
        syncnorm.convert(model)
    masks = Masks.from_zeros(prunable(model, example))
    model.train()
    optimizer = steps.make_optimizer(model, OPTIM)
    for _ in range(STEPS):
        x, y = pictures(), torch.randint(0, 10, (BATCH,), generator=generator)
        steps.classify_step(model, optimizer, share(x, rank, world), share(y, rank, world), masks=masks)
        dist.sync_buffers(model)
        history.append(flat(model))
    return history


def runs(folder: Path, commands: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """Whole runs; the weights that this rank has after each step, and the pictures that it saw."""
    step = steps.classify_step
    history: list[Tensor] = []
    pictures: list[Tensor] = []

    def watched(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, **more: Any) -> Any:
        outcome = step(model, optimizer, x, y, **more)
        # No buffers: each rank has statistics of its own between two evaluations.
        history.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        pictures.append(x.double().sum((1, 2, 3)))
        return outcome

    steps.classify_step = watched
    for kind, values in commands.items():
        history.clear()
        pictures.clear()
        train.train(lower_values(values | {"output": str(folder / kind)}), quiet=True)
        found[f"{kind}/history"] = list(history)
        found[f"{kind}/pictures"] = torch.cat(pictures)
        found[f"{kind}/random"] = torch.rand(1)
    history.clear()
    again = commands["pruned"] | {"output": str(folder / "twice")}
    train.train(lower_values(again | {"max_steps": 2}), quiet=True)
    train.train(lower_values(again | {"resume": True}), quiet=True)
    found["pruned/twice"] = list(history)
    steps.classify_step = step


def evaluate(values: dict[str, Any], weights: Path, found: dict[str, Any]) -> None:
    """Evaluate one network with all processes."""
    cfg = lower_values(values | {"weights": str(weights), "output": ""})
    found["evaluation"] = evaluation.test(cfg)
    loader = open_data(cfg).loader("eval", rank=dist.rank(), world_size=dist.world_size())
    found["evaluation/mine"] = [value for x, _ in loader for value in x.double().sum((1, 2, 3)).tolist()]


def find(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {way: histories(way, dist.rank(), dist.world_size()) for way in WAYS}
    commands = json.loads((folder / "commands.json").read_text())
    runs(folder, commands, found)
    for size in (1, 7, 20):
        part: dict[str, Any] = {}
        evaluate(commands["pruned"] | {"batch_size_eval": size}, folder / "pruned/last", part)
        found |= {f"{name}/{size}": value for name, value in part.items()}
    net = lower_values(commands["pruned"]).net
    found["chosen"] = flat(load_network(folder / "pruned/chosen", net))
    return found


if __name__ == "__main__":
    work(find)
