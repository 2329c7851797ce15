"""Train a captioner, dense or pruned, by cross entropy or by reward: the loop.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.run import Run
from smp_caption import finish, steps
from smp_caption.cli import parse_train
from smp_caption.config import Config
from smp_caption.job import in_place, make_job, settings, to_device
from smp_caption.lowering import as_begun, lower, run_folder
from smp_caption.tour import tour


def train(cfg: Config) -> Path:
    """Train as configured, export the best model and score it on the test split.

    Returns:
        The run's folder.

    Raises:
        UserError: data or weights are missing or do not fit the configuration, the folder holds a run
            already, or a gradient is not finite.
    """
    folder = run_folder(cfg)
    cfg = in_place(as_begun(cfg, folder), folder)
    with Run(settings(cfg, folder), config=to_plain(cfg), name="smp-caption") as run:
        job = make_job(cfg, run)
        run.track(**job.tracked)
        job.model.train()
        finish.begin(run, job)
        for epoch in run.epochs(cfg.optim.max_epochs):
            rewards = job.rewards_in(epoch)
            run.speed_in(*job.work_of_step(epoch))
            for step, batch in run.steps(job.loader):
                losses = steps.train_step(
                    job.model,
                    job.optimizer,
                    job.schedule,
                    to_device(batch, run.device),
                    cfg,
                    epoch=epoch,
                    update=step - 1,
                    pruner=job.pruner,
                    rewards=rewards,
                )
                run.updated()
                run.log(**losses)
                if run.due(f"{cfg.run.save_checkpoint_every} steps"):
                    finish.validate(run, job)
                elif run.due(f"{cfg.run.losses_log_every} steps"):
                    finish.report_sparsity(run, job)
        if not run.stopping and not run.finished:
            finish.end(run, job)
    return folder


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    raw = parse_train(argv)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.model.caption_model}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    else:
        train(cfg)


if __name__ == "__main__":
    main()
