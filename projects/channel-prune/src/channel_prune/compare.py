"""Compare ways to choose channels on one trained network: before and after fine-tuning, several seeds.

Every row is one way at one ratio with one seed. All start from the same full network and the same pictures,
all networks are made slim, and all are fine-tuned for equally many seconds.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune import steps
from channel_prune.choose import choose
from channel_prune.cli import parse_compare
from channel_prune.config import Config, PruneConfig
from channel_prune.data import Data, open_data
from channel_prune.job import Task, example, full_network, make_task
from channel_prune.lowering import lower
from channel_prune.options import CompareOptions
from channel_prune.recalibrate import recalibrate
from channel_prune.slim import slim
from channel_prune.stream import Endless
from prunelab import dist
from prunelab.errors import UserError, entry
from prunelab.flops import count
from prunelab.report import Table, result_table
from prunelab.seed import seed_all
from prunelab.tracked import evaluating
from prunelab.util import write_json

FAITHFUL = {
    "selection": "ista",
    "reconstruction": "adam",
    "sample_mode": "train",
    "positions": "crops",
    "compensate_shortcut": False,
}
"""The original's way."""
WAYS: dict[str, dict[str, Any]] = {
    "faithful": FAITHFUL,
    "fixed": {},
    "l1": {"selection": "l1"},
    "random": {"selection": "random"},
}
"""What a method changes in the configuration's choice; ``torch-pruning`` is that package's own."""
FIGURES = ("MACs", "before", "recalibrated", "finetuned")
"""Of a row that are averaged over seeds."""


@dataclass(frozen=True, kw_only=True)
class Small:
    """A pruned network, slim."""

    model: nn.Module
    seconds: float
    """That choosing its channels took."""


def compare(cfg: Config, options: CompareOptions) -> list[dict[str, Any]]:
    """Make all rows that the file of results does not have yet.

    Args:
        cfg: network, its weights, data, and how channels are chosen.
        options: ways, ratios, seeds, seconds of fine-tuning.

    Returns:
        All rows, as ``rows.json`` in the output folder has them: ``method``, ``ratio``, ``seed``, ``MACs``
        (share of the full network's), ``parameters``, ``choosing_seconds``, then the task's first figure
        ``before`` anything else, ``recalibrated`` and ``finetuned``, and ``steps`` of fine-tuning.

    Raises:
        UserError: weights or data are missing, or a way needs a package that is not there.
    """
    path = Path(cfg.run.output or "compare") / "rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    device = dist.start(cfg.run.device)
    data, task = opened(cfg, device)
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = {(row["method"], row["ratio"], row["seed"]) for row in rows}
    for number, ratio, method in itertools.product(options.seeds, options.ratios, options.methods):
        if (method, ratio, number) not in done:
            rows.append(
                _row(_seeded(cfg, ratio, number), method, data, task, options.finetune_seconds, device)
            )
            write_json(path, rows)
            print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    return rows


def opened(cfg: Config, device: torch.device) -> tuple[Data, Task]:
    """The data set, and what networks are measured by."""
    data = open_data(cfg, Path(cfg.run.output or "compare") / "fake_data")
    return data, make_task(cfg, data, device)


def _seeded(cfg: Config, ratio: float, number: int) -> Config:
    prune = replace(cfg.prune, prune_ratio=ratio, seed=number, recalibrate=0)
    return replace(cfg, prune=prune, run=replace(cfg.run, seed=number))


def _row(
    cfg: Config, method: str, data: Data, task: Task, seconds: float, device: torch.device
) -> dict[str, Any]:
    seed_all(cfg.run.seed)
    network = full_network(cfg).to(device)
    picture = example(cfg, device)
    dense = count(network, picture).macs
    batches = [
        b.to(device) for b in data.sampling_batches(cfg.prune.nb_smpls, cfg.prune.batch_size, cfg.run.seed)
    ]
    small = (
        by_torch_pruning(network, picture, fraction_of_ours(network, picture, cfg.prune), dense)
        if method == "torch-pruning"
        else by_us(network, picture, batches, replace(cfg.prune, **WAYS[method]))
    )
    model = small.model
    cost = count(model, picture)
    row: dict[str, Any] = {"method": method, "ratio": cfg.prune.prune_ratio, "seed": cfg.run.seed}
    row |= {"MACs": cost.macs / dense, "parameters": cost.parameters, "choosing_seconds": small.seconds}
    row["before"] = score(model, task)
    recalibrate(model, batches)
    row["recalibrated"] = score(model, task)
    row["steps"] = finetune(model, task, data, cfg, seconds)
    row["finetuned"] = score(model, task)
    return row


