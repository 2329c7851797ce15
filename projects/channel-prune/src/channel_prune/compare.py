"""Compare ways to choose channels on one trained network: before and after fine-tuning, several seeds.

Every row is one way at one ratio with one seed. All start from the same full network and the same pictures,
all networks are made slim, and all are fine-tuned for equally many seconds; on a CPU these are of processor
time, so that other work of the machine does not count.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune import steps
from channel_prune.choosing.choose import choose
from channel_prune.choosing.recalibrate import norms, recalibrate
from channel_prune.cli import parse_compare
from channel_prune.config import Config, PruneConfig
from channel_prune.data import Data, open_data
from channel_prune.job import Task, example, full_network, make_task
from channel_prune.lowering import lower
from channel_prune.options import CompareOptions
from channel_prune.plots import write_ways
from channel_prune.slim import slim
from prunelab import dist
from prunelab.data.endless import Endless
from prunelab.errors import UserError, entry
from prunelab.flops import count
from prunelab.jobs import results
from prunelab.modes import evaluating
from prunelab.report import Table, result_table
from prunelab.seed import seed_all
from prunelab.util import write_json

FAITHFUL = {
    "selection": "ista",
    "reconstruction": "adam",
    "sample_mode": "train",
    "sample_augmented": True,
    "positions": "crops",
    "compensate_shortcut": False,
    "recalibrate": 0,
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
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a row is about."""

    seed: int
    ratio: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Small:
    """A pruned network, slim."""

    model: nn.Module
    recalibrated: nn.Module
    """The same with statistics of batch normalisation that were measured after pruning."""
    seconds: float
    """That choosing its channels took."""


def compare(cfg: Config, options: CompareOptions) -> list[Row]:
    """Make all rows that the file of results does not have yet.

    Args:
        cfg: network, its weights, data, and how channels are chosen.
        options: ways, ratios, seeds, seconds of fine-tuning, processes.

    Returns:
        All rows, as ``rows.json`` in the output folder has them: ``method``, ``ratio``, ``seed``, ``MACs``
        (share of the full network's), ``parameters``, ``choosing_seconds``, then the task's first figure
        ``before`` anything else, ``recalibrated`` and ``finetuned``, and ``steps`` of fine-tuning. Beside it
        lie ``means.json`` and their figure, ``ways.png``.

    Raises:
        UserError: weights or data are missing, or a way needs a package that is not there.
    """
    path = folder_of(cfg) / "rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = [Part(seed=row["seed"], ratio=row["ratio"], method=row["method"]) for row in rows]
    parts = [
        Part(seed=number, ratio=ratio, method=method)
        for number, ratio, method in itertools.product(options.seeds, options.ratios, options.methods)
    ]
    missing = [part for part in parts if part not in done]
    work = partial(Opened.row, seconds=options.finetune_seconds)
    for row in results(missing, partial(Opened, cfg), work, jobs=options.jobs):
        rows.append(row)
        write_json(path, rows)
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    found = means(rows)
    write_json(path.with_name("means.json"), found)
    write_ways(path.with_name("ways.png"), found)
    return rows


def folder_of(cfg: Config) -> Path:
    """Where results go."""
    return Path(cfg.run.output or "compare")


