"""Captions for a whole split, and their scores."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunelab import dist
from prunelab.caption.cider import cider
from prunelab.caption.evaluate import Scores, evaluate
from prunelab.caption.references import cook
from prunelab.caption.tokenizer import tokenize
from prunelab.config import to_plain
from prunelab.data.coco import write_predictions
from prunelab.decode import DecodeOptions, decode
from prunelab.util import atomic_write, write_json
from smp_caption.config import DecodeConfig, ModelConfig
from smp_caption.model import UpDown
from smp_caption.model.decoding import options_of
from smp_caption.tokenizer import Tokenizer

METRICS = ("BLEU", "ROUGE_L", "CIDEr")
"""Scores that need nothing but Python."""
SCORE_COLUMNS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")


def decode_options(
    model: ModelConfig, config: DecodeConfig, beam_size: int, *, original: bool = False
) -> DecodeOptions:
    """The search of an evaluation; ``original``: as the original records, and with unknown words."""
    opt = {**to_plain(config), "beam_size": beam_size, "suppress_UNK": not original}
    return options_of(model, opt, original=original)


class Evaluator:
    """Captions every picture of a split with its best beam and scores the captions.

    Each process captions its own share; every picture is captioned exactly once. Rank 0 scores.

    Attributes:
        name: ``val`` or ``test``.
        predictions: picture id to caption, of the last `run` (rank 0: of all pictures).
        scores: the last scores (rank 0).
    """

    def __init__(
        self,
        name: str,
        loader: Iterable[Mapping[str, Any]],
        references: Mapping[int, Sequence[str]],
        tokenizer: Tokenizer,
        options: DecodeOptions,
        *,
        device: torch.device,
        metrics: Sequence[str] = METRICS,
        max_batches: int | None = None,
    ) -> None:
        self.name, self.loader, self.references = name, loader, references
        self.tokenizer, self.options, self.device = tokenizer, options, device
        self.metrics, self.max_batches = tuple(metrics), max_batches
        self.predictions: dict[int, str] = {}
        self.scores: Scores | None = None

    @torch.inference_mode()
    def caption(self, model: UpDown) -> Iterator[tuple[int, str]]:
        """Yield picture id and caption for this process's share; `model` must be in evaluation mode."""
        for batch in itertools.islice(self.loader, self.max_batches):
            inputs = (batch[key].to(self.device) for key in ("att_feats", "att_masks", "fc_feats"))
            found = decode(model.step, model.begin(*inputs), self.options)
            for image_id, tokens in zip(batch["image_ids"], found.tokens[:, 0].tolist(), strict=True):
                yield image_id, self.tokenizer.decode(tokens)

    def run(self, model: UpDown) -> Iterator[tuple[str, float]]:
        """Yield ``name/metric`` and value for every metric; the same on every rank."""
        pairs = dist.gather_objects(list(self.caption(model)), key=lambda pair: pair[0])
        self.predictions = dict(sorted(pairs))
        self.scores = None
        references = {key: list(self.references[key]) for key in self.predictions}
        # Pictures of an online test have no captions: they are captioned and not scored.
        if dist.is_main() and all(references.values()):
            self.scores = evaluate(references, self.predictions, metrics=self.metrics)
        overall = dist.broadcast_object(dict(self.scores.overall) if self.scores else None)
        for metric, value in (overall or {}).items():
            yield f"{self.name}/{metric}", float(value)

    def write(self, folder: Path, step: int) -> None:
        """Write captions and scores of the last `run` on rank 0, under the original's file names.

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
    scores = evaluate({k: list(v) for k, v in test.items()}, dict.fromkeys(test, chosen), metrics=METRICS)
    return chosen, scores.overall


def _constant_cider(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """Mean CIDEr of each candidate over all pictures."""
    cooked = cook(references)
    images = np.arange(len(references))
    return [float(cider(cooked, [caption] * len(images), images).mean()) for caption in candidates]
