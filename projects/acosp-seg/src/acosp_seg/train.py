"""Train a network, dense or pruned: the loop, and what surrounds it.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acosp_seg import finish, steps
from acosp_seg.cli import parse_train
from acosp_seg.config import Config
from acosp_seg.data import open_data
from acosp_seg.evaluate import Evaluator
from acosp_seg.job import make_job
from acosp_seg.layout import resolve
from acosp_seg.lowering import lower, run_folder
from acosp_seg.model.network import Network
from acosp_seg.pruner import temperature
from acosp_seg.tour import tour
from prunelab.checkpoint import listed
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings
from prunelab.runfolder import CHECKPOINTS


def train(cfg: Config, *, quiet: bool = False) -> Path:
    """Train as configured.

    Returns:
        The run's folder.

    Raises:
        UserError: data are missing or do not fit the configuration, the folder holds a run already, or a
            gradient is not finite.
    """
    folder = run_folder(cfg)
    with Run(settings(cfg, folder, quiet=quiet), config=to_plain(cfg), name="acosp-seg") as run:
        check_batches(cfg, run.world_size)
        data = open_data(cfg, folder / "fake_data")
        loader = data.loader("train", rank=run.rank, world_size=run.world_size)
        job = make_job(cfg, run)
        run.track(sampler=loader.sampler, **job.tracked)
        job.model.train()
        check_size(job.model, cfg, run.world_size)
        if cfg.data.check_labels:  # last of all checks: from here on the folder holds a run
            tell_labels(run, run.once("labels", data.check))
        evaluator = None
        if cfg.run.evaluate:
            val = data.loader("val", rank=run.rank, world_size=run.world_size)
            evaluator = Evaluator(val, cfg, run.device)
        before, each = job.start * len(loader), len(loader)
        for epoch in run.epochs(cfg.optim.epochs - job.start):
            job.begin_epoch(run, job.start + epoch)
            for step, (x, y) in run.steps(loader):
                used = job.optimizer.param_groups[0]["lr"]
                outcome = steps.train_step(
                    job.model,
                    job.optimizer,
                    on_device(x, run.device, cfg),
                    y.to(run.device, non_blocking=True),
                    aux_weight=cfg.optim.aux_weight,
                    amp=cfg.run.amp,
                )
                run.updated()
                # The rate of the next step, so that a checkpoint's optimiser holds it.
                rate = steps.learning_rate(cfg.optim, before + step, each)
                steps.set_rates(job.optimizer, rate, job.factors)
                tau = temperature(job.model)
                more = {} if tau is None else {"temperature": tau}
                run.log(**job.totals.add(outcome), lr=used, **more)
                whole = run.due("1 epoch")
                if whole or step == cfg.run.max_steps:
                    finish.end_epoch(run, job, evaluator, job.start + epoch, whole=whole)
        if not (run.stopping or run.finished) and job.start + run.epoch >= cfg.optim.epochs:
            finish.end(run, job, evaluator)
    return folder


def settings(cfg: Config, folder: Path, *, quiet: bool = False) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    # The original's own way to go on in a folder is to name a checkpoint in it. Ours is at least as new, and
    # leads to the same end.
    in_place = bool(run.resume_from) and resolve(run.resume_from).parent.resolve() == folder.resolve()
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume or (in_place and bool(listed(folder / CHECKPOINTS))),
        device=run.device,
        max_steps=run.max_steps,
        keep_last=run.keep_last,
        log_every="1 step" if run.preset == "faithful" else f"{run.print_freq} steps",
        console_every=f"{run.print_freq} steps",
        quiet=quiet,
    )


def check_batches(cfg: Config, processes: int) -> None:
    """Refuse a training batch, which is that of all processes together, that cannot be shared out.

    Raises:
        UserError: it is not a multiple of the number of processes.
    """
    size = cfg.data.batch_size
    if size % processes:
        raise UserError(
            f"batch_size is {size}, expected a multiple of {processes}, the number of processes that share it"
        )


def check_size(model: Network, cfg: Config, processes: int) -> None:
    """Refuse a size of crops or of batches that the network cannot take, before any picture is read.

    Raises:
        UserError: see `acosp_seg.model.network.Network.check_input`.
    """
    data = cfg.data
    size = (data.batch_size // processes, 3, data.train_h, data.train_w)
    model.check_input(torch.empty(size, device="meta"))


def tell_labels(run: Run, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Say once which classes no label map that was looked at has."""
    missing = found["train"].get("missing")
    if missing and not run.resumed:
        classes = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        run.say(f"labels: no pixel of class {classes} in {found['train']['files']} training label maps")


def on_device(x: Tensor, device: torch.device, cfg: Config) -> Tensor:
    """Pictures on the network's device, in the memory format that was asked for."""
    x = x.to(device, non_blocking=True)
    return x.contiguous(memory_format=torch.channels_last) if cfg.run.channels_last else x


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    raw = parse_train(argv)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.model.arch} on {cfg.data.dataset}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    else:
        train(cfg)


if __name__ == "__main__":
    main()
