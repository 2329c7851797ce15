"""What stands around a run's steps: evaluations, model folders, the slim network, the table at the end."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from channel_prune.choosing.choose import Choice, Progress
from channel_prune.choosing.prunable import prunable, ratios
from channel_prune.config import Config, DetectConfig
from channel_prune.data import Data, open_data
from channel_prune.files.loading import find_model, load_network, save_network
from channel_prune.job import Job, example, kept_of, make_task, masks_of, newest, slim_of
from channel_prune.layout import chosen_folder, full_model, place, run_folder
from channel_prune.macs import macs_table
from channel_prune.summary import Rival, summarise
from prunelab import dist
from prunelab.config import save_yaml, to_plain
from prunelab.errors import UserError
from prunelab.progress import duration
from prunelab.report import Table, result_table
from prunelab.run import Run
from prunelab.surgery import trace
from prunelab.util import atomic_folder, write_json

CHOICE = "choice.json"
"""What was chosen, layer by layer; in the folder of the first stage."""
CONFIG = "config.yaml"
SLIM = "slim"
"""Folder of the network without the channels that were pruned."""


def check_pruning(run: Run, cfg: Config, network: nn.Module, picture: Tensor) -> None:
    """Before the choice: its ratios must fit the network; say so where no slim network can be made of it.

    Raises:
        UserError: a list of another length, a name to skip that no layer has, or nothing to prune.
    """
    ratios(prunable(network, picture), cfg.prune)
    try:
        trace(network, picture)
    except UserError as error:
        run.say(f"warning: {error}; channels get weights of zero, but no slim network will be made")


@contextmanager
def warnings_said(run: Run) -> Iterator[None]:
    """Say what is warned of in here (a layer that would be left without channels) as lines of the run."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: run.say(f"warning: {message}")
        yield


def tell_layer(run: Run, progress: Progress) -> None:
    """Say that a layer is done, and how long the rest will take."""
    record = progress.record
    run.say(
        f"layer {progress.done}/{progress.total} {record.name}: {len(record.kept)} of {record.channels} "
        f"channels stay, loss {record.loss_before:.4g} -> {record.loss_after:.4g}, "
        f"{duration(progress.seconds_left)} left"
    )


def keep_choice(run: Run, cfg: Config, data: Data, network: nn.Module, choice: Choice) -> None:
    """Write the network with chosen channels where fine-tuning looks for it, and what was done to layers."""

    def write() -> None:
        notes = {"pruned": {name: len(kept) for name, kept in choice.kept.items()}}
        save_network(chosen_folder(cfg), cfg, data, network, notes=notes)
        write_json(run.cfg.dir / CHOICE, choice.as_dict())

    dist.on_main(write)
    columns = ["layer", "channels", "kept", "loss before", "loss after", "seconds"]
    rows = [[r.name, r.channels, len(r.kept), r.loss_before, r.loss_after, r.seconds] for r in choice.records]
    if run.is_main and not run.cfg.quiet:
        formats = {"loss before": ".4g", "loss after": ".4g", "seconds": ".1f"}
        result_table("channels that are kept", columns, rows, formats=formats).print()
    last = choice.records[-1]
    run.say(f"pruned: {last.pr_trn:.2%} of all trainable numbers, {last.pr_krn:.2%} of the kernels")


def begin(run: Run, job: Job) -> None:
    """Before the first step: evaluate a network whose channels were chosen as it is."""
    if job.masks is not None and not run.resumed:
        with run.evaluating(job.model):
            run.report(job.task.evaluate(job.model, job.optimizer), tell=["loss", *job.task.figures])


def save(run: Run, job: Job) -> None:
    """Evaluate; write a checkpoint and the model folders ``last/`` and, for the best network, ``best/``."""
    with run.evaluating(job.model):
        found = run.report(job.task.evaluate(job.model, job.optimizer), tell=["loss", *job.task.figures])
    name = job.task.figures[0]
    best = run.is_best(name, found[name])
    notes = {"step": run.step, **found}

    def write(spot: Path) -> None:
        save_network(spot, job.cfg, job.data, job.network, notes=notes)

    run.save(best=best, model_folder=write)


