"""ROUGE-L: longest common subsequences with the references."""

# B candidates

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.caption.references import CookedReferences
from prunelab.util import in_parts

BETA = 1.2


def rouge_l(
    references: CookedReferences,
    candidates: list[str] | tuple[str, ...],
    images: ArrayLike | None = None,
    *,
    threads: int = 2,
) -> NDArray[np.float64]:
    """Score captions against the references of their images (Lin and Hovy, 2004).

    Precision and recall of the longest common subsequence, each the best over the references, in an F-measure
    with beta 1.2. Words are what stands between single blanks, so an empty caption is one empty word.

    Args:
        references: from `prunelab.caption.references.cook`.
        candidates: B captions as strings.
        images: (B,) index of each caption's image; None: equally many for each image, in order.
        threads: 1 or 2; the result is the same.

    Returns:
        (B,) scores in [0, 1].

    Raises:
        UserError: the number of captions and of images do not fit.
    """
    from prunelab.caption import kernels

    others = references.at_blanks
    encoded = references.vocabulary.encode(candidates, blanks=True)
    index = references.images_of(len(encoded), images)
    precision, recall = np.zeros(len(encoded)), np.zeros(len(encoded))

    def work(low: int, high: int) -> None:
        kernels.common_subsequences(
            encoded.tokens, encoded.starts, encoded.ends, index,
            others.tokens, others.starts, others.ends, references.first_caption,
            precision, recall, low, high,
        )  # fmt: skip

    in_parts(work, len(encoded), threads)
    below = recall + BETA**2 * precision
    return np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros(len(encoded)), where=below > 0)
