"""CIDEr as captioning papers report it: CIDEr-D with the document frequencies of the evaluated images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.caption.cider_d import CiderD
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import Candidates, CookedReferences


def cider(
    references: CookedReferences,
    candidates: Candidates,
    images: ArrayLike | None = None,
    *,
    threads: int = 2,
) -> NDArray[np.float64]:
    """Score captions; the references of these images are the corpus of the document frequencies.

    The evaluation code of the field calls this CIDEr and computes the clipped, length-penalised form
    (`prunelab.caption.cider_d.CiderD`). With a single image every weight, and so the score, is 0.

    Args:
        references: from `prunelab.caption.references.cook`.
        candidates: B captions: strings or numbers.
        images: (B,) index of each caption's image; None: equally many for each image, in order.
        threads: 1 or 2; the result is the same.

    Returns:
        (B,) scores; the corpus score is their mean.

    Raises:
        UserError: the number of captions and of images do not fit.
    """
    scorer = CiderD(DocumentFrequency.from_references(references), threads=threads)
    return scorer.score(scorer.weigh(references), candidates, images)
