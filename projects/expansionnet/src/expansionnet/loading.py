"""Weights that a model starts from, and any captioner by its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expansionnet.config import Config
from expansionnet.recognise import Weights

if TYPE_CHECKING:
    from expansionnet.captioner import Captioner
    from expansionnet.model import ExpansionNet
    from expansionnet.vocabulary import Vocabulary


def open_weights(path: str | Path, *, vocabulary: bool = True) -> Weights:
    """Read the weights that a path means, whatever holds them: see `recognise.Weights`.

    Raises:
        UserError: nothing is there, it is damaged, or it holds other things.
    """
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from, read before its data set is, as it may know words and sizes."""

    weights: tuple[Weights, ...] = ()
    """In the order in which they are loaded; later ones win."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Words of the body's weights, where they know them."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Words V of the body's weights; 0 where there are none."""
        raise NotImplementedError

    @property
    def max_seq_len(self) -> int:
        """Positions of the body's weights; 0 where there are none."""
        raise NotImplementedError

    def load_into(self, model: ExpansionNet) -> list[str]:
        """Copy the weights into a model; lines for the log say what was found."""
        raise NotImplementedError


def open_start(cfg: Config) -> Start:
    """Read ``backbone_save_path`` and ``body_save_path``; empty where the run starts from neither.

    Raises:
        UserError: reading features, a path is given and ``partial_load`` is not.
    """
    raise NotImplementedError


def load_body_and_backbone(model: ExpansionNet, cfg: Config) -> list[str]:
    """`open_start` and `Start.load_into` in one."""
    return open_start(cfg).load_into(model)


def load(
    path: str | Path, *, vocab_path: str | Path | None = None, device: str | torch.device = "cpu"
) -> Captioner:
    """A captioner from whatever holds one: a model folder, a run, a checkpoint of the original, a Hub id."""
    raise NotImplementedError
