"""What many runs have come to: ``collect-scores`` and ``collect-captions-plus``.

Both read folders of runs, ours or the original's: ``{val|test}_beam_{k}[_suffix]/`` with ``scores.csv`` and
``caption_{step}.json``, the configuration, the weights, and the tokenizer's ``train_captions.txt``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from prunelab.caption.split import SCORE_COLUMNS
from prunelab.doors import runs_root
from prunelab.errors import UserError, entry
from prunelab.mask import MASK_SUFFIX, SparsityReport, report
from prunelab.report import Cell, result_table
from prunelab.util import atomic_write, read_json
from smp_caption.cli import parse_collect_captions, parse_collect_scores
from smp_caption.files import original
from smp_caption.lowering import start_place
from smp_caption.options import CollectCaptionsOptions, CollectScoresOptions
from smp_caption.tokenizer import CAPTIONS_FILE, FOLDER

EVALUATION = re.compile(r"^(?P<split>val|test|test2014)_beam_(?P<beams>\d+)(?:_(?P<suffix>.+))?$")
"""Names of the folders that hold captions and their scores."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How many weights a run's best model has."""

    parameters: int
    """Weights that a finished model needs: those that no mask prunes, and those that have no mask."""
    masks: SparsityReport | None
    """What the masks keep; None: a dense model."""

    @property
    def sparsity(self) -> float:
        """Share of the masked weights that is pruned; 0 without masks."""
        return self.masks.sparsity if self.masks is not None else 0.0


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What captions are like, whatever their scores."""

    captions: int
    """Number of captions."""
    unique: float
    """Number of different captions over the number of captions."""
    novel: float | None
    """Share of captions that no training picture has; None: the training captions are not at hand."""
    vocabulary: int
    """Different words."""
    length: float
    """Mean number of words."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of scores of a run."""

    run: Path
    """The run's folder."""
    evaluation: str
    """Name of the folder of captions."""
    step: int
    """Step of the model."""
    scores: Mapping[str, float]
    """Scores by name; those that were not computed are not there."""
    model: str
    """Its kind of model."""
    method: str
    """How it was pruned; empty: not."""
    target: float | None
    """Its wanted sparsity."""
    weights: Weights | None
    """Its weights; None: no checkpoint is left."""
    captions: CaptionFacts | None = field(default=None)
    """Its captions; None: they are not there."""


def evaluations(root: Path) -> Iterator[Path]:
    """The folders with scores below a folder of runs, sorted."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, expected one that holds runs")
    found = (path.parent for path in root.rglob("scores.csv"))
    yield from sorted(folder for folder in found if EVALUATION.match(folder.name))


@cache
def weights_of(run: Path) -> Weights | None:
    """Count the weights of a run's best model; None where it has no checkpoint."""
    try:
        place = original.find(run)
    except UserError:
        return None
    captioner = original.load(place)
    named = dict(captioner.model.named_parameters())
    masks = {name: value for name, value in named.items() if name.endswith(MASK_SUFFIX)}
    free = sum(value.numel() for name, value in named.items() if name not in masks)
    if captioner.mask is None:
        return Weights(parameters=free, masks=None)
    kept = report(masks, captioner.mask.kind)
    return Weights(parameters=free - kept.size + kept.nnz, masks=kept)


@cache
def training_captions(run: Path) -> frozenset[str] | None:
    """The captions that a run's tokenizer was trained on, or that of the run from which it started."""
    file = run / FOLDER / CAPTIONS_FILE
    if file.is_file():
        return frozenset(" ".join(line.split()) for line in file.read_text(encoding="utf-8").splitlines())
    start = start_place(original.run_config(run))
    if start is None:
        return None
    folders = [start, *start.parents[:2]]
    earlier = next((folder for folder in folders if (folder / FOLDER).is_dir() and folder != run), None)
    return None if earlier is None else training_captions(earlier)


