"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acosp.structure import phase
from acosp_seg import steps, train
from acosp_seg.cli import parse_train
from acosp_seg.config import Config, DataConfig, ModelConfig, OptimConfig, PruneConfig, TestConfig
from acosp_seg.data import open_data
from acosp_seg.evaluate import Evaluator, Totals, figures, rule_of
from acosp_seg.lowering import lower
from acosp_seg.model import build
from acosp_seg.pruner import Pruning, rebuilt_optimizer
from acosp_seg.segmenter import Segmenter
from prunelab import dist, syncnorm
from testing.ranks import flat, share, work

PICTURES, STEPS, ENDING = 4, 4, 2
SEGNET = Config(
    model=ModelConfig(arch="segnet", layers=None, classes=3, width=4),
    data=DataConfig(dataset="tiny", train_h=32, train_w=33),
    optim=OptimConfig(base_lr=0.05, weight_decay=0.001, aux_weight=0.0),
    prune=PruneConfig(sparsity=0.5, ending_epoch=ENDING, min_remaining_elements=2),
)
NETWORKS = {
    "segnet": SEGNET,
    "psp": replace(
        SEGNET,
        model=ModelConfig(arch="psp", classes=3, width=4, bins=(1, 2), dropout=0.0),
        data=DataConfig(dataset="tiny", train_h=17, train_w=25),
        test=TestConfig(test_h=17, test_w=25),
        optim=OptimConfig(base_lr=0.005, aux_weight=0.4),
    ),
}


def histories(network: str, rank: int = 0, world: int = 1) -> tuple[list[Tensor], list[float]]:
    """All weights and masks after each of some steps in double precision, and the last step's figures.

    A step stands for an epoch: masks cool down after each, and become hard between the second and the third.
    """
    cfg = NETWORKS[network]
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    model, pruning = build(cfg.model).double(), Pruning(cfg)
    pruning.begin(model, None)
    if world > 1:
        syncnorm.convert(model)
    optimizer = steps.make_optimizer(model, cfg.optim)
    totals = Totals(cfg.model.classes, cfg.data.ignore_label, rule_of(cfg), torch.device("cpu"))
    history: list[Tensor] = []
    told: dict[str, Tensor] = {}
    for epoch in range(STEPS):
        if pruning.due(model, epoch):
            pruning.harden(model)
            optimizer = rebuilt_optimizer(model, cfg, optimizer)
        size = (PICTURES, cfg.data.train_h, cfg.data.train_w)
        x = torch.randn(size[0], 3, *size[1:], generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, size, generator=generator)
        mine = share(x, rank, world), share(y, rank, world)
        told = totals.add(steps.train_step(model, optimizer, *mine, aux_weight=cfg.optim.aux_weight))
        rate = steps.learning_rate(cfg.optim, epoch + 1, 1)
        steps.set_rates(optimizer, rate, steps.group_factors(model, cfg.optim))
        pruning.end_epoch(model, epoch)
        history.append(flat(model))
    assert phase(model) == "hard"
    return history, [float(v) for v in (*told.values(), *dict(figures(totals.sums, "train")).values())]


def runs(folder: Path, commands: dict[str, list[str]], found: dict[str, Any]) -> None:
    """Whole runs through the entry; the weights that this rank has after each step."""
    step = steps.train_step
    history: list[Tensor] = []
    pictures: list[Tensor] = []

    def watched(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, **more: Any) -> Any:
        outcome = step(model, optimizer, x, y, **more)  # pyright: ignore[reportArgumentType]
        history.append(flat(model))
        pictures.append(x.double().sum((1, 2, 3)))
        return outcome

    steps.train_step = watched
    for kind, words in commands.items():
        history.clear()
        pictures.clear()
        train.main([*words, "--output", str(folder / kind)])
        found[f"{kind}/history"] = list(history)
        found[f"{kind}/pictures"] = torch.cat(pictures)
        found[f"{kind}/random"] = torch.rand(1)
    history.clear()
    again = [*commands["pruned"], "--output", str(folder / "twice")]
    train.main([*again, "--max-steps", "2"])
    train.main([*again, "--resume"])
    found["pruned/twice"] = list(history)
    steps.train_step = step


def evaluation(run: Path, words: list[str], found: dict[str, Any]) -> None:
    """Score one network with all processes."""
    cfg = lower(parse_train([*words, "--output", str(run)]))
    model = Segmenter.from_pretrained(run / "last").model
    loader = open_data(cfg).loader("val", rank=dist.rank(), world_size=dist.world_size())
    found["evaluation"] = dict(Evaluator(loader, cfg, torch.device("cpu")).run(model))  # pyright: ignore[reportArgumentType]
    found["evaluation/mine"] = [value for x, _ in loader for value in x.double().sum((1, 2, 3)).tolist()]


def find(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for network in NETWORKS:
        history, told = histories(network, dist.rank(), dist.world_size())
        found |= {f"{network}/steps": history, f"{network}/told": told}
    commands = json.loads((folder / "command.json").read_text())
    runs(folder, commands, found)
    evaluation(folder / "pruned", commands["pruned"], found)
    return found


if __name__ == "__main__":
    work(find)
