"""Captions for a whole split by any captioner, their scores, and the files that hold both."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from prunelab import dist
from prunelab.caption.cider_d import CiderD
from prunelab.caption.evaluate import FAST, Scores, evaluate
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import cook
from prunelab.caption.tokenizer import tokenize
from prunelab.data.coco import write_predictions
from prunelab.util import atomic_write, write_json

M = TypeVar("M")

SCORE_COLUMNS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
"""Columns of ``scores.csv`` after the step."""


class Evaluator(Generic[M]):
    """Captions every picture of a split and scores the captions.

    Each process captions its own share; every picture is captioned exactly once. Rank 0 scores.

    Args:
        name: begins the names of the scores: ``val`` or ``test``, say.
        batches: this process's share of the split, in any form that ``caption`` takes; iterated anew by each
            evaluation.
        references: picture id to captions as written, of the whole split; none for the pictures of an online
            test, which are captioned and not scored.
        caption: gives picture id and caption for each picture of a batch. It is called under inference mode
            with the model as it is given to `run`, so that is where evaluation mode is set.
        metrics: names of `prunelab.caption.evaluate`.
        max_batches: evaluate no more than these.
        skip_unavailable: leave out a metric that cannot be computed on this machine (no Java); else it is an
            error.

    Attributes:
        predictions: picture id to caption, of the last `run` (rank 0: of all pictures), by id.
        scores: the last scores (rank 0).
    """

    def __init__(
        self,
        name: str,
        batches: Iterable[Any],
        references: Mapping[int, Sequence[str]],
        caption: Callable[[M, Any], Iterable[tuple[int, str]]],
        *,
        metrics: Sequence[str] = FAST,
        max_batches: int | None = None,
        skip_unavailable: bool = False,
    ) -> None:
        self.name, self.batches, self.references, self.caption = name, batches, references, caption
        self.metrics, self.max_batches = tuple(metrics), max_batches
        self.skip_unavailable = skip_unavailable
        self.predictions: dict[int, str] = {}
        self.scores: Scores | None = None

    @torch.inference_mode()
    def captions(self, model: M) -> Iterator[tuple[int, str]]:
        """Yield picture id and caption for this process's share."""
        for batch in itertools.islice(self.batches, self.max_batches):
            yield from self.caption(model, batch)

    def run(self, model: M) -> Iterator[tuple[str, float]]:
        """Yield ``name/metric`` and value for every metric; the same on every rank. Collective.

        Raises:
            UserError: some of the pictures have captions and others none.
            Unavailable: METEOR or SPICE cannot be computed on this machine, and is not to be left out.
        """
        pairs = dist.gather_objects(list(self.captions(model)), key=lambda pair: pair[0])
        self.predictions = dict(sorted(pairs))
        self.scores = None

        def score() -> dict[str, float]:
            references = {key: list(self.references.get(key, ())) for key in self.predictions}
            if not any(references.values()):
                return {}
            self.scores = evaluate(
                references, self.predictions, metrics=self.metrics, skip_unavailable=self.skip_unavailable
            )
            return dict(self.scores.overall)

        for metric, value in dist.on_main(score).items():
            yield f"{self.name}/{metric}", float(value)

    def write(self, folder: Path, step: int) -> None:
        """Write captions and scores of the last `run` on rank 0.

        ``caption_{step}.json`` is a COCO result file, ``score_{step}.json`` and
        ``score_{step}_detailed.json`` hold the scores of the split and of each picture, and a line is added
        to ``scores.csv``.
        """
        if not dist.is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / f"caption_{step:08d}.json", self.predictions)
        if self.scores is None:
            return
        write_json(folder / f"score_{step:08d}.json", dict(self.scores.overall))
        write_json(folder / f"score_{step:08d}_detailed.json", list(self.scores.per_image))
        _append_scores(folder / "scores.csv", step, self.scores.overall)


def _append_scores(path: Path, step: int, overall: Mapping[str, float]) -> None:
    """Add a line; an earlier line of the same step (before a restart) is replaced."""
    rows: list[list[str]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row and row[0] not in ("Step", str(step))]
    values = [f"{overall[name]:.3f}" if name in overall else "" for name in SCORE_COLUMNS]
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["Step", *SCORE_COLUMNS], *rows, [str(step), *values]])


def best_constant_caption(
    train: Mapping[int, Sequence[str]], test: Mapping[int, Sequence[str]], shortlist: int = 200
) -> tuple[str, dict[str, float]]:
    """The one caption that fits the training pictures best, and its scores on the test pictures.

    Candidates are the distinct training captions; CIDEr on every fifth training picture makes a short list,
    CIDEr on all of them the choice.

    Returns:
        The caption, and its scores when it is said of every test picture.
    """
    captions = [tokenize(list(each)) for each in train.values()]
    candidates = sorted({caption for each in captions for caption in each})
    for pictures, keep in ((captions[::5], shortlist), (captions, 1)):
        means = _constant_cider(pictures, candidates)
        best_first = sorted(range(len(candidates)), key=lambda i: (-means[i], candidates[i]))
        candidates = [candidates[i] for i in best_first[:keep]]
    chosen = candidates[0]
    scores = evaluate({k: list(v) for k, v in test.items()}, dict.fromkeys(test, chosen))
    return chosen, scores.overall


def _constant_cider(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """Mean CIDEr of each candidate over all pictures."""
    cooked = cook(references)
    scorer = CiderD(DocumentFrequency.from_references(cooked))
    weighed = scorer.weigh(cooked)
    return [float(scorer.score(weighed, [caption] * len(cooked)).mean()) for caption in candidates]