def facts(captions: Iterable[str], training: frozenset[str] | None) -> CaptionFacts:
    """Describe captions.

    Args:
        captions: what a model said of each picture.
        training: the training captions; None: not at hand.
    """
    said = [" ".join(caption.split()) for caption in captions]
    number = max(1, len(said))
    words = [caption.split() for caption in said]
    return CaptionFacts(
        captions=len(said),
        unique=len(set(said)) / number,
        novel=None if training is None else sum(caption not in training for caption in said) / number,
        vocabulary=len({word for caption in words for word in caption}),
        length=sum(map(len, words)) / number,
    )


def _captions(folder: Path, step: int) -> dict[int, str] | None:
    file = folder / f"caption_{step:08d}.json"
    if not file.is_file():
        return None
    return {row["image_id"]: row["caption"] for row in read_json(file)}


def collect(root: Path) -> list[Result]:
    """Read every line of scores below a folder of runs.

    Raises:
        UserError: no such folder, or a file in it is broken.
    """
    results = []
    for folder in evaluations(root):
        run = folder.parent
        cfg = original.run_config(run)
        for row in _rows(folder / "scores.csv"):
            step = int(row.pop("Step"))
            said = _captions(folder, step)
            results.append(
                Result(
                    run=run,
                    evaluation=folder.name,
                    step=step,
                    scores={name: float(value) for name, value in row.items() if value},
                    model=cfg.model.caption_model,
                    method=cfg.prune.prune_type or "",
                    target=cfg.prune.prune_sparsity_target if cfg.prune.prune_type else None,
                    weights=weights_of(run),
                    captions=None if said is None else facts(said.values(), training_captions(run)),
                )
            )
    return results


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if rows and ("Step" not in rows[0] or not all(row["Step"].isdigit() for row in rows)):
        raise UserError(f"{file}: expected a table of scores whose first column is Step")
    return rows


def best_of(results: Sequence[Result], score: str = "CIDEr") -> list[Result]:
    """The best line of each run's each evaluation, by a score that it has."""
    best: dict[tuple[Path, str], Result] = {}
    for result in results:
        key = (result.run, result.evaluation)
        if score in result.scores and (key not in best or result.scores[score] > best[key].scores[score]):
            best[key] = result
    return list(best.values())


COLUMNS = (
    *("run", "evaluation", "step", *SCORE_COLUMNS, "method", "target", "sparsity", "parameters"),
    *("captions", "unique", "novel", "vocabulary", "length"),
)
"""Columns of a table of scores."""


def line(result: Result, root: Path) -> dict[str, Cell]:
    """A result as a line of a table."""
    weights, said = result.weights, result.captions
    return {
        "run": str(result.run.relative_to(root)),
        "evaluation": result.evaluation,
        "step": result.step,
        **result.scores,
        "method": result.method or "dense",
        "target": result.target,
        "sparsity": None if weights is None else round(weights.sparsity, 5),
        "parameters": None if weights is None else weights.parameters,
        **({} if said is None else {name: _short(value) for name, value in vars(said).items()}),
    }


def _short(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value


def collect_scores(options: CollectScoresOptions) -> list[Path]:
    """Write ``scores_{model}.csv`` for each kind of model, and print the best line of each run.

    Raises:
        UserError: no such folder, or no scores in it.
    """
    root = Path(options.log_dir) if options.log_dir else runs_root()
    results = collect(root)
    if not results:
        raise UserError(f"{root}: holds no run with scores, expected RUN/test_beam_2/scores.csv or the like")
    output = Path(options.output) if options.output else root
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for model in sorted({result.model for result in results}):
        path = output / f"scores_{model}.csv"
        rows = [line(result, root) for result in results if result.model == model]
        _write(path, COLUMNS, rows)
        written.append(path)
    shown = ("run", "evaluation", "step", "Bleu_4", "CIDEr", "sparsity", "unique", "novel")
    lines = [{name: line(best, root).get(name) for name in shown} for best in best_of(results)]
    result_table(f"{len(results)} lines of scores in {root}; the best of each", shown, lines).print()
    for path in written:
        print(f"written: {path}")
    return written


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            {name: "" if value is None else value for name, value in row.items()} for row in rows
        )


# --- captions side by side ---


