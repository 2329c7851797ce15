"""What stands around a run's steps: the end of an epoch, the end of the run, and what they write."""

from __future__ import annotations

from acosp.structure import phase
from acosp_seg.evaluate import Evaluator, figures, loss_of_batches
from acosp_seg.job import Job
from acosp_seg.model.original import write_original
from acosp_seg.segmenter import Segmenter
from prunelab import dist
from prunelab.run import Run

CLASSIFIER_LOG = "log_{:g}.txt"
"""The original's log of a classifier's training, by sparsity."""
TOLD = ("pruning/mean_temperature", "pruning/mean_chosen", "pruning/mean_pruned")
"""Values of the masks that the line of an epoch shows."""


def end_epoch(run: Run, job: Job, evaluator: Evaluator | None, epoch: int, *, whole: bool) -> None:
    """Tell the epoch's figures, evaluate, cool the masks down, save what is due.

    Args:
        run: at the last micro-batch of the epoch.
        job: in training mode.
        evaluator: of the validation pictures; None: no evaluation.
        epoch: from 0.
        whole: False where the run was told to stop after so many steps, inside of the epoch.
    """
    if whole:
        run.report(figures(job.totals.sums, "train"), at=epoch + 1)
        job.totals.empty()
        masks = job.pruning.figures(job.model, epoch)
        run.report(masks.items(), tell=[name for name in TOLD if name in masks], at=epoch)
    job.pruning.refresh(job.model)
    cfg = job.cfg
    last = run.step == cfg.run.max_steps or epoch + 1 == cfg.optim.epochs
    due = whole and (epoch + 1) % cfg.run.save_freq == 0
    if due:
        write_file(job, run, epoch + 1)
    best = validate(run, job, evaluator, at=epoch + 1)
    if whole and job.classifier and evaluator is not None:
        _log_classifier(run, job, evaluator, epoch)
    if whole:
        job.pruning.end_epoch(job.model, epoch)
        run.retrack(structure=job.structure)
    if due or best or last:
        save(run, job, best=best)


def end(run: Run, job: Job, evaluator: Evaluator | None) -> None:
    """After the last epoch: make masks hard that are still soft, and write the original's last file."""
    epochs, stays_soft = job.cfg.optim.epochs, job.classifier and job.cfg.quirks.end_stays_soft
    if phase(job.model) == "soft" and not stays_soft:
        job.harden(run, "after the last epoch")
        best = validate(run, job, evaluator, at=epochs)
        save(run, job, best=best)
    write_file(job, run, epochs)


def validate(run: Run, job: Job, evaluator: Evaluator | None, *, at: int) -> bool:
    """Evaluate; whether this is the best model so far. In a pruned run only hard masks count."""
    if evaluator is None:
        return False
    with run.evaluating(job.model):
        scores = run.report(evaluator.run(job.model), at=at)
    name = "allAcc_val" if job.classifier else "mIoU_val"
    soft_counts = job.classifier and job.cfg.quirks.best_may_be_soft
    return run.is_best(name, scores[name], allowed=soft_counts or phase(job.model) != "soft")


def _log_classifier(run: Run, job: Job, evaluator: Evaluator, epoch: int) -> None:
    """Add the epoch's line to the original's log: number, test loss, test accuracy in percent."""
    name = CLASSIFIER_LOG.format(job.cfg.prune.sparsity)
    if epoch == job.start:
        run.append(name, "epoch, loss, acc")
    loss = loss_of_batches(evaluator.sums, per_sample=job.cfg.quirks.loss_per_sample)
    accuracy = dict(figures(evaluator.sums, "val"))["allAcc_val"]
    run.append(name, f"{epoch}, {loss}, {100 * float(accuracy)}")


def save(run: Run, job: Job, *, best: bool) -> None:
    """Write a checkpoint and the model folders ``last/`` and, for the best one, ``best/``."""
    notes = {"step": run.step, "epoch": run.epoch + 1}
    segmenter = Segmenter(model=job.masked, config=job.cfg, notes=notes)
    run.save(best=best, model_folder=lambda place: segmenter.save_pretrained(place) and None)


def write_file(job: Job, run: Run, epoch: int) -> None:
    """Write the original's ``train_epoch_N.pth``, where that is wanted."""
    cfg = job.cfg
    if not cfg.run.original_files:
        return
    dist.sync_buffers(job.model)
    model = job.masked
    optimizer = job.optimizer if model is job.model else None  # a slim one's state fits no other network
    path = run.cfg.dir / f"train_epoch_{epoch}.pth"
    learnable = cfg.prune.learnable_weights
    dist.on_main(lambda: write_original(path, epoch, model, optimizer, learnable_weights=learnable))
