"""Captions of a split by beams of several sizes, their scores, and the loss on the validation split."""

# B pictures, T words of a caption, start and end included

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from expansionnet.config import Config, RunOptions
from expansionnet.decoding import caption, options
from expansionnet.ensemble import Ensemble
from expansionnet.learning.loss import smoothed_cross_entropy
from expansionnet.model import ExpansionNet
from expansionnet.words.vocabulary import Vocabulary
from prunelab import dist
from prunelab.caption.evaluate import FAST
from prunelab.caption.split import Evaluator
from prunelab.decode import DecodeOptions

Model: TypeAlias = ExpansionNet | Ensemble
Batch: TypeAlias = Mapping[str, Any]


def on_device(batch: Batch, device: torch.device, *, channels_last: bool = False) -> dict[str, Any]:
    """The batch with its tensors on a device; pictures with channels as the last axis in memory if wanted."""
    moved = {
        name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for name, value in batch.items()
    }
    if channels_last and moved["x"].ndim == 4:
        moved["x"] = moved["x"].contiguous(memory_format=torch.channels_last)
    return moved


def on_machine(model: ExpansionNet, run: RunOptions, device: torch.device) -> ExpansionNet:
    """A model on a device, in the wanted layout, compiled if that is wanted."""
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if run.compile:
        # Layer by layer: all that trains, samples and captions calls them, with lengths that change.
        for layer in (*model.encoders, *model.decoders):
            layer.compile(dynamic=True)
        if model.cfg.is_end_to_end:
            model.swin_transf.compile()
    return model.to(device)


def most_tokens(cfg: Config, positions: int) -> int:
    """Most tokens of a caption while a run is validated, start and end included.

    Args:
        cfg: of the run; training by reward has a limit of its own.
        positions: of the model.
    """
    return min(positions, cfg.scst.scst_max_len) if cfg.scst.reinforce else positions


def sentence(ids: Sequence[int], vocabulary: Vocabulary, *, drop_last_word: bool) -> str:
    """A caption as words between blanks.

    Args:
        ids: from start to end; without an end where the limit of length cut it off.
        vocabulary: knows the words.
        drop_last_word: as the original, take the last token for the end, whatever it is.
    """
    if drop_last_word:
        return " ".join(vocabulary.words[token] for token in ids[1:-1])
    return " ".join(vocabulary.decode(ids))


def score_name(split: str, beams: Sequence[int], beam_size: int) -> str:
    """What names of scores begin with: the split's name for the first size, ``val_beam_5`` for others."""
    return split if beam_size == beams[0] else f"{split}_beam_{beam_size}"


def make_evaluators(
    split: str,
    cfg: Config,
    batches: Iterable[Batch],
    references: Mapping[int, Sequence[str]],
    vocabulary: Vocabulary,
    *,
    positions: int,
    device: torch.device,
    metrics: Sequence[str] = FAST,
    max_batches: int | None = None,
) -> dict[int, Evaluator[Model]]:
    """An evaluator for each of ``eval_beam_sizes``; the model must be in evaluation mode.

    Args:
        split: begins the names of scores.
        cfg: how to search, and on what machine.
        batches: this process's share of the split.
        references: of the whole split.
        vocabulary: of the model.
        positions: most tokens of a caption, where the configuration leaves it open.
        device: of the model.
        metrics: see `prunelab.caption.evaluate`; those that need Java are left out where it is missing.
        max_batches: of each evaluation.
    """
    beams = cfg.decode.eval_beam_sizes
    return {
        beam_size: Evaluator(
            score_name(split, beams, beam_size),
            batches,
            references,
            _captioner(
                cfg, vocabulary, options(cfg.decode, vocabulary, beam_size, positions=positions), device
            ),
            metrics=metrics,
            max_batches=max_batches,
            skip_unavailable=True,
        )
        for beam_size in dict.fromkeys(beams)
    }


def _captioner(
    cfg: Config, vocabulary: Vocabulary, search: DecodeOptions, device: torch.device
) -> Callable[[Model, Batch], Iterator[tuple[int, str]]]:
    """What an evaluator does with a batch."""

    def say(model: Model, batch: Batch) -> Iterator[tuple[int, str]]:
        batch = on_device(batch, device, channels_last=cfg.run.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16"):
            found = caption(model, batch["x"], search, batch["pads"])
        for image_id, ids in zip(batch["image_ids"], found, strict=True):
            yield image_id, sentence(ids, vocabulary, drop_last_word=cfg.quirks.drop_last_word)

    return say


def choose_captions(references: Mapping[int, Sequence[str]], generator: random.Random) -> dict[int, str]:
    """One caption of each picture, drawn as the original does: one number a picture, in their order."""
    return {
        image_id: captions[generator.randint(0, len(captions) - 1)]
        for image_id, captions in references.items()
    }


class ValidationLoss:
    """Cross entropy of one caption a picture, with smoothed labels, over a whole split.

    Args:
        batches: this process's share of the split.
        choose: gives picture id and caption; called once an evaluation.
        vocabulary: of the model.
        cfg: the smoothing, the quirk ``start_in_validation_loss``, the machine.
        device: of the model.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        choose: Callable[[], Mapping[int, str]],
        vocabulary: Vocabulary,
        cfg: Config,
        device: torch.device,
    ) -> None:
        self.batches, self.choose, self.vocabulary = batches, choose, vocabulary
        self.cfg, self.device = cfg, device

    @torch.inference_mode()
    def run(self, model: ExpansionNet) -> Iterator[tuple[str, float]]:
        """Yield ``val/loss``; the same on every rank, for every number of ranks. Collective.

        The sum over all words, divided by their number, which under the quirk counts each caption's start.
        """
        captions = self.choose()
        parts = [(batch["image_ids"][0], *self._sums(model, batch, captions)) for batch in self.batches]
        parts = sorted(dist.gather_objects(parts))  # by picture, so that the sum is always the same
        yield "val/loss", math.fsum(loss for _, loss, _ in parts) / sum(words for *_, words in parts)

    def _sums(self, model: ExpansionNet, batch: Batch, captions: Mapping[int, str]) -> tuple[float, int]:
        pad = self.vocabulary.pad
        rows = [torch.tensor(self.vocabulary.encode(captions[i])) for i in batch["image_ids"]]
        tokens = pad_sequence(rows, batch_first=True, padding_value=pad).to(self.device)  # (B, T)
        pads = torch.tensor([tokens.shape[1] - len(row) for row in rows], device=self.device)
        batch = on_device(batch, self.device, channels_last=self.cfg.run.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.run.amp == "bf16"):
            logits: Tensor = model(batch["x"], tokens[:, :-1], batch["pads"], pads)
        smoothing = self.cfg.optim.label_smoothing
        loss = smoothed_cross_entropy(logits, tokens[:, 1:], pad=pad, smoothing=smoothing, mean=False)
        counted = 0 if self.cfg.quirks.start_in_validation_loss else 1
        return float(loss), sum(len(row) - counted for row in rows)
