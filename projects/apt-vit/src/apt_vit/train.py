"""Train a network that learns which of its tokens to drop.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from apt_vit import finish, messages
from apt_vit.cli import parse_train
from apt_vit.config import Config
from apt_vit.data import Data, open_data
from apt_vit.job import length_of, make_job
from apt_vit.layout import FAKE_DATA, run_folder
from apt_vit.lowering import lower
from apt_vit.tour import tour
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings
from prunelab.runfolder import check_free
from prunelab.seed import derive, seed_all


def train(cfg: Config, *, data: Data | None = None, quiet: bool = False) -> Path:
    """Train as configured.

    Args:
        cfg: what is trained, and how.
        data: the data set, opened; None: that of the configuration.
        quiet: print nothing of ours.

    Returns:
        The run's folder.

    Raises:
        UserError: data or weights are missing or do not fit the configuration, the folder holds a run
            already, or a gradient is not finite.
    """
    folder = run_folder(cfg)
    dist.start(cfg.run.device)
    dist.on_main(lambda: check_free(folder, resume=cfg.run.resume))  # before generated data go there
    data = data or open_data(cfg, folder / FAKE_DATA)
    faithful = cfg.run.preset == "faithful"
    limit = length_of(cfg, len(data.loader("train", dist.rank(), dist.world_size())))
    told = messages.shown() if faithful else nullcontext()
    run_settings = settings(cfg, folder, limit, quiet=quiet)
    with (
        told,
        Run(run_settings, config=to_plain(cfg), name="train") as run,
        closing(make_job(cfg, data, run)) as job,
    ):
        run.track(**job.tracked)
        run.once("data", data.check)
        finish.begin(run, job)
        if not run.resumed:  # as the original does: what was drawn so far decides nothing of what follows
            seed_all(derive(cfg.run.seed, "rank", run.rank) if run.rank else cfg.run.seed)
        job.model.train()
        for _, batch in run.steps(job.batches):
            logs = job.step(batch)
            run.log(**logs.figures())
            update = job.update()
            if update is not None:
                run.log(**update)
                run.updated()
                job.tell(run.updates, logs, update)
            best = run.due(f"{cfg.run.eval_every} updates", last=not faithful) and finish.validate(run, job)
            if best or run.due(f"{cfg.run.save_every} updates"):
                finish.save(run, job, best=best)
        if not run.stopping:
            finish.end(run, job)
    return folder


def settings(cfg: Config, folder: Path, limit: int, *, quiet: bool = False) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    # On a terminal the original's line of progress stands where the bar would.
    own_line = run.preset == "faithful" and sys.stderr.isatty()
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device,
        max_steps=limit,
        keep_last=run.keep_last,
        log_every="1 updates",
        console_every="10 updates",
        quiet=quiet or own_line,
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    raw = parse_train(argv)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.model.model_type} on {cfg.data.dataset}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    else:
        train(cfg)


if __name__ == "__main__":
    main()