def captions_of(place: Path, evaluation: str) -> tuple[dict[int, str], dict[int, float]]:
    """The newest captions of a run, and their CIDEr where it was computed for each picture.

    Args:
        place: a run, or a folder of captions in one.
        evaluation: first letters of the folder's name in a run.

    Raises:
        UserError: there are no captions, or several folders of them fit.
    """
    folders = [place] if EVALUATION.match(place.name) else sorted(place.glob(f"{evaluation}*"))
    folders = [folder for folder in folders if EVALUATION.match(folder.name)]
    found = [folder for folder in folders if any(folder.glob("caption_*.json"))]
    exact = [folder for folder in found if folder.name == evaluation]
    found = exact or found
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found) or "none"
        raise UserError(f"{place}: expected one folder of captions {evaluation}..., found {names}")
    newest = max(found[0].glob("caption_*.json"))
    said = {int(row["image_id"]): str(row["caption"]) for row in read_json(newest)}
    detailed = newest.with_name(newest.name.replace("caption_", "score_").replace(".json", "_detailed.json"))
    if not detailed.is_file():
        return said, {}
    return said, {row["image_id"]: row["CIDEr"] for row in read_json(detailed) if "CIDEr" in row}


def collect_captions(options: CollectCaptionsOptions) -> Path:
    """Write a table with a line for each picture and two columns for each run: its caption, its CIDEr.

    Pictures come in the order of how much the runs' scores differ. Prints the first ones, and for each two
    runs of how many pictures they say the same.

    Raises:
        UserError: a run has no captions, or no picture has captions of all runs.
    """
    names = _names([Path(run) for run in options.runs])
    runs = {name: captions_of(place, options.evaluation) for name, place in names.items()}
    common = set.intersection(*(set(said) for said, _ in runs.values()))
    if not common:
        raise UserError(f"{', '.join(names)}: no picture has captions of all of these runs")

    def spread(picture: int) -> float:
        values = [scores[picture] for _, scores in runs.values() if picture in scores]
        return max(values) - min(values) if values else 0.0

    order = sorted(common, key=lambda picture: (-spread(picture), picture))
    rows = [
        {"image_id": picture}
        | {name: said[picture] for name, (said, _) in runs.items()}
        | {f"{name} CIDEr": scores.get(picture) for name, (_, scores) in runs.items()}
        for picture in order
    ]
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _write(output, list(rows[0]), rows)
    for row in rows[: options.show]:
        print(f"picture {row['image_id']}")
        for name in runs:
            score = row[f"{name} CIDEr"]
            print(f"  {name}: {row[name]}" + ("" if score is None else f"  ({score:.2f})"))
    _summary(runs, common)
    print(f"written: {output}, {len(rows)} pictures")
    return output


def _names(places: Sequence[Path]) -> dict[str, Path]:
    """A short name for each run: its folder's, with as much before it as tells it from the others."""
    parts = [place.parts for place in places]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, places, strict=True))
    raise UserError(f"{places[0]}: the same run is named twice")


def _summary(runs: Mapping[str, tuple[dict[int, str], dict[int, float]]], common: set[int]) -> None:
    for first, second in combinations(runs, 2):
        same = sum(runs[first][0][picture] == runs[second][0][picture] for picture in common)
        print(f"{first} and {second} say the same of {same} of {len(common)} pictures")
    for name, (said, scores) in runs.items():
        described = facts([said[picture] for picture in common], None)
        known = [scores[picture] for picture in common if picture in scores]
        mean = f", mean CIDEr {fmean(known):.3f}" if known else ""
        print(f"{name}: {described.vocabulary} words, {described.length:.1f} a caption{mean}")


@entry
def scores_main(argv: Sequence[str] | None = None) -> None:
    """Run ``collect-scores``."""
    options = parse_collect_scores(argv)
    if options.dry_run:
        print(options)
        return
    collect_scores(options)


@entry
def captions_main(argv: Sequence[str] | None = None) -> None:
    """Run ``collect-captions-plus``."""
    options = parse_collect_captions(argv)
    if options.dry_run:
        print(options)
        return
    collect_captions(options)
