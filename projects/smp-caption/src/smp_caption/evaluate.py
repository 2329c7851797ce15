"""The search of an evaluation, the evaluator of a split that makes it, and the files of an online test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prunelab import dist
from prunelab.caption.evaluate import FAST
from prunelab.caption.split import Evaluator
from prunelab.config import to_plain
from prunelab.data.captions import CaptionRecord
from prunelab.data.coco import write_predictions
from prunelab.decode import DecodeOptions, decode
from smp_caption.config import DecodeConfig, ModelConfig
from smp_caption.model import Inputs, Network
from smp_caption.model.decoding import options_of
from smp_caption.tokenizer import Tokenizer

FAKE = "a picture"
"""What is said of pictures whose captions nobody scores."""


def decode_options(
    model: ModelConfig, config: DecodeConfig, beam_size: int, *, original: bool = False
) -> DecodeOptions:
    """The search of an evaluation; ``original``: as the original records, and with unknown words."""
    opt = {**to_plain(config), "beam_size": beam_size, "suppress_UNK": not original}
    return options_of(model, opt, original=original)


def write_server_files(
    folder: Path, name: str, predictions: Mapping[int, str], records: Iterable[CaptionRecord]
) -> list[Path]:
    """Write the two result files that COCO's evaluation server wants of an entry.

    It also asks for captions of val2014, whose scores do not count: `FAKE` is said of each of its pictures.

    Args:
        folder: where to.
        name: of the entry, a part of the files' names.
        predictions: picture id to caption, of test2014.
        records: pictures of the data set, among which those of val2014 are.
    """
    val = sorted({record.image_id for record in records if record.path.parent.name == "val2014"})
    contents = {"test2014": predictions, "val2014": dict.fromkeys(val, FAKE)}
    return [
        write_predictions(folder / f"captions_{part}_{name}_results.json", captions)
        for part, captions in contents.items()
    ]


def write_evaluation(
    evaluator: Evaluator[Network],
    run: Path,
    *,
    beams: int,
    step: int,
    suffix: str = "",
    online: Iterable[CaptionRecord] | None = None,
) -> Path:
    """Write an evaluation's captions and scores, on rank 0.

    Args:
        evaluator: which has run; named after its split.
        run: folder in which the folder of the evaluation is made.
        beams: of the search.
        step: of the model.
        suffix: added to the folder's name.
        online: pictures of the data set, if this was the online test, whose files the server takes.

    Returns:
        The folder of the evaluation.
    """
    split = evaluator.name if online is None else "test2014"
    folder = run / f"{split}_beam_{beams}{f'_{suffix}' if suffix else ''}"
    evaluator.write(folder, step)
    if online is not None:
        dist.on_main(
            lambda: write_server_files(folder, run.resolve().name, evaluator.predictions, online) and None
        )
    return folder


def make_evaluator(
    name: str,
    loader: Iterable[Mapping[str, Any]],
    references: Mapping[int, Sequence[str]],
    tokenizer: Tokenizer,
    options: DecodeOptions,
    *,
    device: torch.device,
    metrics: Sequence[str] = FAST,
    max_batches: int | None = None,
) -> Evaluator[Network]:
    """The evaluator of a split by the best beam of each picture; the model must be in evaluation mode."""

    def caption(model: Network, batch: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        found = decode(model.step, model.begin(Inputs.of(batch, device)), options)
        for image_id, tokens in zip(batch["image_ids"], found.tokens[:, 0].tolist(), strict=True):
            yield image_id, tokenizer.decode(tokens)

    return Evaluator(name, loader, references, caption, metrics=metrics, max_batches=max_batches)
