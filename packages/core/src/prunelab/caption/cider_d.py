"""CIDEr-D, as an evaluation metric and as a reward: n-gram agreement weighted by rarity."""

# B candidates, C references in all

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import Candidates, CookedReferences, cook
from prunelab.errors import UserError
from prunelab.util import in_parts


@dataclass(frozen=True, kw_only=True, eq=False)
class WeighedReferences:
    """Cooked references with their weights under one frequency table."""

    cooked: CookedReferences
    """The references; BLEU and ROUGE-L take them as they are."""
    frequency: DocumentFrequency
    """The table that the weights come from."""
    node: NDArray[np.int32]
    """Of an n-gram: its node in the table, or -1."""
    idf: NDArray[np.float64]
    """Of an n-gram: its weight."""
    norm: NDArray[np.float64]
    """(C, 4) Length of each reference's tf-idf vector for each n."""

    def __len__(self) -> int:
        return len(self.cooked)


class CiderD:
    """CIDEr-D (Vedantam et al., 2015) with n = 1..4.

    For each reference and n: sum over the candidate's n-grams of min(h, r) r / (|h| |r|), where h and r are
    counts times log(images) - log(max(1, frequency)), times exp(-d^2 / (2 sigma^2)), d the difference of the
    numbers of bigrams; the mean over n and over the references, times 10.

    Args:
        frequency: document frequencies of the n-grams.
        sigma: width of the length penalty.
        threads: 1 or 2; the result is the same.
    """

    def __init__(self, frequency: DocumentFrequency, *, sigma: float = 6.0, threads: int = 2) -> None:
        self.frequency = frequency
        self.sigma = sigma
        self.threads = threads

    def cook(self, references: Sequence[Sequence[str]]) -> WeighedReferences:
        """Cook and weigh the references of I images, for any number of calls of `score`.

        Raises:
            UserError: an image without references.
        """
        return self.weigh(cook(references, self.frequency.vocabulary, threads=self.threads))

    def weigh(self, references: CookedReferences) -> WeighedReferences:
        """Weigh references that were cooked with this table's vocabulary."""
        from prunelab.caption import kernels

        if references.vocabulary is not self.frequency.vocabulary:
            raise UserError("references were cooked with another vocabulary; expected the frequency table's")
        table = self.frequency
        node = np.empty(len(references.parent), np.int32)
        idf = np.empty(len(references.parent))
        norm = np.zeros((len(references.lengths), kernels.ORDERS))

        def work(low: int, high: int) -> None:
            kernels.weigh(
                table.table, table.idf, table.idf_absent,
                references.parent, references.word, references.depth, references.counts, references.rows,
                references.first_row, references.first_count, references.first_caption,
                node, idf, norm, low, high,
            )  # fmt: skip

        in_parts(work, len(references), self.threads)
        return WeighedReferences(cooked=references, frequency=table, node=node, idf=idf, norm=norm)

    def score(
        self, references: WeighedReferences, candidates: Candidates, images: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Score captions against the references of their images.

        Args:
            references: from `cook`.
            candidates: B captions: strings, or numbers (`prunelab.caption.words.encode_tokens`).
            images: (B,) index of each caption's image; None: equally many for each image, in order.

        Returns:
            (B,) scores, 10 for a caption equal to its only reference.

        Raises:
            UserError: the number of captions and of images do not fit.
        """
        from prunelab.caption import kernels

        cooked, table = references.cooked, references.frequency
        encoded = cooked.encode(candidates)
        index = cooked.images_of(len(encoded), images)
        scores = np.empty(len(encoded))
        bigrams = np.maximum(cooked.lengths - 1, 0)

        def work(low: int, high: int) -> None:
            kernels.cider_d(
                encoded.tokens, encoded.starts, encoded.ends, index,
                table.table, table.idf, table.idf_absent, -0.5 / self.sigma**2,
                cooked.first_caption, cooked.first_row, cooked.first_slot, cooked.first_count,
                cooked.parent, cooked.word, cooked.counts, cooked.slots,
                references.node, references.idf, references.norm, bigrams, scores, low, high,
            )  # fmt: skip

        in_parts(work, len(encoded), self.threads)
        return scores
