"""What two gloo processes do for `test_dist.py`: started once, each rank writes what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_vit import job, train
from apt_vit import test as evaluation
from apt_vit.config import Config, DataConfig, ModelConfig, OptimConfig, PruneConfig, QuirkConfig, RunOptions
from apt_vit.learning.actions import Draws
from apt_vit.lowering import lower_values
from apt_vit.model import VisionTransformer, build
from apt_vit.model.initialise import fresh_agents
from apt_vit.options import TestOptions
from apt_vit.steps import Updates, make_optimizer, train_step
from prunelab import dist
from testing.ranks import flat, share, work

BATCH, UPDATES, ACCUMULATED = 8, 3, 2
"""Pictures of a micro-batch of all processes together, updates, micro-batches of an update."""
MODEL = ModelConfig(
    patch_size=(4, 4),
    hidden_size=16,
    mlp_dim=32,
    num_heads=2,
    num_layers=4,
    dropout_rate=0.0,
    img_size=(16, 16),
    num_classes=5,
    clip_layers=(0, 2),
)
WAYS: dict[str, dict[str, Any]] = {
    "faithful": {"prune": PruneConfig(reward_dropout="fresh"), "quirks": QuirkConfig.of("faithful")},
    "fixed": {"prune": PruneConfig(plain_loss=0.5), "quirks": QuirkConfig.of("fixed")},
    "keep rate": {"prune": PruneConfig(keep_rate=0.6), "quirks": QuirkConfig.of("fixed")},
}
"""Single actions are the likeliest ones, so that all processes find what one finds."""


def histories(way: str, rank: int = 0, world: int = 1) -> list[Tensor]:
    """All weights at first, and after each update; in double precision."""
    parts = WAYS[way]
    prune = replace(parts["prune"], greedy_share=1.0)
    optim = OptimConfig(
        learning_rate=0.1, warmup_steps=0, num_steps=UPDATES, gradient_accumulation_steps=ACCUMULATED
    )
    data = DataConfig(train_batch_size=BATCH * ACCUMULATED)
    cfg = Config(
        model=MODEL, data=data, optim=optim, prune=prune, quirks=parts["quirks"], run=RunOptions(seed=5)
    )
    torch.manual_seed(0)
    model = build(MODEL).double()
    fresh_agents(model.agents.values())
    for agent in model.agents.values():
        torch.nn.init.normal_(agent.fc.weight)
    generator = torch.Generator().manual_seed(3)
    updates, draws = Updates(make_optimizer(model, optim), cfg), Draws(cfg, rank)
    model.train()
    history = [flat(model)]
    for number in range(UPDATES * ACCUMULATED):
        x = torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 5, (BATCH,), generator=generator)
        train_step(model, (share(x, rank, world), share(y, rank, world)), cfg, draws)
        if updates.due(number, UPDATES * ACCUMULATED):
            updates.update(number)
            history.append(flat(model))
    return history


def runs(folder: Path, commands: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """Whole runs; the weights that this rank has after each update, its pictures, and its actions."""
    step, update = job.train_step, job.Job.update
    history: list[Tensor] = []
    pictures: list[Tensor] = []
    actions: list[int] = []

    def watched_step(model: VisionTransformer, batch: tuple[Tensor, Tensor], *rest: Any) -> Any:
        logs = step(model, batch, *rest)
        pictures.append(batch[0].double().sum((1, 2, 3)))
        for agent in logs.agents.values():
            actions.extend(agent.tokens.tolist())
        return logs

    def watched_update(self: job.Job) -> Any:
        figures = update(self)
        if figures is not None:
            history.append(flat(self.model))
        return figures

    job.train_step, job.Job.update = watched_step, watched_update
    for kind, values in commands.items():
        for seen in (history, pictures, actions):
            seen.clear()
        train.train(lower_values(values | {"output": str(folder / kind)}), quiet=True)
        found[f"{kind}/history"] = list(history)
        found[f"{kind}/pictures"] = torch.cat(pictures)
        found[f"{kind}/actions"] = torch.tensor(actions)
        found[f"{kind}/random"] = torch.rand(1)
    history.clear()
    again = commands["fixed"] | {"output": str(folder / "twice")}
    train.train(lower_values(again | {"max_steps": 2}), quiet=True)
    train.train(lower_values(again | {"resume": True}), quiet=True)
    found["fixed/twice"] = list(history)
    job.train_step, job.Job.update = step, update


def evaluate(model: Path, size: int) -> dict[str, Any]:
    """Scores of one network by all processes."""
    typed = {"device": "cpu", "eval_batch_size": size}
    return {
        mode: asdict(s) for mode, s in evaluation.test(TestOptions(model=str(model), typed=typed)).items()
    }


def find(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {way: histories(way, dist.rank(), dist.world_size()) for way in WAYS}
    runs(folder, json.loads((folder / "commands.json").read_text()), found)
    for size in (1, 7, 20):
        found[f"evaluation/{size}"] = evaluate(folder / "fixed", size)
    return found


if __name__ == "__main__":
    work(find)
