"""Train a captioner, a phase at a time: by cross entropy or by reward, reading features or pictures.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from expansionnet import finish, steps
from expansionnet.cli import parse_train
from expansionnet.config import Config
from expansionnet.evaluate import on_device
from expansionnet.job import find_beginning, make_job
from expansionnet.layout import run_folder, run_kind
from expansionnet.lowering import lower
from expansionnet.processes import start_processes
from expansionnet.tour import tour
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings


def train(cfg: Config) -> Path:
    """Train as configured.

    Returns:
        The run's folder.

    Raises:
        UserError: data or weights are missing or do not fit the configuration, the folder holds a run
            already, or a gradient is not finite.
    """
    begin = find_beginning(cfg)
    cfg = begin.cfg
    folder = run_folder(cfg)
    with Run(settings(cfg, folder), config=to_plain(cfg), name=run_kind(cfg)) as run:
        job = make_job(begin, run)
        cfg, model = job.cfg, job.model
        run.track(**job.tracked)
        finish.begin(run, job, begin.checkpoint)
        model.train()
        for _ in run.epochs(cfg.optim.num_epochs):
            for step, batch in run.steps(job.loader):
                batch = on_device(batch, run.device, channels_last=cfg.run.channels_last)
                if job.reward is None:
                    loss = steps.xe_step(model, batch, cfg, job.vocabulary)
                else:
                    loss = steps.scst_step(model, batch, cfg, job.vocabulary, job.reward)
                run.log(**loss.logs, **job.updates.backward(loss.value, step - 1))
                if job.updates.due(step - 1):
                    run.updated()
                save = run.due(f"{cfg.run.save_every_minutes} min", last=False)
                if run.due(f"{cfg.run.eval_every_iter} steps") or run.due("1 epoch"):
                    finish.validate(run, job)
                elif save:
                    run.save()
        if not run.stopping and not run.finished:
            finish.end(run, job)
    return folder


def settings(cfg: Config, folder: Path) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device,
        max_steps=run.max_steps,
        keep_last=run.how_many_checkpoints,
        log_every=f"{run.print_every_iter} steps",
        console_every=f"{run.print_every_iter} steps",
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    words = sys.argv[1:] if argv is None else argv
    raw = parse_train(words)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{run_kind(cfg)}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    else:
        start_processes(cfg.run.num_gpus, cfg.run.ddp_sync_port, "expansionnet.train", words)
        train(cfg)


if __name__ == "__main__":
    main()
