"""The search of an evaluation, and the evaluator of a split that makes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from prunelab.caption.evaluate import FAST
from prunelab.caption.split import Evaluator
from prunelab.config import to_plain
from prunelab.decode import DecodeOptions, decode
from smp_caption.config import DecodeConfig, ModelConfig
from smp_caption.model import Inputs, Network
from smp_caption.model.decoding import options_of
from smp_caption.tokenizer import Tokenizer


def decode_options(
    model: ModelConfig, config: DecodeConfig, beam_size: int, *, original: bool = False
) -> DecodeOptions:
    """The search of an evaluation; ``original``: as the original records, and with unknown words."""
    opt = {**to_plain(config), "beam_size": beam_size, "suppress_UNK": not original}
    return options_of(model, opt, original=original)


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
