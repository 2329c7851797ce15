"""The reward of self-critical training: CIDEr-D of samples against all captions of their picture."""

# B pictures, K samples of a picture, L longest sample

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from expansionnet.words.text import reward_words
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import cook
from prunelab.caption.reward import CaptionReward
from prunelab.errors import UserError

END = "EOS"
"""The end of a caption, as a word."""
VERSION = "1.0.0"
"""Version of SacreEOS whose signatures are written."""


class Reward:
    """Scores captions of training pictures; made once, from the training split's own captions.

    A word's weight is its count times log(pictures) - log(max(1, frequency)), where the frequency counts
    the training pictures whose captions hold the n-gram.

    Args:
        references: for each training picture its captions, as words between blanks, with the end where it
            counts.
        end: whether the end counts as a word.

    Raises:
        UserError: a picture has no captions, or nothing that could be scored above zero.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, end: bool) -> None:
        self.end = end
        cooked = cook(references)
        self.metric = CaptionReward(frequency=DocumentFrequency.from_references(cooked))
        self.references = self.metric.weigh(cooked)
        if not (self.metric.of_references(self.references) > 0).any():  # in one picture nothing is rare
            raise UserError(
                f"captions_path: the reward of every reference of {len(references)} training pictures is 0, "
                "expected captions that differ from picture to picture"
            )

    @classmethod
    def from_references(cls, captions: Sequence[Sequence[str]], *, end: bool) -> Reward:
        """Make one from raw captions.

        Args:
            captions: for each training picture its captions as they are in the data set.
            end: whether the end counts as a word, in samples and references alike.
        """
        ending = [END] if end else []
        return cls(
            [[" ".join([*reward_words(raw), *ending]) for raw in image] for image in captions], end=end
        )

    def of_words(self, samples: Sequence[Sequence[Sequence[str]]], images: Sequence[int]) -> Tensor:
        """Score B x K captions.

        Args:
            samples: for each picture its captions, lists of words without the start; the end, where a
                caption has one, is its last word.
            images: (B,) places of the pictures in the training split.

        Returns:
            (B, K) float64.
        """
        texts = [[" ".join(self._counted(words)) for words in image] for image in samples]
        return self.metric.score(texts, self.references, images)

    def of_tokens(self, tokens: Tensor, images: Sequence[int], words: Sequence[str], eos: int) -> Tensor:
        """Score B x K captions given as ids.

        Args:
            tokens: (B, K, L) ids after the start; what follows the first ``eos`` is no part of a caption.
            images: (B,) places of the pictures in the training split.
            words: the word of each id.
            eos: id of the end.

        Returns:
            (B, K) float64, on the CPU.
        """

        def text(row: list[int]) -> list[str]:
            if eos not in row:
                return [words[token] for token in row]
            return [*(words[token] for token in row[: row.index(eos)]), END]

        return self.of_words([[text(row) for row in image] for image in tokens.tolist()], images)

    def _counted(self, words: Sequence[str]) -> Sequence[str]:
        return words if self.end or not words or words[-1] != END else words[:-1]


def signature(*, end: bool, num_samples: int, baseline: str) -> str:
    """How rewards are computed, in the words of SacreEOS (Hu et al., 2023)."""
    return (
        f"{'STANDARD' if end else 'NO<EOS>'}_wInit+Cider-D[n4,s6.0]+{baseline}[nspi{num_samples}]+{VERSION}"
    )
