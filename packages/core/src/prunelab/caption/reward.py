"""Rewards of self-critical training: samples scored against all captions of their image."""

# B images, K captions of an image, L tokens of the longest

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunelab.caption.bleu import bleu
from prunelab.caption.cider_d import CiderD, WeighedReferences
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import CookedReferences
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionReward:
    """A weighted sum of CIDEr-D and sentence BLEU (Rennie et al., 2017).

    A metric that weighs nothing is not computed: CIDEr-D where its weight is not above 0, BLEU where none of
    its four weights is.

    Raises:
        UserError: nothing weighs anything, or not four weights of BLEU.
    """

    frequency: DocumentFrequency
    """How rare n-grams are, for CIDEr-D."""
    cider_weight: float = 1.0
    """Weight of CIDEr-D, whose best score is 10."""
    bleu_weights: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    """Weights of BLEU-1 to BLEU-4, whose best score is 1."""
    scorer: CiderD = field(init=False)

    def __post_init__(self) -> None:
        if len(self.bleu_weights) != 4:
            raise UserError(f"{len(self.bleu_weights)} weights of BLEU: expected four, of BLEU-1 to BLEU-4")
        if not self.weighs_cider and not self.weighs_bleu:
            raise UserError(
                f"the reward weighs CIDEr-D with {self.cider_weight:g} and BLEU-1 to BLEU-4 with "
                f"{', '.join(f'{weight:g}' for weight in self.bleu_weights)}: expected one weight above 0"
            )
        object.__setattr__(self, "scorer", CiderD(self.frequency))

    @property
    def weighs_cider(self) -> bool:
        """Whether CIDEr-D is computed."""
        return self.cider_weight > 0

    @property
    def weighs_bleu(self) -> bool:
        """Whether BLEU is computed."""
        return max(self.bleu_weights) > 0

    def cook(self, references: Sequence[Sequence[str]]) -> WeighedReferences:
        """Prepare the captions of images (words between blanks) for any number of calls of `score`.

        Raises:
            UserError: an image without captions.
        """
        return self.scorer.cook(references)

    def weigh(self, references: CookedReferences) -> WeighedReferences:
        """Prepare captions that were cooked with the table's vocabulary."""
        return self.scorer.weigh(references)

    def score(
        self,
        samples: Sequence[Sequence[str]],
        references: WeighedReferences,
        images: Sequence[int] | None = None,
    ) -> Tensor:
        """Score B x K captions.

        Args:
            samples: for each image its K captions, words between blanks.
            references: from `cook` or `weigh`.
            images: (B,) places of the images in the references; None: these are the B images.

        Returns:
            (B, K) float64, on the CPU.

        Raises:
            UserError: an image that the references lack.
        """
        places = range(len(samples)) if images is None else images
        index = [place for place, image in zip(places, samples, strict=True) for _ in image]
        encoded = references.cooked.encode([caption for image in samples for caption in image])
        scores = np.zeros(len(encoded))
        if self.weighs_cider:
            scores += self.cider_weight * self.scorer.score(references, encoded, index)
        if self.weighs_bleu:
            scores += bleu(references.cooked, encoded, index).each @ np.asarray(self.bleu_weights, float)
        return torch.from_numpy(scores).view(len(samples), -1)

    def of_references(self, references: WeighedReferences) -> NDArray[np.float64]:
        """What each image's first caption would earn, (I,): a check before any training.

        Where all are 0, nothing that a network writes can be told from anything else: in a corpus of one
        image no n-gram is rare, for example.
        """
        cooked = references.cooked
        first = [cooked.captions[place] for place in cooked.first_caption[:-1].tolist()]
        return self.score([[caption] for caption in first], references)[:, 0].numpy()


def average_baseline(rewards: Tensor) -> Tensor:
    """Mean reward of the image's other samples (K from 2 on).

    Args:
        rewards: (B, K).

    Returns:
        (B, K).
    """
    return (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
