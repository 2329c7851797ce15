"""The tables at the end: what a run came to, and scores of splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expansionnet.evaluate import score_name
from expansionnet.job import Job
from expansionnet.layout import run_kind
from prunelab.hub import is_model_folder
from prunelab.report import result_table
from prunelab.util import read_json

METRICS_IN_ORDER = ("CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "SPICE", "METEOR")
"""Scores in the order in which the original prints them."""
SHOWN = ("CIDEr", "Bleu_4", "ROUGE_L")
"""Scores that the table of a run shows."""


def notes_of(folder: Path) -> dict[str, Any]:
    """What a model folder notes of its training."""
    return read_json(folder / "config.json")["config"]["notes"]


def summarise(folder: Path, job: Job) -> None:
    """Print the validation scores of the best and of the last model, and what to try next.

    Args:
        folder: of the run, with ``best/`` and ``last/``.
        job: its parts.
    """
    rows = [row for name in ("best", "last") for row in _rows(folder / name, job)]
    title = f"{run_kind(job.cfg)}: {len(job.data.references('val')):,} validation pictures"
    columns = ["model", "step", "beams", *SHOWN, "loss"]
    result_table(title, columns, rows, formats=dict.fromkeys((*SHOWN, "loss"), ".4f")).print()
    print(f"best model: {folder / 'best'}")
    print(f"next: uv run --package expansionnet test --model {folder}")


def _rows(place: Path, job: Job) -> Iterator[Mapping[str, Any]]:
    """A row for each number of beams."""
    if not is_model_folder(place):
        return
    notes = notes_of(place)
    scores, beams = notes["scores"], job.cfg.decode.eval_beam_sizes
    for beam_size in job.evaluators:
        split = score_name("val", beams, beam_size)
        found = {metric: scores.get(f"{split}/{metric}") for metric in SHOWN}
        row = {"model": place.name, "step": notes["step"], "beams": beam_size, "loss": scores.get("val/loss")}
        yield row | found


def scores_table(title: str, scores: Mapping[str, float]) -> None:
    """Print the scores of splits, a row for each split and number of beams.

    Args:
        title: of the table.
        scores: by ``split/metric``.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, value in scores.items():
        split, _, metric = name.partition("/")
        rows.setdefault(split, {"split": split})[metric] = value
    columns = [name for name in METRICS_IN_ORDER if any(name in row for row in rows.values())]
    if rows:
        formats = dict.fromkeys(columns, ".4f")
        result_table(title, ["split", *columns], list(rows.values()), formats=formats).print()
