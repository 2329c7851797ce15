"""What stands around a run's steps: exports, test scores, the original's files."""

from __future__ import annotations

from pathlib import Path

from prunelab import dist
from prunelab.errors import UserError
from prunelab.hub import is_model_folder
from prunelab.mask import draw_once
from prunelab.mask.packed_cli import pack
from prunelab.run import Run
from smp_caption import original
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.data import CaptionData
from smp_caption.evaluate import Evaluator, decode_options

PRUNED = "pruned"
"""Folder of the best model with its masks applied, in the dense architecture."""
PACKED = "pruned.pack"
"""The same weights in a packed sparse file."""


def begin(cfg: Config, captioner: Captioner, folder: Path) -> None:
    """Under ``faithful``, write the original's ``config.json`` and its first weights, without masks."""
    if cfg.run.preset == "faithful" and dist.is_main():
        original.write_config(folder, cfg, captioner)
        state = {n: v for n, v in captioner.model.state_dict().items() if not n.endswith("_pruning_mask")}
        original.write_state(folder / original.INIT, state)


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
        run.say(f"warning: no validation counted as best (sparsity off target?): taking {place}")
    if not is_model_folder(place):
        raise UserError(f"{folder} holds neither best/ nor last/: the run ended before its first validation")
    best = Captioner.from_pretrained(place, device=run.device)
    dense = best.pruned()
    dist.on_main(lambda: _export(cfg, folder, best, dense))
    evaluator = Evaluator(
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


def _export(cfg: Config, folder: Path, best: Captioner, dense: Captioner) -> None:
    if dense is not best:
        dense.save_pretrained(folder / PRUNED, extra=best.notes)
        pack(folder / PRUNED, folder / PACKED, merge_zeros=True)
    if cfg.run.preset == "faithful":
        for name, source in (
            (original.BEST, best),
            (original.LAST, Captioner.from_pretrained(folder / "last")),
        ):
            original.write_state(folder / name, source.model.state_dict())
        step = best.notes.get("step")
        original.write_config(folder, cfg, best, best_global_step=step)
        if dense is not best:
            original.write_exports(folder, best)
