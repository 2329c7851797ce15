"""Train; without arguments, the tour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from apt_vit.cli import parse
from apt_vit.config import Config, RunOptions, lower
from apt_vit.data import loader
from apt_vit.evaluate import Accuracy
from apt_vit.model.network import Network
from apt_vit.steps import train_step
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.report import result_table
from prunelab.run import Run, RunConfig
from prunelab.util import write_json


def run_folder(options: RunOptions) -> Path:
    """Where a run of these options lives."""
    return Path(options.output or "runs/apt-vit")


def train(cfg: Config) -> None:
    """Train as ``cfg`` says, evaluate after each epoch, and write the table."""
    folder = run_folder(cfg.run)
    settings = RunConfig(
        dir=folder,
        seed=cfg.run.seed,
        resume=cfg.run.resume,
        device=cfg.run.device,
        max_steps=cfg.run.max_steps,
    )
    with Run(settings, config=to_plain(cfg), name="apt-vit") as run:
        batches = loader(cfg.data, seed=cfg.run.seed, split="train", rank=run.rank, world_size=run.world_size)
        accuracy = Accuracy(loader(cfg.data, seed=cfg.run.seed, split="test"))
        model = Network(cfg.model).to(run.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=cfg.optim.learning_rate)
        run.track(model=model, optimizer=optimizer, sampler=batches.sampler)
        for _ in run.epochs(cfg.optim.epochs):
            for _, (x, y) in run.steps(batches):
                run.log(**train_step(model, optimizer, (x.to(run.device), y.to(run.device))))
                run.updated()
                if run.due("1 epoch"):
                    with run.evaluating(model):
                        found = run.report(accuracy.run(model))
                    run.save(best=run.is_best("accuracy", found["accuracy"]), model_folder=model.save)
        if run.is_main and not run.stopping:
            write_table(folder, model, accuracy)
    dist.stop()


def write_table(folder: Path, model: Network, accuracy: Accuracy) -> None:
    """Print what came out beside the best constant answer, and what to try next."""
    found = dict(accuracy.run(model))
    rows = [
        {"model": "best constant answer", "accuracy": found["constant"]},
        {"model": "trained", "accuracy": found["accuracy"]},
    ]
    write_json(folder / "table.json", rows)
    notes = [f"wrote {folder}", "next: uv run --package apt-vit demo"]
    result_table("apt-vit", ["model", "accuracy"], rows, formats={"accuracy": ".3f"}, notes=notes).print()


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, lower, go."""
    raw = parse("train", argv)
    dry = raw.pop("dry_run", False)
    cfg = lower(raw)
    if dry:
        print(yaml_text(to_plain(cfg)))
    else:
        train(cfg)


if __name__ == "__main__":
    main()
