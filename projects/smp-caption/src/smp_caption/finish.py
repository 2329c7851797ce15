"""What stands around a run's steps: first masks, validations, exports, test scores, the original's files."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab import dist
from prunelab.errors import UserError
from prunelab.hub import is_model_folder
from prunelab.mask.packed_cli import pack
from prunelab.run import Run
from smp_caption import steps
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.evaluate import decode_options, make_evaluator, write_evaluation
from smp_caption.files import original
from smp_caption.job import Job, continued, tell, weights_alone
from smp_caption.model import build, choose_caching
from smp_caption.pruner import FIRST_WEIGHTS, Pruner, crowded

SCORE = "val/CIDEr"
"""What the best model is chosen by."""
PRUNED = "pruned"
"""Folder of the best model with its masks applied, in the dense architecture."""
PACKED = "pruned.pack"
"""The same weights in a packed sparse file."""


def begin(run: Run, job: Job) -> None:
    """Before the first step of a new run: masks that are made before training, and the first weights.

    With ``resume_training`` the moments of the optimiser and the counts come from the run that is gone on
    with. ``init/`` keeps the weights that training begins with, which lottery tickets go back to. Under
    ``faithful`` there are the original's ``config.json`` and counts of parameters, too.

    Raises:
        UserError: nothing is left to do of the run that ``resume_training`` goes on with.
    """
    cfg = job.cfg
    if run.resumed:
        _check_unfinished(run, job)
        return
    for line in () if job.rewards is None else job.rewards.lines:
        run.say(line)
    if job.rewards is None and cfg.data.cached_tokens:
        run.say(
            f"cached_tokens {cfg.data.cached_tokens}: not read, since only self-critical training needs it"
        )
    restored = _go_on(run, job)
    if job.pruner is not None and not cfg.run.resume_training:
        _prune_first(run, job, job.pruner)
    dist.on_main(lambda: _write_init(run, job.captioner))
    if cfg.run.preset == "faithful":
        notes = {"model_restored": bool(cfg.run.start_from), "optimizer_restored": restored}
        dist.on_main(lambda: _write_first(run.cfg.dir, job, **notes))


def _check_unfinished(run: Run, job: Job) -> None:
    """Refuse to go on, in another folder, with a run that has made all of its steps."""
    if continued(job.cfg) is None or run.finished or run.step < job.max_step:
        return
    if not any(is_model_folder(run.cfg.dir / name) for name in ("best", "last")):
        raise UserError(
            f"start_from {job.cfg.run.start_from}: made {run.step} of {job.max_step} steps, so that "
            "resume_training leaves nothing to do: expected a higher max_epochs, or no resume_training"
        )


def _prune_first(run: Run, job: Job, pruner: Pruner) -> None:
    """Make the masks that the method makes before training."""

    def loss_of(batch: dict[str, Any]) -> Tensor:
        return steps.cross_entropy(job.model, batch, job.cfg)

    for line in pruner.prepare(job.batches(run.device), loss_of):
        tell(job.cfg, run, line)
    job.optimizer.zero_grad(set_to_none=True)


def _go_on(run: Run, job: Job) -> bool:
    """Take over moments and counts beside the weights that ``resume_training`` starts from.

    The original restores the moments alone: its counts, epoch and schedule begin at 0.

    Returns:
        Whether there were any.
    """
    cfg = job.cfg
    if not (cfg.run.start_from and cfg.run.resume_training):
        return False
    file = original.find(Path(cfg.run.start_from), last=True).with_name(original.OPTIMIZER_LAST)
    if not file.is_file():
        tell(
            cfg,
            run,
            f"warning: {file} is not there: the optimiser begins anew (--resume goes on with a run exactly)",
        )
        return False
    original.load_optimizer(job.optimizer, file)
    made = [float(state["step"]) for state in job.optimizer.state.values() if "step" in state]
    if not made:
        tell(cfg, run, f"warning: {file} counts no updates: steps and schedule begin anew")
        return True
    step = int(max(made))
    if step >= job.max_step:
        raise UserError(
            f"{file}: made {step} updates of {job.max_step}, so that resume_training leaves nothing to do: "
            "expected a higher max_epochs, or no resume_training"
        )
    epoch, position = divmod(step, len(job.loader))
    job.loader.sampler.set_epoch(epoch)
    for _ in range(position):
        job.loader.sampler.advance()
    job.schedule.count = step
    run.begin_at(step=step, updates=step, epoch=epoch, position=position)
    run.say(f"going on after step {step} of {job.max_step}; the best score so far is not known")
    return True


def _write_init(run: Run, captioner: Captioner) -> None:
    """Write ``init/``: the network as it begins, in the dense architecture, without masks."""
    config = replace(captioner.config, caption_model=captioner.config.caption_model.removesuffix("_prune"))
    with torch.device("meta"):  # no random number is drawn, and nothing is computed
        dense = build(config)
    dense.load_state_dict(weights_alone(captioner.model), assign=True)
    replace(captioner, model=dense, config=config, mask=None).save_pretrained(run.cfg.dir / FIRST_WEIGHTS[0])


def _write_first(folder: Path, job: Job, **notes: Any) -> None:
    notes |= {"datetime": str(datetime.datetime.now()), "max_train_step": job.max_step}
    original.write_config(folder, job.cfg, job.captioner, **job.data.sources.places, **notes)
    original.write_parameter_counts(folder, job.model)


def report_sparsity(run: Run, job: Job, *, tell: Sequence[str] = ()) -> None:
    """Write the sparsity of all masks and of each, if there are any; those in `tell` are said, too."""
    if job.pruner is not None:
        run.report(job.pruner.scalars(), tell=tell)


def validate(run: Run, job: Job) -> None:
    """Score the validation pictures and save; the best CIDEr counts only once the sparsity is on target."""
    cfg, model, pruner = job.cfg, job.model, job.pruner
    with run.evaluating(model), model.prepared():
        scores = run.report(job.evaluator.run(model))
    report_sparsity(run, job, tell=["prune/sparsity/all"])
    if pruner is not None:
        for name in crowded(pruner.masks):
            tell(cfg, run, f"warning: {name} prunes more than 99.9 % of its weights")
    job.evaluator.write(run.cfg.dir / f"val_beam_{cfg.decode.beam_size_val}", run.step)
    best = run.is_best(SCORE, scores[SCORE], allowed=pruner is None or pruner.on_target())
    keep(run, job, best=best)
    note = {"step": run.step, "scores": scores}
    run.save(best=best, model_folder=lambda place: job.captioner.save_pretrained(place, extra=note) and None)


def keep(run: Run, job: Job, *, best: bool) -> None:
    """After a validation, under ``faithful``: the original's files of the last state, and of the best one."""
    cfg = job.cfg
    if cfg.run.preset != "faithful":
        return
    notes: dict[str, Any] = {
        "best_global_step": run.best.get(SCORE, {}).get("step"),
        "current_lr": job.optimizer.param_groups[0]["lr"],
        "beam_size": cfg.decode.beam_size_val,
    }
    if job.pruner is not None:
        notes["current_sparsity"] = job.pruner.sparsity()

    def write() -> None:
        original.write_training(run.cfg.dir, job.model, job.optimizer, best=best)
        if not (run.cfg.dir / original.CONFIG).is_file():  # begun under the other preset, or gone on with
            original.write_config(run.cfg.dir, cfg, job.captioner)
        original.add_notes(run.cfg.dir, **notes)

    dist.on_main(write)


