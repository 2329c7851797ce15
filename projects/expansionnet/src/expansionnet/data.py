"""Pictures or their features, and captions, as batches.

A batch is a dict; ``B`` samples, ``S`` visual tokens of width ``F``, ``T`` words, ``H`` by ``W`` pixels:

=============== =========================================================================================
``x``           (B, S, F) features, float32 or float16, or (B, 3, H, W) pictures, float32
``pads``        (B,) int64: how many of the S are padding; None: none is, of any picture
``indices``     list of B places in the split's list of pictures
``image_ids``   list of B picture ids
``tokens``      (B, T) int64: start, words, end, padding; of cross entropy and of the validation loss
``token_pads``  (B,) int64: how many of the T are padding; goes with ``tokens``
``references``  list of B tuples of captions as written; in all batches but those of cross entropy
=============== =========================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from expansionnet.config import Config, ModelConfig
from expansionnet.vocabulary import Vocabulary
from prunelab.data.captions import CaptionRecord
from prunelab.data.loader import Loader

Batch: TypeAlias = dict[str, Any]
SPLITS = ("train", "val", "test")


class CaptionData:
    """The three splits of a data set, and the words of its captions.

    Attributes:
        cfg: the run's configuration.
        records: pictures and captions by split.
        vocabulary: the words.
    """

    def __init__(
        self, cfg: Config, records: Mapping[str, list[CaptionRecord]], vocabulary: Vocabulary
    ) -> None:
        self.cfg, self.records, self.vocabulary = cfg, dict(records), vocabulary

    @property
    def model_config(self) -> ModelConfig:
        """The configured network with the sizes that depend on the data filled in.

        Raises:
            UserError: the configuration says other sizes than the vocabulary has.
        """
        raise NotImplementedError

    def references(self, split: str) -> dict[int, tuple[str, ...]]:
        """Picture id to its captions as written, which evaluation compares with."""
        raise NotImplementedError

    def train_references(self) -> list[tuple[str, ...]]:
        """Captions as written of each training picture, in the order that ``indices`` of a batch mean."""
        raise NotImplementedError

    def loader(self, split: str, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches of a split: of captions or (reinforce) of pictures for ``train``, all pictures in order else.

        ``loader("train").sampler`` is what a run tracks: an epoch's order and the position in it.

        Raises:
            UserError: fewer samples than a batch, or ``batch_size`` cannot be shared by the processes.
        """
        raise NotImplementedError

    def validation_captions(self, rng: random.Random, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches for the validation loss: the validation pictures in order, one caption of each.

        Args:
            rng: draws the captions of all pictures in order, on each rank the same.
            rank: this process.
            world_size: number of processes; they share the batches out.
        """
        raise NotImplementedError


def open_data(
    cfg: Config, scratch: Path | None = None, *, vocabulary: Vocabulary | None = None
) -> CaptionData:
    """Open the data set of a configuration.

    Args:
        cfg: the run's configuration.
        scratch: folder for generated data (``fake_data``); default: ``fake_data`` in the working folder.
        vocabulary: the words of the weights that training starts from; None: ``vocab_path``'s, else those of
            the training captions.

    Raises:
        UserError: the data set, some of its pictures or its features are missing or damaged.
    """
    raise NotImplementedError
