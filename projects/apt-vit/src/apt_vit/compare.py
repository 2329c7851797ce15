"""Compare ways to prune tokens: each trains a network by one recipe, from the same weights, several seeds.

All rows make equally many updates with equal pictures, rates and decay, and all choose their best network by
the same pictures; they differ in which tokens go, and in how that is learnt. What a row costs beyond that
(five passes a micro-batch instead of one) is told as seconds of training.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from apt_vit.classifier import Classifier
from apt_vit.cli import parse_compare
from apt_vit.config import Config, PruneConfig, QuirkConfig
from apt_vit.data import Data, open_data
from apt_vit.evaluate import Scores, evaluate
from apt_vit.layout import FAKE_DATA
from apt_vit.lowering import TOUR, Raw, lower_values
from apt_vit.options import CompareOptions
from apt_vit.plots import ACCURACY, COST, write_ways
from apt_vit.tokens.macs import lengths_of, macs_of
from apt_vit.tokens.rules import Rule
from apt_vit.train import train
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.jobs import results
from prunelab.modes import evaluating
from prunelab.report import Table, latency, result_table
from prunelab.runfolder import check_free
from prunelab.util import human_count, read_json, write_json

KEEP_RATE = 0.7
"""Share of tokens that each clip layer keeps where no keep_rate is typed; not of row faithful."""
FIGURES = ("accuracy", "all tokens", "MACs", "of dense", "images/s", "training seconds")
"""Of a row that are averaged over seeds: accuracy as trained, that with nothing pruned, multiply-adds with
agents, their share of the unpruned network's, speed, and what training took."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a row is about."""

    row: str
    """One of `apt_vit.options.ROWS`."""
    seed: int


def compare(cfg: Config, options: CompareOptions) -> list[Row]:
    """Train all rows that the file of results does not have yet.

    Args:
        cfg: network, data and recipe; of what is pruned the keep rate counts, and what agents learn from in
            row fixed.
        options: ways, seeds, keep rates, processes.

    Returns:
        All rows, as ``rows.json`` in the output folder has them: ``row``, ``seed``, `FIGURES`, ``tokens``
        left behind each clip layer, and ``curve``, what the network does at other keep rates. Beside it lie
        ``means.json`` and their figure, ``ways.png``; each run lies in a folder of its own.

    Raises:
        UserError: data are missing, the configuration does not fit them, or the folder holds rows of another.
    """
    path = folder_of(cfg) / "rows.json"
    _one_recipe(cfg, path.with_name("recipe.json"))
    rows: list[Row] = read_json(path) if path.exists() else []
    done = [Part(row=row["row"], seed=row["seed"]) for row in rows]
    parts = [Part(row=row, seed=seed) for seed, row in itertools.product(options.seeds, options.rows)]
    work = partial(trained, options=options)
    for row in results(
        [part for part in parts if part not in done], partial(_same, cfg), work, jobs=options.jobs
    ):
        rows.append(row)
        write_json(path, rows)
        print(f"{row['row']}, seed {row['seed']}: accuracy {row['accuracy']:.2%}", flush=True)
    for row in rows:
        if "images/s" not in row:  # when nothing else runs any more
            row["images/s"] = speed(configured(cfg, Part(row=row["row"], seed=row["seed"])))
            write_json(path, rows)
    write_json(path.with_name("means.json"), means(rows))
    write_ways(path.with_name("ways.png"), points(rows))
    return rows


def _one_recipe(cfg: Config, path: Path) -> None:
    """Write down what all rows of a folder have in common; refuse to mix them with others."""
    recipe = to_plain({"model": cfg.model, "data": cfg.data, "optim": cfg.optim, "prune": cfg.prune})
    if not path.exists():
        write_json(path, recipe)
        return
    before = read_json(path)
    for group, values in recipe.items():
        for name, value in values.items():
            if before[group].get(name) != value:
                raise UserError(
                    f"{path.parent}: holds rows with {name} {before[group].get(name)}, expected the same and "
                    f"not {value}, or another --output"
                )


def _same(cfg: Config) -> Config:
    """What the processes of rows share: the configuration alone."""
    return cfg


def folder_of(cfg: Config) -> Path:
    """Where results go."""
    return Path(cfg.run.output or "compare")


def configured(cfg: Config, part: Part) -> Config:
    """The configuration of a row: the common recipe, and its own way to prune."""
    folder = folder_of(cfg) / f"{part.row}-{part.seed}"
    run = replace(
        cfg.run, output=str(folder), name=folder.name, seed=part.seed, resume=True, preset="fixed", tour=False
    )
    rate = cfg.prune.keep_rate or KEEP_RATE
    own = replace(cfg, run=run)
    match part.row:
        case "faithful":
            return replace(
                own,
                model=replace(cfg.model, normalise_agent_input=False),
                optim=replace(cfg.optim, agent_learning_rate=None),
                prune=PruneConfig(reward_dropout="fresh"),
                quirks=QuirkConfig.of("faithful"),
            )
        case "fixed":
            return replace(own, prune=replace(cfg.prune, method="agent", keep_rate=rate))
        case "plain":
            return replace(own, prune=PruneConfig(method="plain"))
        case method:
            return replace(own, prune=PruneConfig(method=method, keep_rate=rate))


