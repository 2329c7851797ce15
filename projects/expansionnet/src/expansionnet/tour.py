"""The tour: what `train` alone does, all phases of the paper at a small size on generated pictures.

The paper starts from a published backbone, which generated pictures have none of: here the first phase trains
backbone and body together.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from expansionnet import decoding
from expansionnet.captioner import Captioner
from expansionnet.config import Config
from expansionnet.data import open_data
from expansionnet.data_generator import generate
from expansionnet.export import export
from expansionnet.layout import FAKE_DATA
from expansionnet.options import ExportOptions, GenerateOptions, TestOptions
from expansionnet.test import find_subject, open_tested, score_splits
from prunelab import dist
from prunelab.caption.split import best_constant_caption
from prunelab.doors import runs_root
from prunelab.report import gallery, latency, result_table
from prunelab.tour import begin_tour, end_tour
from prunelab.util import human_bytes, write_json

RESULTS = "tour.json"
XE, FEATURES, REINFORCE = "end_to_end_xe", "features.hdf5", "rf"
"""What lies where in the tour's folder."""
EXPORTED = {"onnx": "exported.onnx", "original": "exported.pth"}
"""What the best model is exported as."""
SHOWN = 12
"""Pictures on the page."""
SPLIT = "test"
REWARDED: Mapping[str, Mapping[str, Any]] = {
    "optim": {"lr": 1e-3, "warmup_iters": 1, "num_epochs": 5, "anneal_coeff": 0.55},
    "data": {"batch_size": 16},
}
"""How the phase by reward differs from the first one, besides what follows from it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One trained captioner of the tour."""

    name: str
    """Row of the table."""
    folder: Path
    """Its run."""
    scores: Mapping[str, float]
    """On the test pictures."""

    @property
    def model(self) -> Path:
        """Its best model."""
        return self.folder / "best"


def tour(cfg: Config, train: Callable[[Config], Path]) -> Path:
    """Train by cross entropy, compute features, train by reward on them, score both, and say what came out.

    Phases lie in sub-folders, so a tour that was stopped goes on with ``train --resume``.

    Args:
        cfg: the first phase's configuration.
        train: runs a phase of training and returns its folder.

    Returns:
        The tour's folder; ``tour.json`` in it holds the figures of the table.
    """
    started = time.monotonic()
    run = cfg.run
    dist.start(run.device)
    folder = begin_tour(
        "a captioner by cross entropy and by reward on generated pictures",
        runs_root(),
        run.output,
        resume=run.resume,
    )
    first = with_output(cfg, folder / XE)
    stages = [_stage("cross entropy", train(first))]
    features = folder / FEATURES
    generate(_generation(cfg, stages[0].model, features))
    second = by_reward(first, stages[0].model, features, folder / REINFORCE)
    stages.append(_stage("after SCST", train(second)))
    if dist.is_main():
        report(folder, stages, first, started)
    return folder


def has_onnx() -> bool:
    """Whether what ONNX graphs are made with, the extra ``export``, is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def export_best(model: Path, folder: Path, pictures: Sequence[Path]) -> Path:
    """Export a model: as ONNX graphs, or where that is not installed as the original's checkpoint."""
    how = "onnx" if has_onnx() else "original"
    shown = tuple(str(path) for path in pictures)
    output = str(folder / EXPORTED[how])
    return export(ExportOptions(model=str(model), format=how, output=output, pictures=shown))


def with_output(cfg: Config, folder: Path) -> Config:
    """The configuration with another folder."""
    return replace(cfg, run=replace(cfg.run, output=str(folder)))


def by_reward(cfg: Config, body: Path, features: Path, folder: Path) -> Config:
    """The configuration of training by reward, on features, from the weights of the first phase."""
    return replace(
        with_output(cfg, folder),
        model=replace(cfg.model, is_end_to_end=False),
        data=replace(cfg.data, features_path=str(features), **REWARDED["data"]),
        optim=replace(cfg.optim, **REWARDED["optim"]),
        scst=replace(cfg.scst, reinforce=True),
        run=replace(cfg.run, output=str(folder), partial_load=True, body_save_path=str(body)),
    )


def _generation(cfg: Config, model: Path, features: Path) -> GenerateOptions:
    """How features are computed: with the backbone that the first phase trained."""
    return GenerateOptions(
        save_model_path=str(model),
        output_path=str(features),
        dataset=cfg.data.dataset,
        captions_path=cfg.data.captions_path,
        images_path=cfg.data.images_path,
        batch_size=32,
        workers=cfg.data.workers,
        device=cfg.run.device,
        resume=True,
        preset=cfg.run.preset,
        swin=cfg.model.swin,
    )


