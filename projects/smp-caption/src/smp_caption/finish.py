"""What stands around a run's steps: exports, test scores, the original's files."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from prunelab import dist
from prunelab.errors import UserError
from prunelab.hub import is_model_folder
from prunelab.mask import MASK_SUFFIX, draw_once
from prunelab.mask.packed_cli import pack
from prunelab.run import Run
from smp_caption import original
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.data import CaptionData
from smp_caption.evaluate import decode_options, make_evaluator
from smp_caption.pruner import SupermaskPruner

SCORE = "val/CIDEr"
"""What the best model is chosen by."""
PRUNED = "pruned"
"""Folder of the best model with its masks applied, in the dense architecture."""
PACKED = "pruned.pack"
"""The same weights in a packed sparse file."""


def begin(
    cfg: Config, run: Run, captioner: Captioner, data: CaptionData, optimizer: Optimizer, max_step: int
) -> None:
    """Before the first step of a new run: the optimiser of ``resume_training``, and what the original writes.

    Under ``faithful`` that is ``config.json``, the first weights without masks and the counts of parameters.
    """
    restored = _restore_optimizer(cfg, run, optimizer)
    if cfg.data.cached_tokens:
        run.say(
            f"cached_tokens {cfg.data.cached_tokens}: not read, since only self-critical training needs it"
        )
    if cfg.run.preset == "faithful":
        notes = {"model_restored": bool(cfg.run.start_from), "optimizer_restored": restored}
        dist.on_main(
            lambda: _write_first(cfg, run.cfg.dir, captioner, data, max_train_step=max_step, **notes)
        )


def _restore_optimizer(cfg: Config, run: Run, optimizer: Optimizer) -> bool:
    """Load the optimiser beside the weights that ``resume_training`` starts from; whether there was one."""
    if not (cfg.run.start_from and cfg.run.resume_training):
        return False
    file = original.find(Path(cfg.run.start_from), last=True).with_name(original.OPTIMIZER_LAST)
    if not file.is_file():
        warn(
            cfg, run, f"{file} is not there: the optimiser begins anew (--resume goes on with a run exactly)"
        )
        return False
    original.load_optimizer(optimizer, file)
    return True


def _write_first(cfg: Config, folder: Path, captioner: Captioner, data: CaptionData, **notes: Any) -> None:
    now = str(datetime.datetime.now())
    original.write_config(folder, cfg, captioner, datetime=now, **data.sources.places, **notes)
    state = {n: v for n, v in captioner.model.state_dict().items() if not n.endswith(MASK_SUFFIX)}
    original.write_state(folder / original.INIT, state)
    original.write_parameter_counts(folder, captioner.model)


def keep(
    cfg: Config,
    run: Run,
    captioner: Captioner,
    optimizer: Optimizer,
    pruner: SupermaskPruner | None,
    *,
    best: bool,
) -> None:
    """After a validation, under ``faithful``: the original's files of the last state, and of the best one."""
    if cfg.run.preset != "faithful":
        return
    notes: dict[str, Any] = {
        "best_global_step": run.best.get(SCORE, {}).get("step"),
        "current_lr": optimizer.param_groups[0]["lr"],
        "beam_size": cfg.decode.beam_size_val,
    }
    if pruner is not None:
        notes["current_sparsity"] = pruner.sparsity()

    def write() -> None:
        original.write_training(run.cfg.dir, captioner.model, optimizer, best=best)
        if not (run.cfg.dir / original.CONFIG).is_file():  # begun under the other preset
            original.write_config(run.cfg.dir, cfg, captioner)
        original.add_notes(run.cfg.dir, **notes)

    dist.on_main(write)


def warn(cfg: Config, run: Run, text: str) -> None:
    """Say a warning, which ``logging_level`` WARNING shows too although it keeps the run quiet."""
    run.say(f"warning: {text}")
    if cfg.run.logging_level == "WARNING" and run.is_main:
        print(f"warning: {text}", file=sys.stderr)


def end(cfg: Config, run: Run, data: CaptionData, folder: Path) -> dict[str, float]:
    """After the last step: export the best model and score it on the test split, as a dense model.

    A pruned run that never came near its sparsity has no best model; its last one is taken then, with a
    warning (the original ends in an error and loses its scores).

    Returns:
        The test scores.
    """
    place = folder / "best"
    if not is_model_folder(place):
        place = folder / "last"
        warn(cfg, run, f"no validation counted as best (sparsity off target?): taking {place}")
    if not is_model_folder(place):
        raise UserError(f"{folder} holds neither best/ nor last/: the run ended before its first validation")
    best = Captioner.from_pretrained(place, device=run.device)
    dense = best.pruned()
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
    with run.evaluating(dense.model), draw_once(dense.model):
        scores = run.report(evaluator.run(dense.model))
    evaluator.write(folder / f"test_beam_{cfg.decode.beam_size_test}", int(best.notes.get("step", run.step)))
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
