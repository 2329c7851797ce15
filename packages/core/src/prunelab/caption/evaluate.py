"""Score the captions of a data set with the metrics of the field, under their usual names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prunelab.caption.bleu import bleu
from prunelab.caption.cider import cider
from prunelab.caption.java import Unavailable
from prunelab.caption.meteor import meteor
from prunelab.caption.references import cook
from prunelab.caption.rouge import rouge_l
from prunelab.caption.spice import spice
from prunelab.caption.tokenizer import tokenize as ptb_tokenize
from prunelab.errors import UserError

Key = TypeVar("Key", int, str)

METRICS = ("BLEU", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
"""What can be asked for, in the order of the published tables."""
FAST = ("BLEU", "ROUGE_L", "CIDEr")
"""Those that need no Java."""
_OTHER_NAMES = {"rouge": "ROUGE_L", "rouge-l": "ROUGE_L", **{f"bleu_{n}": "BLEU" for n in range(1, 5)}}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a set of captions; 1 is 1, not 100."""

    overall: dict[str, float]
    """``Bleu_1`` .. ``Bleu_4``, ``METEOR``, ``ROUGE_L``, ``CIDEr``, ``SPICE``: those asked for."""
    per_image: list[dict[str, Any]]
    """For each image ``image_id`` and its scores under the same names."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed here, and why in one line."""


def metric_names(names: Iterable[str]) -> tuple[str, ...]:
    """Read names of metrics in any case (``bleu``, ``Bleu_4``, ``rouge``, ...); ``all`` means all.

    Raises:
        UserError: an unknown name, or none.
    """
    known = {name.lower(): name for name in METRICS} | _OTHER_NAMES
    wanted: list[str] = []
    for name in names:
        low = name.strip().lower()
        if low != "all" and low not in known:
            raise UserError(
                f"metric {name.strip()!r} is unknown; expected some of {', '.join(METRICS)}, or all"
            )
        wanted += METRICS if low == "all" else [known[low]]
    if not wanted:
        raise UserError(f"no metric named; expected some of {', '.join(METRICS)}, or all")
    return tuple(name for name in METRICS if name in wanted)


def evaluate(
    references: Mapping[Key, Sequence[str]],
    predictions: Mapping[Key, str],
    metrics: Sequence[str] = FAST,
    *,
    tokenize: bool = True,
    subset: bool = False,
    skip_unavailable: bool = False,
    timeout: float = 7200.0,
) -> Scores:
    """Score one predicted caption an image.

    The document frequencies of CIDEr come from the references of the images that are scored.

    Args:
        references: image id -> its reference captions, at least one.
        predictions: image id -> the caption to score.
        metrics: names from `METRICS`, in any case.
        tokenize: bring all captions into the form on which published scores are defined
            (`prunelab.caption.tokenizer`); else they are taken as lists of words between blanks.
        subset: images without a prediction are left out; else they are an error.
        skip_unavailable: a metric that cannot be computed here goes to `Scores.unavailable`; else it is an
            error.
        timeout: seconds that a Java program may take.

    Raises:
        UserError: images without references or predictions, or an unknown metric.
        Unavailable: METEOR or SPICE cannot be computed on this machine.
    """
    wanted = metric_names(metrics)
    ids = _common_images(references, predictions, subset)
    refs = [list(references[image]) for image in ids]
    captions = [predictions[image] for image in ids]
    if tokenize:
        flat = iter(ptb_tokenize(list(itertools.chain.from_iterable(refs))))
        refs = [list(itertools.islice(flat, len(image))) for image in refs]
        captions = ptb_tokenize(captions)
    columns: dict[str, tuple[float, Sequence[float]]] = {}
    unavailable: dict[str, str] = {}
    cooked = cook(refs) if set(wanted) & set(FAST) else None
    for name in wanted:
        try:
            if name == "METEOR":
                columns[name] = meteor(refs, captions, timeout=timeout)
            elif name == "SPICE":
                columns[name] = spice(refs, captions, timeout=timeout)
            elif cooked is not None and name == "BLEU":
                scored = bleu(cooked, captions)
                for n in range(4):
                    columns[f"Bleu_{n + 1}"] = float(scored.corpus[n]), scored.each[:, n].tolist()
            elif cooked is not None:
                each = (rouge_l if name == "ROUGE_L" else cider)(cooked, captions)
                columns[name] = float(each.mean()), each.tolist()
        except Unavailable as error:
            if not skip_unavailable:
                raise
            unavailable[name] = str(error)
    return Scores(
        overall={name: score for name, (score, _) in columns.items()},
        per_image=[
            {"image_id": image, **{name: _plain(each[row]) for name, (_, each) in columns.items()}}
            for row, image in enumerate(ids)
        ],
        unavailable=unavailable,
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _common_images(
    references: Mapping[Key, Sequence[str]], predictions: Mapping[Key, str], subset: bool
) -> list[Key]:
    """The images to score, in the order of the predictions."""
    if not predictions:
        raise UserError("there are no predictions; expected at least one")
    without = [image for image in predictions if not references.get(image)]
    if without:
        raise UserError(
            f"{len(without)} of {len(predictions)} predictions have no references "
            f"(image_id {_some(without)}); expected references of every predicted image"
        )
    missing = [image for image in references if image not in predictions]
    if missing and not subset:
        raise UserError(
            f"{len(missing)} of {len(references)} images with references have no prediction "
            f"(image_id {_some(missing)}); expected one caption an image"
        )
    return list(predictions)


def _some(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:3])) + (", ..." if len(items) > 3 else "")
