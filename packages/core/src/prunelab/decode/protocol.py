"""What a model offers to be decoded: a step function and a state.

A step function takes the newest token of every row and the state, and returns the log-probabilities of the
next token and the new state. Rows are image-major: image 0's beams, then image 1's, and so on, the same
number for every image; that number grows from 1 when a beam search starts. A step function must

* return log-probabilities, hence numbers that are not above 0 (early stopping relies on it);
* leave the tensors of the state that it was given as they are, and return new ones;
* work for any number of images and of rows an image, as images that are finished leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from prunelab.errors import UserError

# B images, K rows (beams) an image, N = B * K rows, V vocabulary, L longest caption


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply a function to the tensors in nested tuples, lists and dicts; other leaves stay as they are."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(map_tensors(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _tensors(value)


@dataclass(frozen=True, kw_only=True)
class State:
    """What a step function carries from token to token.

    Both parts are nested tuples, lists and dicts of tensors whose dimension 0 is the batch. Leaves that are
    not tensors (numbers, weights prepared for the loop) are handed on untouched.
    """

    per_image: Any = None
    """Dimension 0 is B: what all beams of an image share (encoder output); never repeated, never reordered.
    """
    per_beam: Any = None
    """Dimension 0 is N: what each beam has of its own (hidden states, caches)."""

    @property
    def size(self) -> tuple[int, torch.device]:
        """The number of images B, before rows are expanded, and the device."""
        for part in (self.per_image, self.per_beam):
            for tensor in _tensors(part):
                return tensor.shape[0], tensor.device
        raise UserError("decoding state holds no tensor: expected at least one, as it tells the batch size")

    def expand(self, rows: int) -> State:
        """Repeat each row ``rows`` times in place: a, b become a, a, b, b."""
        if rows == 1:
            return self
        return replace(self, per_beam=map_tensors(lambda x: x.repeat_interleave(rows, dim=0), self.per_beam))

    def select_rows(self, index: Tensor) -> State:
        """Take rows ``index`` (int64) of what each beam has of its own."""
        return replace(self, per_beam=map_tensors(lambda x: x.index_select(0, index), self.per_beam))

    def select_images(self, index: Tensor) -> State:
        """Take images ``index`` (int64) of what an image's beams share."""
        return replace(self, per_image=map_tensors(lambda x: x.index_select(0, index), self.per_image))


StepFunction: TypeAlias = Callable[[Tensor, State], tuple[Tensor, State]]
"""``(tokens (N,) int64, state) -> (log_probs (N, V), state)``."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Captions of a batch."""

    tokens: Tensor
    """(B, K, L) int64: without bos, eos kept, pad after it; best first where a search ranks them."""
    log_probs: Tensor
    """(B, K, L): log-probability of each token as the method records it, 0 on padding."""
    scores: Tensor
    """(B, K) float64: what the captions are ranked by; for greedy and sampling the sum up to the end."""
