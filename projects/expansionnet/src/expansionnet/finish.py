"""What stands around a run's steps: validations, model folders, the original's checkpoints, the table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from expansionnet.files import original
from expansionnet.files.original import LoaderState
from expansionnet.job import Job, go_on
from expansionnet.layout import saves
from expansionnet.learning.reward import signature
from expansionnet.summary import summarise
from prunelab import dist
from prunelab.run import Run
from prunelab.util import human_count

SCORE = "val/CIDEr"
"""What the best model is chosen by: with the first of ``eval_beam_sizes``."""
TOLD = ("loss", "CIDEr", "Bleu_4", "ROUGE_L")
"""Ends of the names that the line of a validation shows."""


def begin(run: Run, job: Job, checkpoint: Path | None) -> None:
    """Before the first step: go on from the original's checkpoint, if any, and say what is trained."""
    if not run.resumed:
        for line in job.lines:
            run.say(line)
        if checkpoint is not None:
            run.say(go_on(run, job, checkpoint).line)
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    run.say(
        f"{human_count(parameters)} parameters, {len(job.vocabulary):,} words, {len(job.loader):,} "
        f"micro-batches an epoch"
    )
    if job.reward is not None:
        scst = job.cfg.scst
        name = signature(end=scst.end_in_reward, num_samples=scst.num_samples, baseline=scst.baseline)
        run.say(f"SacreEOS signature: {name}")


def validate(run: Run, job: Job) -> None:
    """Score the validation pictures; write a checkpoint and the model folders ``last/`` and ``best/``."""
    model = job.model
    evaluations = [] if job.validation_loss is None else [job.validation_loss.run(model)]
    evaluations += [evaluator.run(model) for evaluator in job.evaluators.values()]
    with run.evaluating(model):
        results = itertools.chain.from_iterable(evaluations)
        found = run.report(results, tell=list(_told(job)))
    for beam_size, evaluator in job.evaluators.items():
        evaluator.write(run.cfg.dir / f"val_beam_{beam_size}", run.step)
    best = run.is_best(SCORE, found[SCORE])
    notes = {"step": run.step, "scores": found}

    def write(folder: Path) -> None:
        job.captioner.save_pretrained(folder, extra=notes)

    keep_original(run, job)
    run.save(best=best, model_folder=write)


def _told(job: Job) -> Iterator[str]:
    yield "val/loss"
    for evaluator in job.evaluators.values():
        yield from (f"{evaluator.name}/{metric}" for metric in TOLD)


def keep_original(run: Run, job: Job) -> None:
    """Under ``faithful``, write the original's checkpoint where it would: in time, and at the end.

    That is after evaluations, if ``save_every_minutes`` have passed since the last one, and after the last
    micro-batch.
    """
    cfg = job.cfg
    last = run.step == min(job.total, cfg.run.max_steps or job.total)
    if cfg.run.preset != "faithful" or not (last or job.minutes_since_saved() > cfg.run.save_every_minutes):
        return
    per_epoch = len(job.loader)
    loader = LoaderState(
        epoch=run.epoch,
        batch=run.step - run.epoch * per_epoch,
        batch_size=cfg.data.batch_size,
        seeds=job.loader.sampler.seeds if cfg.quirks.original_order else (),
    )

    def write() -> None:
        original.write_checkpoint(
            saves(cfg),
            job.model,
            job.updates.optimizer,
            job.updates.schedule,
            loader,
            reinforce=cfg.scst.reinforce,
            keep=cfg.run.how_many_checkpoints,
        )

    dist.on_main(write)
    job.saved = time.monotonic()


def end(run: Run, job: Job) -> None:
    """After the last step: the table of what came out, and what to try next; a tour has one of its own."""
    if run.is_main and not job.cfg.run.tour:
        summarise(run.cfg.dir, job)
