"""What all captioning networks have in common: what they read, and how they are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunelab.decode import State
from prunelab.errors import UserError
from prunelab.mask import draw_once, masked_layers
from smp_caption.config import ModelConfig
from smp_caption.model.checkpoint import load_original

# B images, S regions, F size of a region's feature, K captions an image, N = B * K, T tokens, V vocabulary


class Inputs(NamedTuple):
    """The images of a batch as networks read them; what a network does not read may be None."""

    att_feats: Tensor
    """(B, S, F) features of regions, padded with zeros at the end."""
    att_masks: Tensor | None = None
    """(B, S) 1 on real regions; None where all are."""
    fc_feats: Tensor | None = None
    """(B, F) mean features; read by Up-Down."""
    boxes: Tensor | None = None
    """(B, S, 4) relative boxes x1, y1, x2, y2, padded with zeros; read by the relation transformer."""

    @classmethod
    def of(cls, batch: Mapping[str, Any], device: torch.device | None = None) -> Inputs:
        """The images of what a loader gave, on a device."""
        found = {name: batch[name] for name in cls._fields if batch.get(name) is not None}
        return cls(**{name: x if device is None else x.to(device) for name, x in found.items()})

    @property
    def images(self) -> int:
        """The number of images B."""
        return self.att_feats.shape[0]


class Network(nn.Module, ABC):
    """A captioning network.

    Args:
        cfg: its sizes.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg

    @abstractmethod
    def forward(self, inputs: Inputs, seqs: Tensor, *, last_column: bool = False) -> Tensor:
        """Log-probabilities of each next token, given the true ones before it.

        Args:
            inputs: the images.
            seqs: (N, T) or (B, K, T) token ids from bos on, an image's captions one after the other.
            last_column: predict also from the last column, for which there is no target; the original's
                Up-Down does, its transformers never.

        Returns:
            (N, T - 1, V), or (N, T, V) with ``last_column``.

        Raises:
            UserError: a number of captions that the images do not divide, or wrong feature sizes.
        """

    @abstractmethod
    def begin(self, inputs: Inputs) -> State:
        """Prepare images for decoding, see `prunelab.decode`; one row an image."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of decoding: newest tokens (N,) to log-probabilities (N, V) and the next state."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within it weights do not change and nothing is trained: what decoding makes of them is made once.

        Masks are drawn or rounded once, see `prunelab.mask.draw_once`.
        """
        with torch.no_grad(), draw_once(self):
            yield

    def redraws(self) -> bool:
        """Whether each call of a layer made now draws a mask of its own."""
        return any(
            not layer.is_held and layer.is_sampled(name)
            for _, layer in masked_layers(self)
            for name in layer.masked_names
        )

    def load_original(self, state: Mapping[str, Tensor], source: str = "checkpoint") -> None:
        """Load weights in the original's names, see `smp_caption.model.checkpoint.load_original`."""
        load_original(self, state, source)

    def captions_of(self, inputs: Inputs, seqs: Tensor) -> Tensor:
        """The captions (N, T), checked against the images.

        Raises:
            UserError: a number of captions that the images do not divide.
        """
        seqs = seqs.flatten(0, -2)  # (B, K, T) -> (N, T)
        if seqs.shape[0] % inputs.images:
            raise UserError(
                f"batch has {seqs.shape[0]} captions for {inputs.images} images: expected a multiple"
            )
        return seqs


def check_size(name: str, features: Tensor, wanted: int) -> None:
    """Refuse features of another size than the network's.

    Raises:
        UserError: they are of another size.
    """
    if features.shape[-1] != wanted:
        raise UserError(f"features have {features.shape[-1]} numbers each: expected {wanted} ({name})")
