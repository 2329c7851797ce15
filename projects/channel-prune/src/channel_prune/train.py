"""Train a network: full, or pruned in two stages, which choose channels and fine-tune.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from channel_prune import finish, steps
from channel_prune.choosing.choose import choose
from channel_prune.cli import parse_train
from channel_prune.config import Config
from channel_prune.data import Data, open_data
from channel_prune.job import example, full_network, make_job, sampling_batches
from channel_prune.layout import chosen_folder, run_folder
from channel_prune.lowering import lower
from channel_prune.schedule import iterations, learning_rate
from channel_prune.test import test
from channel_prune.tour import tour
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings

CHOOSE, FINETUNE = "choose", "finetune"
"""Sub-folders of a pruned run: its stages."""


def train(cfg: Config, *, quiet: bool = False) -> Path:
    """Train as configured: the full network, or the stages of a pruned one.

    Returns:
        The run's folder.

    Raises:
        UserError: data or the full network are missing or do not fit the configuration, the folder holds a
            run already, or a gradient is not finite.
    """
    folder = run_folder(cfg)
    if not cfg.run.prunes:
        fit(cfg, folder, quiet=quiet)
        return folder
    if cfg.prune.warm_start or choose_channels(cfg, folder / CHOOSE, quiet=quiet):
        fit(cfg, folder / FINETUNE, chosen_folder(cfg), quiet=quiet)
    return folder


def choose_channels(cfg: Config, folder: Path, *, quiet: bool = False) -> bool:
    """The first stage: choose channels and refit layers, on rank 0 for all.

    Returns:
        Whether it is done; False where the run was told to stop.
    """
    with Run(settings(cfg, folder, quiet=quiet), config=to_plain(cfg), name="choose") as run:
        if not run.finished:
            network = full_network(cfg).to(run.device)
            picture = example(cfg, run.device)
            finish.check_pruning(run, cfg, network, picture)
            data = open_data(cfg, run_folder(cfg) / "fake_data")
            look_at(data, run)
            with finish.warnings_said(run):
                choice = choose(
                    network,
                    sampling_batches(cfg, data, run.device),
                    cfg.prune,
                    example=picture,
                    once=run.once,
                    on_layer=lambda progress: finish.tell_layer(run, progress),
                )
            finish.keep_choice(run, cfg, data, network, choice)
    return not run.stopping


def fit(cfg: Config, folder: Path, chosen: Path | None = None, *, quiet: bool = False) -> None:
    """Train the full network or, given where it lies, fine-tune one whose channels were chosen."""
    device = dist.start(cfg.run.device)
    whole = iterations(cfg, dist.world_size())
    limit = min(whole, cfg.run.max_steps or whole)
    with Run(settings(cfg, folder, limit, quiet=quiet), config=to_plain(cfg), name="train") as run:
        data = open_data(cfg, run_folder(cfg) / "fake_data")
        job = make_job(cfg, data, chosen, device)
        run.track(**job.tracked)
        look_at(data, run)
        finish.begin(run, job)
        job.model.train()
        for step, batch in run.steps(job.batches):
            rate = learning_rate(cfg, step - 1, run.world_size)
            steps.set_rate(job.optimizer, rate)
            run.log(lr=rate, **job.step(batch, step - 1), **job.shares)
            run.updated()
            if run.due(f"{cfg.run.save_step} steps"):
                finish.save(run, job)
        if not run.stopping:
            finish.end(run, job)


def look_at(data: Data, run: Run) -> None:
    """Look at the files of a data set once a run, so that a broken one is told before any work is done.

    It is the last of all checks: from here on the folder holds a run.
    """
    run.once("data", data.check)
    if data.how:
        run.say(data.how)


def settings(cfg: Config, folder: Path, limit: int | None = None, *, quiet: bool = False) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device,
        max_steps=limit,
        keep_last=run.keep_last,
        log_every=f"{run.summ_step} steps",
        console_every=f"{run.summ_step} steps",
        quiet=quiet,
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    raw = parse_train(argv)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.net.name} on {cfg.data.dataset}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    elif cfg.run.exec_mode == "eval":
        test(cfg)
    else:
        train(cfg)


if __name__ == "__main__":
    main()