def end(run: Run, job: Job) -> None:
    """After the last step: the slim network, the table, copies where the original has them. Collective."""
    cfg, folder, last = job.cfg, run_folder(job.cfg), run.cfg.dir / "last"
    counts = None
    if job.masks is None:
        rivals = [_rival("dense", last, cfg, run.device)]
        copies = [(last, place(cfg.run.save_path_eval))]
    else:
        chosen = _rival("pruned, before fine-tuning", chosen_folder(cfg), cfg, run.device)
        pruned, counts = _pruned(cfg, last, folder, job.data, run.device)
        rivals = [*_dense(cfg, run.device), chosen, *pruned]
        copies = [(last, place(cfg.run.save_path_cpr_eval))]
    if cfg.run.output:  # a folder of its own: nothing is written beside it
        copies = []
    if job.masks is not None:
        copies += [(run.cfg.dir / name, folder / name) for name in ("last", "best")]

    def write() -> None:
        for source, target in copies:
            _copy(source, target)

    dist.on_main(write)
    title = f"{cfg.net.name} on {cfg.data.dataset}, {run.step} steps"
    quiet = run.cfg.quiet or cfg.run.tour  # a tour prints one table of all its runs
    picture = example(cfg, run.device)
    summarise(rivals, job.task, picture, folder=folder, title=title, more=counts, quiet=quiet)
    job.task.write(answers_folder(cfg))


def end_pruning(cfg: Config, folder: Path, *, quiet: bool = False) -> None:
    """After a pruning without training: the slim network and the table. Collective."""
    device = dist.start(cfg.run.device)
    data = open_data(cfg, folder / "fake_data")
    last = folder / "last"
    dist.on_main(lambda: _copy(chosen_folder(cfg), last))
    pruned, counts = _pruned(cfg, last, folder, data, device)
    rivals = [*_dense(cfg, device), *pruned]
    task, title = make_task(cfg, data, device), f"{cfg.net.name} on {cfg.data.dataset}, not fine-tuned"
    summarise(rivals, task, example(cfg, device), folder=folder, title=title, more=counts, quiet=quiet)


def answers_folder(cfg: Config) -> Path:
    """Where files of detections go: what the flag says, or the run's own folder where it has one."""
    named = cfg.detect.outputs_dump_dir
    if cfg.run.output and named == DetectConfig().outputs_dump_dir:
        return Path(cfg.run.output) / "ssd_outputs"
    return Path(named)


def _rival(name: str, spot: Path, cfg: Config, device: torch.device) -> Rival:
    return Rival(name=name, model=load_network(spot, cfg.net).to(device), place=find_model(spot))


def _dense(cfg: Config, device: torch.device) -> list[Rival]:
    """The full network, where it still lies where it was found."""
    spot = newest(full_model(cfg), cfg)
    return [_rival("dense", spot, cfg, device)] if spot.exists() else []


def _pruned(
    cfg: Config, last: Path, folder: Path, data: Data, device: torch.device
) -> tuple[list[Rival], Table | None]:
    """The pruned network of a model folder, and the slim one, which is made and written here.

    Returns:
        Both, and their multiply-adds by each convention; a network that cannot be followed alone.
    """
    dist.on_main(lambda: save_yaml(folder / CONFIG, to_plain(cfg)))  # for commands that are given a model
    masked = _rival("pruned", last, cfg, device)
    kept = kept_of(masks_of(cfg, masked.model))
    try:
        small = slim_of(cfg, masked.model, kept)
        counts = macs_table(masked.model, example(cfg, device), kept, first=cfg.run.flops_convention)
    except UserError as error:
        if dist.is_main():
            print(f"no slim network: {error}")
        return [masked], None
    spot = folder / SLIM
    dist.on_main(lambda: save_network(spot, cfg, data, small.model, structure=small.structure))
    return [masked, Rival(name="slim", model=small.model, place=spot)], counts


def _copy(source: Path, target: Path) -> None:
    """Put a copy of a model folder in another place; nothing where there is no such folder."""
    if source.is_dir() and source.resolve() != target.resolve():
        with atomic_folder(target) as new:
            shutil.copytree(source, new, dirs_exist_ok=True)