def by_us(network: nn.Module, picture: Tensor, batches: Sequence[Tensor], cfg: PruneConfig) -> Small:
    """Choose channels, refit, make slim."""
    begin = time.perf_counter()
    choice = choose(network, batches, cfg, example=picture)
    seconds = time.perf_counter() - begin
    return Small(model=slim(network, choice.kept, picture).model, seconds=seconds)


def fraction_of_ours(network: nn.Module, picture: Tensor, cfg: PruneConfig) -> float:
    """MACs of the slim network after our choice at this ratio, as a share of the full one's.

    Which channels are chosen changes little, so they are chosen at random here and nothing is refitted.
    """
    tried = copy.deepcopy(network)
    cheap = replace(cfg, selection="random", reconstruction="none", compensate_shortcut=False)
    small = by_us(tried, picture, [picture], cheap).model
    return count(small, picture).macs / count(network, picture).macs


def by_torch_pruning(network: nn.Module, picture: Tensor, fraction: float, dense: int) -> Small:
    """Torch-Pruning's L1 norm on inner channels of residual blocks, at the ratio that costs as much as ours.

    Residual sums and the classifier keep all channels.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import torch_pruning as tp
    except ImportError:
        raise UserError("torch-pruning is not installed, which the method of this name needs") from None
    begin = time.perf_counter()

    def pruned(ratio: float) -> nn.Module:
        model = copy.deepcopy(network)
        inner = {name: m for name, m in model.named_modules() if name.endswith(".conv1")}
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        others: list[nn.Module] = [m for m in layers if m not in inner.values()]
        pruner = tp.pruner.MagnitudePruner(
            model, picture, tp.importance.MagnitudeImportance(p=1), pruning_ratio=ratio, ignored_layers=others
        )
        pruner.step()
        return model

    low, high = 0.0, 0.98
    for _ in range(12):  # channel counts are steps: more halving finds nothing new
        middle = (low + high) / 2
        low, high = (
            (middle, high) if count(pruned(middle), picture).macs / dense > fraction else (low, middle)
        )
    return Small(model=pruned(high), seconds=time.perf_counter() - begin)


def score(model: nn.Module, task: Task) -> float:
    """The task's first figure."""
    with evaluating(model), torch.no_grad():
        return dict(task.evaluate(model))[task.figures[0]]


def finetune(model: nn.Module, task: Task, data: Data, cfg: Config, seconds: float) -> int:
    """Train for so many seconds with a rate that falls to nothing in them; returns the number of steps."""
    if not seconds:
        return 0
    optimizer = steps.make_optimizer(model, cfg.optim)
    model.train()
    begin = time.perf_counter()
    for number, batch in enumerate(_batches(data)):
        left = 1 - (time.perf_counter() - begin) / seconds
        if left <= 0:
            return number
        steps.set_rate(optimizer, cfg.optim.lrn_rate_init * left)
        task.step(model, optimizer, None, batch, number)
    raise AssertionError("batches have no end")


def _batches(data: Data) -> Iterator[Any]:
    endless = Endless(data.loader("train"))
    for batch in endless:
        endless.advance()
        yield batch


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means over the seeds, for each way and ratio."""
    groups: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["method"]), []).append(row)
    means = [
        [ratio, method, len(group), *(sum(row[figure] for row in group) / len(group) for figure in FIGURES)]
        for (ratio, method), group in sorted(groups.items())
    ]
    columns = ("ratio", "method", "seeds", *FIGURES)
    return result_table("", columns, means, formats=dict.fromkeys(FIGURES, ".2%"))


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``compare``."""
    raw, options = parse_compare(argv)
    cfg = lower(raw)
    if cfg.run.dry_run:
        print(f"{cfg.net.name} on {cfg.data.dataset}: configuration is right; nothing was run")
        return
    rows = compare(cfg, options)
    print(table(rows).plain())


if __name__ == "__main__":
    main()