class Opened:
    """What all rows share: the data set, opened, and what networks are measured by.

    Raises:
        UserError: data are missing.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.device = cfg, dist.start(cfg.run.device)
        self.data = open_data(cfg, folder_of(cfg) / "fake_data")
        self.task = make_task(cfg, self.data, self.device)

    def row(self, part: Part, seconds: float) -> Row:
        """Prune and fine-tune once."""
        prune = replace(self.cfg.prune, prune_ratio=part.ratio, seed=part.seed, **WAYS.get(part.method, {}))
        seed_all(part.seed)
        network = full_network(self.cfg).to(self.device)
        picture = example(self.cfg, self.device)
        dense = count(network, picture).macs
        batches = [images.to(self.device) for images in self.data.sampling_batches(prune)]
        if part.method == "torch-pruning":
            small = by_torch_pruning(network, picture, batches, fraction_of_ours(network, picture, prune))
        else:
            small = by_us(network, picture, batches, prune)
        cost = count(small.model, picture)
        return asdict(part) | {
            "MACs": cost.macs / dense,
            "parameters": cost.parameters,
            "choosing_seconds": small.seconds,
            "before": score(small.model, self.task),
            "recalibrated": score(small.recalibrated, self.task),
            "steps": self.finetune(small.recalibrated, part.seed, seconds),
            "finetuned": score(small.recalibrated, self.task),
        }

    def finetune(self, model: nn.Module, number: int, seconds: float) -> int:
        """Train for so many seconds, with a rate that falls to nothing; returns the number of steps."""
        if not seconds:
            return 0
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        optimizer = steps.make_optimizer(model, self.cfg.optim)
        data = replace(self.data, cfg=replace(self.cfg, run=replace(self.cfg.run, seed=number)))
        model.train()
        begin = clock()
        for step, batch in enumerate(_batches(data)):
            left = 1 - (clock() - begin) / seconds
            if left <= 0:
                return step
            steps.set_rate(optimizer, self.cfg.optim.lrn_rate_init * left)
            self.task.step(model, optimizer, None, batch, step)
        raise AssertionError("batches have no end")


def by_us(network: nn.Module, picture: Tensor, batches: Sequence[Tensor], cfg: PruneConfig) -> Small:
    """Choose channels, refit, make slim. Changes the network."""
    stored = {name: copy.deepcopy(norm.state_dict()) for name, norm in norms(network).items()}
    begin = time.perf_counter()
    kept = choose(network, batches, cfg, example=picture).kept
    seconds = time.perf_counter() - begin
    after = slim(network, kept, picture).model
    if not cfg.recalibrate:
        recalibrate(after, batches)
    for name, norm in norms(network).items():
        norm.load_state_dict(stored[name])
    return Small(model=slim(network, kept, picture).model, recalibrated=after, seconds=seconds)


def fraction_of_ours(network: nn.Module, picture: Tensor, cfg: PruneConfig) -> float:
    """MACs of the slim network after our choice at this ratio, as a share of the full one's.

    Which channels are chosen changes little, so they are chosen at random here and nothing is refitted.
    """
    cheap = replace(cfg, selection="random", reconstruction="none", compensate_shortcut=False)
    small = by_us(copy.deepcopy(network), picture, [picture], cheap).model
    return count(small, picture).macs / count(network, picture).macs


def by_torch_pruning(
    network: nn.Module, picture: Tensor, batches: Sequence[Tensor], fraction: float
) -> Small:
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
    dense = count(network, picture).macs

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
    nearest = min(map(pruned, (low, high)), key=lambda m: abs(count(m, picture).macs / dense - fraction))
    after = copy.deepcopy(nearest)
    recalibrate(after, batches)
    return Small(model=nearest, recalibrated=after, seconds=time.perf_counter() - begin)


def score(model: nn.Module, task: Task) -> float:
    """The task's first figure."""
    with evaluating(model), torch.no_grad():
        return dict(task.evaluate(model))[task.figures[0]]


def _batches(data: Data) -> Iterator[Any]:
    endless = Endless(data.loader("train"))
    for batch in endless:
        endless.advance()
        yield batch


def means(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Means over the seeds, for each ratio and way: `FIGURES`, and ``seeds``, how many."""
    groups: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["method"]), []).append(row)
    return [
        {"ratio": ratio, "method": method, "seeds": len(group)}
        | {figure: sum(row[figure] for row in group) / len(group) for figure in FIGURES}
        for (ratio, method), group in sorted(groups.items())
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """`means` as a table."""
    columns = ("ratio", "method", "seeds", *FIGURES)
    return result_table("", columns, means(rows), formats=dict.fromkeys(FIGURES, ".2%"))


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
    print(f"rows, means and a figure: {folder_of(cfg)}")


if __name__ == "__main__":
    main()