def _stage(name: str, folder: Path) -> Stage:
    """Score a phase's best model on the test pictures."""
    options = TestOptions(save_model_path=str(folder), splits=(SPLIT,))
    scores = score_splits(options, open_tested(options, find_subject(options)), tell=False)
    by_metric = {key.partition("/")[2]: value for key, value in scores.items()}
    return Stage(name=name, folder=folder, scores=by_metric)


def report(folder: Path, stages: list[Stage], cfg: Config, started: float) -> None:
    """Export the last model, write tables and a page of captions, print them and what to try next."""
    data = open_data(cfg, folder / FAKE_DATA)
    records = data.split(SPLIT)
    pictures = [record.path for record in records[:SHOWN]]
    exported = export_best(stages[-1].model, folder, pictures[:4])
    caption, constant = best_constant_caption(data.references("train"), data.references(SPLIT))
    rows: list[dict[str, Any]] = [{"model": "best constant caption", **_shown(constant)}]
    said: dict[str, list[str]] = {}
    for stage in stages:
        captioner = Captioner.from_pretrained(stage.model)
        said[stage.name] = captioner.caption(pictures)
        x = captioner.inputs(pictures[:1])
        seconds = latency(lambda captioner=captioner, x=x: _ids(captioner, x)).median
        rows.append(
            {
                "model": stage.name,
                **_shown(stage.scores),
                "reads": captioner.reads,
                "parameters": sum(p.numel() for p in captioner.model.parameters()),
                "file": (stage.model / "model.safetensors").stat().st_size,
                "ms / caption": 1000 * seconds,
            }
        )
    columns = list(rows[-1])
    rows += decoding_rows(stages[-1], pictures)
    seconds = time.monotonic() - started
    figures = {
        "rows": rows,
        "constant_caption": caption,
        "seconds": seconds,
        "preset": cfg.run.preset,
    }
    write_json(folder / RESULTS, figures)
    items = [
        (record.path, [*((name, texts[n]) for name, texts in said.items()), ("said of it", record.raw[0])])
        for n, record in enumerate(records[:SHOWN])
    ]
    gallery(items, folder / "captions.html", folder / "captions.png", title="What the captioner says")
    formats = {"CIDEr": ".3f", "Bleu_4": ".3f", "file": human_bytes, "ms / caption": ".1f"}
    beams = cfg.decode.eval_beam_sizes[0]
    spent = "since it was resumed" if cfg.run.resume else "whole tour"
    table = result_table(
        f"{len(records)} test pictures, beam {beams}, preset {cfg.run.preset}",
        columns,
        rows,
        formats=formats,
        notes=[f'constant caption: "{caption}"; {spent} {seconds:.0f} s'],
    )
    places = [
        ("table", folder / RESULTS),
        ("pictures with captions", folder / "captions.html"),
        *((f"{stage.name}: model", stage.model) for stage in stages),
        ("features", folder / FEATURES),
        ("exported", exported),
    ]
    end_tour(
        table, places, f"uv run --package expansionnet demo --model {stages[-1].model} {records[0].path}"
    )


def _shown(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in ("CIDEr", "Bleu_4")}


def _ids(captioner: Captioner, x: torch.Tensor, *, incremental: bool = True) -> list[list[list[int]]]:
    """Captions of what a model reads, as ids."""
    options = decoding.options(
        captioner.decode,
        captioner.vocabulary,
        captioner.decode.eval_beam_sizes[0],
        positions=captioner.config.max_seq_len,
    )
    with torch.inference_mode():
        return decoding.search(captioner.model, x, options, incremental=incremental).tokens


def decoding_rows(stage: Stage, pictures: Sequence[Path]) -> list[dict[str, Any]]:
    """Time both ways to decode all pictures at once: reading prefixes again at every step, and incremental.

    Raises:
        RuntimeError: they find different captions.
    """
    captioner = Captioner.from_pretrained(stage.model)
    x = captioner.inputs(pictures)
    rows, said = [], []
    for name, incremental in (("prefixes read again", False), ("incremental", True)):
        said.append(_ids(captioner, x, incremental=incremental))
        seconds = latency(
            lambda incremental=incremental: _ids(captioner, x, incremental=incremental), calls=5, warmup=1
        ).median
        row = {"model": f"pictures at once, {name}", "reads": captioner.reads}
        rows.append({**row, "ms / caption": 1000 * seconds / len(pictures)})
    if said[0] != said[1]:
        raise RuntimeError(f"{stage.model}: incremental decoding finds other captions")
    return rows