def end(run: Run, job: Job) -> dict[str, float]:
    """After the last step: export the best model and score it on the test split, as a dense model.

    A pruned run that never came near its sparsity has no best model; its last one is taken then, with a
    warning (the original ends in an error and loses its scores).

    Returns:
        The test scores.
    """
    cfg, data, folder = job.cfg, job.data, run.cfg.dir
    place = folder / "best"
    if not is_model_folder(place):
        place = folder / "last"
        tell(cfg, run, f"warning: no validation counted as best (sparsity off target?): taking {place}")
    if not is_model_folder(place):
        raise UserError(f"{folder} holds neither best/ nor last/: the run ended before its first validation")
    best = Captioner.from_pretrained(place, device=run.device)
    dense = best.pruned()
    choose_caching(dense.model, cfg.quirks)
    dist.on_main(lambda: _export(cfg, run, best, dense))
    evaluator = make_evaluator(
        "test",
        data.loader("test", best.tokenizer, rank=run.rank, world_size=run.world_size),
        data.references("test"),
        best.tokenizer,
        decode_options(
            best.config, cfg.decode, cfg.decode.beam_size_test, original=cfg.quirks.original_decoding
        ),
        device=run.device,
    )
    with run.evaluating(dense.model), dense.model.prepared():
        scores = run.report(evaluator.run(dense.model))
    write_evaluation(
        evaluator,
        folder,
        beams=cfg.decode.beam_size_test,
        step=int(best.notes.get("step", run.step)),
        online=chain.from_iterable(data.records.values()) if cfg.data.mscoco_online_test else None,
    )
    return scores


def _export(cfg: Config, run: Run, best: Captioner, dense: Captioner) -> None:
    folder = run.cfg.dir
    if dense is not best:
        dense.save_pretrained(folder / PRUNED, extra=best.notes)
        pack(folder / PRUNED, folder / PACKED, merge_zeros=True, tell=run.say)
    if cfg.run.preset == "faithful":
        if not (is_model_folder(folder / "best") and (folder / original.BEST).is_file()):
            original.write_state(folder / original.BEST, best.model.state_dict())
        step, beams = best.notes.get("step"), cfg.decode.beam_size_test
        original.add_notes(folder, best_global_step=step, beam_size=beams)
        if dense is not best:
            original.write_exports(folder, best)
