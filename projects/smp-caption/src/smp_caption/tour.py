"""The tour: what `train` alone does, a dense and a supermask-pruned captioner on embedded pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prunelab import dist
from prunelab.caption.split import best_constant_caption
from prunelab.data.pictures import read_picture
from prunelab.doors import runs_root
from prunelab.report import gallery, latency, result_table
from prunelab.tour import begin_tour, end_tour
from prunelab.util import human_bytes, read_json, write_json
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.data import CaptionData, open_data
from smp_caption.finish import PACKED, PRUNED
from smp_caption.lowering import TOUR_PRUNED

RESULTS = "tour.json"
SHOWN = 12
"""Pictures on the page."""

COMMAND = "uv run --package smp-caption"
SAME = "--dataset tiny --model_size testing --batch_size 16 --num_workers 0 --preset fixed"
"""The tour's data and sizes as flags."""
ORT = (
    f"--caption_model relation_transformer {SAME} --lr_scheduler cosine --learning_rate 0.002 "
    "--drop_prob_src 0.1 --save_checkpoint_every 300"
)
"""A relation transformer on the tour's data."""
BY_REWARD = (
    f"--caption_model up_down_lstm {SAME} --rnn_size 128 --drop_prob_lm 0.1 --lr_scheduler step "
    "--learning_rate 5e-5 --learning_rate_decay_start -1 --scst_start_epoch 0 --max_epochs 3 "
    "--save_checkpoint_every 60"
)
"""The tour's dense network, trained on by reward."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One trained captioner of the tour."""

    name: str
    """Row of the table."""
    folder: Path
    """Its run."""
    captioner: Captioner
    """Its best model, masks applied."""
    file: Path
    """What one would ship."""


def tour(cfg: Config, train: Callable[[Config], Path]) -> Path:
    """Train dense, train pruned, score both beside the best constant caption, export, and say what came out.

    Stages lie in sub-folders, so a tour that was stopped goes on with ``train --resume``.

    Args:
        cfg: the dense run's configuration.
        train: runs one stage and returns its folder.

    Returns:
        The tour's folder; ``tour.json`` in it holds the figures of the table.
    """
    started = time.monotonic()
    run = cfg.run
    folder = begin_tour(
        "a dense and a pruned captioner on embedded pictures", runs_root(), run.output, resume=run.resume
    )
    dense = with_output(cfg, folder / "dense")
    pruned = replace(
        with_output(cfg, folder / "pruned"),
        model=replace(cfg.model, caption_model="up_down_lstm_prune"),
        prune=replace(cfg.prune, **TOUR_PRUNED),
    )
    stages = [_stage(name, train(config)) for name, config in (("dense", dense), ("pruned", pruned))]
    if dist.is_main():
        report(folder, stages, open_data(dense), cfg, time.monotonic() - started)
    return folder


def with_output(cfg: Config, folder: Path) -> Config:
    """The configuration with another folder, as a run of its own."""
    return replace(cfg, run=replace(cfg.run, output=str(folder), tour=False))


def _stage(name: str, folder: Path) -> Stage:
    packed = folder / PACKED
    place = folder / PRUNED if packed.exists() else folder / "best"
    file = packed if packed.exists() else place / "model.safetensors"
    return Stage(name=name, folder=folder, captioner=Captioner.from_pretrained(place), file=file)


def report(folder: Path, stages: list[Stage], data: CaptionData, cfg: Config, seconds: float) -> None:
    """Print the table, write ``tour.json`` and the page of captions, and name what to try next."""
    train_refs, test_refs = data.references("train"), data.references("test")
    caption, scores = best_constant_caption(train_refs, test_refs)
    rows: list[dict[str, str | float | None]] = [
        {"model": "best constant caption", "CIDEr": scores["CIDEr"], "Bleu_4": scores["Bleu_4"]}
    ]
    records = data.records["test"]
    pictures = [read_picture(record.path) for record in records[:SHOWN]]
    said: list[list[str]] = []
    for stage in stages:
        found = sorted((stage.folder / f"test_beam_{cfg.decode.beam_size_test}").glob("score_*[0-9].json"))
        test_scores = read_json(found[-1])
        said.append(stage.captioner.caption(pictures))
        one = latency(lambda stage=stage: stage.captioner.caption(pictures[0]))
        weights = [v for v in stage.captioner.model.state_dict().values() if v.is_floating_point()]
        matrices = [w for w in weights if w.ndim > 1]
        kept = sum(int(w.count_nonzero()) for w in matrices)
        rows.append(
            {
                "model": stage.name,
                "CIDEr": test_scores["CIDEr"],
                "Bleu_4": test_scores["Bleu_4"],
                "sparsity": 1 - kept / sum(w.numel() for w in matrices),
                "parameters": sum(int(w.count_nonzero()) for w in weights),
                "file": stage.file.stat().st_size,
                "ms / picture": 1000 * one.median,
            }
        )
    columns = ["model", "CIDEr", "Bleu_4", "sparsity", "parameters", "file", "ms / picture"]
    formats = {"CIDEr": ".3f", "Bleu_4": ".3f", "sparsity": ".3f", "file": human_bytes, "ms / picture": ".1f"}
    title = f"{len(records)} test pictures, beam {cfg.decode.beam_size_test}, preset {cfg.run.preset}"
    spent = "since it was resumed" if cfg.run.resume else "whole tour"
    note = f'constant caption: "{caption}"; parameters that are not zero; {spent} {seconds:.0f} s'
    table = result_table(title, columns, rows, formats=formats, notes=[note])
    figures = {"rows": rows, "constant_caption": caption, "seconds": seconds, "preset": cfg.run.preset}
    write_json(folder / RESULTS, figures)
    items = [
        (
            record.path,
            [(stage.name, said[i][n]) for i, stage in enumerate(stages)] + [("said of it", record.raw[0])],
        )
        for n, record in enumerate(records[:SHOWN])
    ]
    gallery(items, folder / "captions.html", folder / "captions.png", title="What the captioners say")
    places = [
        ("table", folder / RESULTS),
        ("pictures with captions", folder / "captions.html"),
        *((f"{stage.name} model", stage.folder) for stage in stages),
        ("packed sparse weights", stages[-1].file),
    ]
    model = stages[-1].folder / "best"
    end_tour(
        table,
        places,
        f"{COMMAND} demo --model {model} {records[0].path}",
        f"{COMMAND} train {ORT} --output {folder / 'ort'}",
        f"{COMMAND} train {BY_REWARD} --start_from {stages[0].folder} --output {folder / 'rewards'}",
    )
