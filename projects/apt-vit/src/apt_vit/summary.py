"""What came out of a training: one row for each way to use the network, with its quality, cost and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from apt_vit.classifier import Classifier
from apt_vit.config import Config
from apt_vit.data import Data
from apt_vit.evaluate import Scores, evaluate
from apt_vit.files.original import AGENT
from prunelab import dist
from prunelab.data.loader import Loader
from prunelab.data.sampling import EpochSampler
from prunelab.hub import WEIGHTS_FILE
from prunelab.modes import evaluating
from prunelab.report import Cell, Format, Table, latency, result_table
from prunelab.util import human_bytes, human_count, write_json

SUMMARY = "summary.json"
CONSTANT, PLAIN, DROPPED = "best constant answer", "all tokens", "dropped"
"""Rows."""
COLUMNS = ("model", "accuracy", "tokens", "MACs", "parameters", "file", "ms / picture")
FORMATS: dict[str, Format] = {
    "accuracy": ".4f",
    "MACs": human_count,
    "parameters": human_count,
    "file": human_bytes,
    "ms / picture": ".3f",
}
Row = dict[str, Cell]


def summarise_models(
    place: Path, cfg: Config, data: Data, *, device: torch.device, folder: Path, quiet: bool = False
) -> list[Row]:
    """Measure a model on the test pictures, write `SUMMARY` and print the table. Collective.

    Multiply-accumulates have the agents in them; time is that of a batch of evaluation, on rank 0.

    Args:
        place: its model folder.
        cfg: the run's configuration.
        data: the data set.
        device: where it runs.
        folder: where `SUMMARY` goes.
        quiet: print nothing.
    """
    found = Classifier.from_pretrained(place, device=device)
    loader = data.loader("test", dist.rank(), dist.world_size())
    modes = {PLAIN: "plain"} | ({DROPPED: "dropped"} if found.rule.prunes else {})
    options: dict[str, Any] = {"amp": cfg.run.amp, "channels_last": cfg.run.channels_last}
    rows: list[Row] = []
    pictures = 0
    with evaluating(found.model):
        for name, mode in modes.items():
            scores = evaluate(found.model, loader, found.rule, mode, cfg.quirks, **options)
            pictures = scores.pictures
            if not rows:
                rows.append({"model": CONSTANT, "accuracy": scores.constant})
            cost = dist.on_main(lambda mode=mode, scores=scores: _cost(found, mode, scores, place, loader))
            rows.append({"model": name, "accuracy": scores.accuracy, **cost})
    title = f"{cfg.model.model_type} on {cfg.data.dataset}, {pictures} test pictures"
    dist.on_main(lambda: write_json(folder / SUMMARY, {"title": title, "rows": rows}))
    if dist.is_main() and not quiet:
        table_of(rows, title).print()
        print(f"model: {place}")
        print(f"next: uv run --package apt-vit demo --model {place} FILE...")
    return rows


def _cost(found: Classifier, mode: str, scores: Scores, place: Path, loader: Loader[EpochSampler]) -> Row:
    """What a picture costs in a mode, on this process; what is timed is the loader's first batch."""
    model = found.model
    images = next(iter(loader))[0].to(next(model.parameters()).device)
    ask = found.dropper if mode == "dropped" else model

    def call() -> None:
        ask(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    with torch.inference_mode():
        time = latency(call)
    needed = [p for name, p in model.named_parameters() if mode == "dropped" or not name.startswith(AGENT)]
    file = place / WEIGHTS_FILE
    return {
        "tokens": ", ".join(f"{count:.1f}" for count in scores.tokens) or str(_tokens(found)),
        "MACs": round(scores.macs),
        "parameters": sum(p.numel() for p in needed),
        "file": file.stat().st_size if file.is_file() else None,
        "ms / picture": 1000 * time.median / len(images),
    }


def _tokens(found: Classifier) -> int:
    """Tokens of a picture of which none is pruned."""
    height, width = found.model.grid
    return height * width + 1


def table_of(rows: Sequence[Mapping[str, Cell]], title: str, notes: Sequence[str] = ()) -> Table:
    """The rows for people."""
    return result_table(title, COLUMNS, rows, formats=FORMATS, notes=notes)
