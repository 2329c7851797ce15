"""BLEU-1 to BLEU-4 with the closest reference length, of a corpus and of each caption."""

# B candidates, N = 4 orders

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.caption.references import Candidates, CookedReferences
from prunelab.util import in_parts

# Keep the quotients finite: a caption without matches scores almost, not exactly, zero.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """BLEU-1..4."""

    corpus: NDArray[np.float64]
    """(4,) Of all captions together: counts and lengths are summed first."""
    each: NDArray[np.float64]
    """(B, 4) Of each caption alone."""


def bleu(
    references: CookedReferences,
    candidates: Candidates,
    images: ArrayLike | None = None,
    *,
    threads: int = 2,
) -> Bleu:
    """Score captions against the references of their images (Papineni et al., 2002).

    Matches of an n-gram are clipped at its largest count in one reference. BLEU-k is the k-th root of the
    product of (matches + 1e-15) / (guesses + 1e-9) over n <= k, times exp(1 - 1 / ratio) where ratio =
    (length + 1e-15) / (closest reference length + 1e-9) is below 1; of two equally close lengths the shorter
    counts.

    Args:
        references: from `prunelab.caption.references.cook`.
        candidates: B captions.
        images: (B,) index of each caption's image; None: equally many for each image, in order.
        threads: 1 or 2; the result is the same.

    Raises:
        UserError: the number of captions and of images do not fit.
    """
    from prunelab.caption import kernels

    encoded = references.encode(candidates)
    index = references.images_of(len(encoded), images)
    matches = np.zeros((len(encoded), kernels.ORDERS), np.int64)
    closest = np.zeros(len(encoded), np.int64)

    def work(low: int, high: int) -> None:
        kernels.bleu(
            encoded.tokens, encoded.starts, encoded.ends, index,
            references.first_caption, references.first_row, references.first_slot, references.first_count,
            references.parent, references.word, references.counts, references.slots, references.lengths,
            matches, closest, low, high,
        )  # fmt: skip

    in_parts(work, len(encoded), threads)
    lengths = encoded.lengths
    guesses = np.maximum(lengths[:, None] - np.arange(kernels.ORDERS), 0)  # (B, N)
    corpus = _scores(
        matches.sum(0, keepdims=True),
        guesses.sum(0, keepdims=True),
        lengths.sum(keepdims=True),
        closest.sum(keepdims=True),
    )
    return Bleu(corpus=corpus[0], each=_scores(matches, guesses, lengths, closest))


def _scores(
    matches: NDArray[np.int64],
    guesses: NDArray[np.int64],
    lengths: NDArray[np.int64],
    closest: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(B, N) BLEU from counts (B, N) and lengths (B,)."""
    products = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=1)
    scores = products ** (1.0 / np.arange(1, matches.shape[1] + 1))
    ratio = (lengths + _TINY) / (closest + _SMALL)
    penalty = np.exp(1.0 - 1.0 / np.minimum(ratio, 1.0))  # ratios from 1 on: exactly 1
    return scores * penalty[:, None]