def trained(cfg: Config, part: Part, options: CompareOptions) -> Row:
    """Train a row, and ask its best network for the classes of all test pictures."""
    own = configured(cfg, part)
    device = dist.start(own.run.device)
    folder = Path(own.run.output)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begun, begin = check_free(folder, resume=True), clock()
    data = open_data(own, folder / FAKE_DATA)
    train(own, data=data, quiet=options.jobs > 1)
    seconds = clock() - begin
    found = Classifier.from_pretrained(folder / "best", device=device)
    mode = "dropped" if found.rule.prunes else "plain"
    scores = _scores(found, data, own, found.rule, mode)
    # A network that learnt without pruning is asked by what needs no learning.
    method = found.rule.method if found.rule.prunes else "cls-attention"
    curve = []
    for rate in options.rates:
        other = _scores(found, data, own, Rule(method=method, keep_rate=rate), "dropped")
        curve.append({"keep_rate": rate, "accuracy": other.accuracy, "of dense": other.macs / _dense(own)})
    return asdict(part) | {
        "accuracy": scores.accuracy,
        "all tokens": _scores(found, data, own, None, "plain").accuracy,
        "tokens": list(scores.tokens),
        "MACs": scores.macs,
        "of dense": scores.macs / _dense(own),
        "training seconds": None if begun else seconds,  # of a row that was interrupted: not known
        "curve": curve,
    }


def _scores(found: Classifier, data: Data, cfg: Config, rule: Rule | None, mode: str) -> Scores:
    with evaluating(found.model):
        return evaluate(found.model, data.loader("test"), rule, mode, amp=cfg.run.amp)


def _dense(cfg: Config) -> int:
    """Multiply-adds of the network when nothing is pruned and no agent runs."""
    return macs_of(cfg.model, lengths_of(cfg.model), "none")


def speed(cfg: Config) -> float:
    """Test pictures that a row's best network classifies in a second, in evaluation batches."""
    device = dist.start(cfg.run.device)
    folder = Path(cfg.run.output)
    found = Classifier.from_pretrained(folder / "best", device=device)
    images, _ = next(iter(open_data(cfg, folder / FAKE_DATA).loader("test")))
    images = images.to(device)

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16"):
            found.dropper(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with evaluating(found.model), torch.inference_mode():
        return len(images) / latency(call).median


def means(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Means over the seeds, for each way: `FIGURES`, ``seeds`` (how many), and ``spread`` of the accuracy.

    The spread is half the distance between the best and the worst seed.
    """
    found = []
    for way, group in _groups(rows).items():
        known = {name: [row[name] for row in group if row.get(name) is not None] for name in FIGURES}
        accuracies = known["accuracy"]
        found.append(
            {"row": way, "seeds": len(group)}
            | {name: statistics.fmean(values) if values else None for name, values in known.items()}
            | {"spread": (max(accuracies) - min(accuracies)) / 2}
        )
    return found


def points(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Means over the seeds of accuracy and multiply-adds: as trained (``keep_rate`` None), and asked anew."""
    found = []
    for way, group in _groups(rows).items():
        asked = [{"keep_rate": None, **row} for row in group] + [
            each for row in group for each in row["curve"]
        ]
        for rate in dict.fromkeys(each["keep_rate"] for each in asked):
            some = [each for each in asked if each["keep_rate"] == rate]
            mean = {name: statistics.fmean(each[name] for each in some) for name in (ACCURACY, COST)}
            found.append({"row": way, "keep_rate": rate, **mean})
    return found


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of the same way."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["row"], []).append(row)
    return found


def table(rows: Sequence[Mapping[str, Any]], cfg: Config) -> Table:
    """`means` as a table, with what one has to know of them."""
    columns = ("row", "seeds", "accuracy", "spread", *FIGURES[1:])
    formats: dict[str, Any] = dict.fromkeys(("accuracy", "spread", "all tokens", "of dense"), ".2%")
    formats |= {"MACs": human_count, "images/s": human_count, "training seconds": ".0f"}
    notes = [
        f"all rows: {cfg.optim.num_steps} updates of {cfg.data.train_batch_size} pictures, by one recipe; "
        "the best network by the same validation pictures",
        "MACs: multiply-adds of a picture, agents (folded) included; of dense: of those with nothing pruned "
        "and no agent; all tokens: the same network, nothing pruned; spread: half of best minus worst seed",
        f"images/s: batches of {cfg.data.eval_batch_size}; training seconds: of processor time on a CPU, "
        "data and evaluations included",
    ]
    return result_table("", columns, means(rows), formats=formats, notes=notes)


def base_of(raw: Raw) -> Config:
    """The common configuration of all rows: what was typed, or that of the tour where next to nothing was."""
    bare = raw.typed.keys() <= {"dry_run", "output", "device"}
    return lower_values((dict(TOUR) if bare else {}) | dict(raw.typed), preset="fixed")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``compare``."""
    raw, options = parse_compare(argv)
    cfg = base_of(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.model.model_type} on {cfg.data.dataset}: configuration is right; nothing was run")
    else:
        print(table(compare(cfg, options), cfg).plain())
        print(f"rows, means, a figure and the runs: {folder_of(cfg)}")


if __name__ == "__main__":
    main()
