"""References cooked once: their n-grams as small trees, ready for any number of calls of any scorer."""

# I images, C references in all, R references of an image, B candidates

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.caption.words import Encoded, Vocabulary
from prunelab.errors import UserError
from prunelab.util import in_parts

Candidates: TypeAlias = Sequence[str] | Encoded
"""Captions to score: strings (words between white space) or numbers (`prunelab.caption.words`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CookedReferences:
    """The references of I images; see `prunelab.caption.kernels` for the layout."""

    vocabulary: Vocabulary
    """What the words' numbers mean."""
    captions: tuple[str, ...]
    """(C,) The references themselves."""
    first_caption: NDArray[np.int64]
    """(I + 1,) Where each image's references begin."""
    lengths: NDArray[np.int64]
    """(C,) Words of each reference."""
    first_row: NDArray[np.int64]
    """(I + 1,) Where each image's n-grams begin."""
    first_slot: NDArray[np.int64]
    """(I + 1,) Where each image's table begins."""
    first_count: NDArray[np.int64]
    """(I + 1,) Where each image's counts begin."""
    rows: NDArray[np.int64]
    """(I,) Number of different n-grams of each image."""
    parent: NDArray[np.int32]
    """Of an n-gram: the row of its first n - 1 words, or -1."""
    word: NDArray[np.int32]
    """Of an n-gram: its last word."""
    depth: NDArray[np.uint8]
    """Of an n-gram: n - 1."""
    counts: NDArray[np.uint16]
    """Of an n-gram and a reference: how often it occurs."""
    slots: NDArray[np.int32]
    """The tables."""

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def at_blanks(self) -> Encoded:
        """(C,) The references split at single blanks, for ROUGE-L."""
        return self.vocabulary.encode(self.captions, grow=True, blanks=True)

    def encode(self, candidates: Candidates) -> Encoded:
        """Number the candidates' words, unless that is done already."""
        return candidates if isinstance(candidates, Encoded) else self.vocabulary.encode(candidates)

    def images_of(self, count: int, images: ArrayLike | None) -> NDArray[np.int64]:
        """(B,) Check which image each of ``count`` candidates belongs to.

        Args:
            count: B, number of candidates.
            images: index of each candidate's image; None for an equal number of candidates an image, in the
                order of the images.

        Raises:
            UserError: the numbers do not fit.
        """
        if images is None:
            if len(self) == 0 or count % len(self):
                raise UserError(
                    f"{count} captions for {len(self)} images; expected as many for each image, "
                    "or the index of each caption's image"
                )
            return np.repeat(np.arange(len(self), dtype=np.int64), count // len(self))
        index = np.ascontiguousarray(images, dtype=np.int64)
        if index.shape != (count,):
            raise UserError(f"image indices have shape {index.shape}; expected ({count},), one a caption")
        if count and (index.min() < 0 or index.max() >= len(self)):
            raise UserError(
                f"image indices from {index.min()} to {index.max()}; expected 0 to {len(self) - 1}"
            )
        return index


def cook(
    references: Sequence[Sequence[str]], vocabulary: Vocabulary | None = None, *, threads: int = 2
) -> CookedReferences:
    """Cook the references of I images.

    Args:
        references: for each image its captions, words between white space (tokenise them before, if wanted).
        vocabulary: numbers for the words; a new one unless a frequency table brings its own.
        threads: 1 or 2; the result is the same.

    Raises:
        UserError: an image without references.
    """
    from prunelab.caption import kernels  # numba is only loaded where something is scored

    vocabulary = Vocabulary() if vocabulary is None else vocabulary
    per_image = np.fromiter(map(len, references), np.int64, len(references))
    if len(per_image) and not per_image.all():
        raise UserError(f"image {int(np.argmin(per_image))} has no references; expected at least one")
    captions = tuple(caption for image in references for caption in image)
    first_caption = _offsets(per_image)
    encoded = vocabulary.encode(captions, grow=True)
    lengths = encoded.lengths
    ngrams = sum(np.maximum(lengths - n, 0) for n in range(kernels.ORDERS))  # (C,)
    most_rows = np.diff(np.concatenate([[0], np.cumsum(ngrams)])[first_caption])  # (I,)
    first_row = _offsets(most_rows)
    first_count = _offsets(most_rows * per_image)
    # Tables of at least twice the rows, and powers of two.
    first_slot = _offsets(1 << np.ceil(np.log2(np.maximum(2 * most_rows, 2))).astype(np.int64))
    parent, word = np.empty(first_row[-1], np.int32), np.empty(first_row[-1], np.int32)
    depth = np.empty(first_row[-1], np.uint8)
    counts, slots = np.zeros(first_count[-1], np.uint16), np.zeros(first_slot[-1], np.int32)
    rows = np.zeros(len(per_image), np.int64)

    def work(low: int, high: int) -> None:
        kernels.cook(
            encoded.tokens, encoded.starts, encoded.ends, first_caption, first_row, first_slot, first_count,
            parent, word, depth, counts, slots, rows, low, high,
        )  # fmt: skip

    in_parts(work, len(per_image), threads)
    return CookedReferences(
        vocabulary=vocabulary,
        captions=captions,
        first_caption=first_caption,
        lengths=lengths,
        first_row=first_row,
        first_slot=first_slot,
        first_count=first_count,
        rows=rows,
        parent=parent,
        word=word,
        depth=depth,
        counts=counts,
        slots=slots,
    )


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) Where pieces of these sizes begin, and the end of the last."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
