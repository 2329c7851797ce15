"""Rewards of self-critical training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunelab import checkpoint
from prunelab.bench import reference_caption as plain
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import cook
from prunelab.caption.reward import CaptionReward, average_baseline
from prunelab.errors import UserError

REFERENCES = [
    ["a red cat sits", "the cat sits on a mat"],
    ["two dogs run in the park", "dogs play", "two dogs play in a park"],
    ["one green bus"],
]
SAMPLES = [["a red cat", "a cat sits on a bus", ""], ["two dogs play", "a park", "green bus"]]


def table() -> DocumentFrequency:
    return DocumentFrequency.from_references(cook(REFERENCES))


def by_hand(cider: float, bleu: tuple[float, ...], images: list[int]) -> torch.Tensor:
    counts = plain.document_frequency(REFERENCES)
    rows = []
    for image, captions in zip(images, SAMPLES, strict=True):
        references = REFERENCES[image]
        _, each = plain.bleu([references] * len(captions), captions)
        rows.append(
            [
                cider * plain.cider_d(caption, references, counts, len(REFERENCES))
                + float(np.dot(bleu, scores))
                for caption, scores in zip(captions, each, strict=True)
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("cider", "bleu"), [(1.0, (0, 0, 0, 0)), (0.5, (0.1, 0.2, 0, 0.4)), (0.0, (0, 0, 0, 2.0))]
)
def test_rewards_are_the_weighted_sum_of_the_metrics(cider: float, bleu: tuple[float, ...]) -> None:
    reward = CaptionReward(frequency=table(), cider_weight=cider, bleu_weights=bleu)
    scores = reward.score(SAMPLES, reward.cook(REFERENCES[:2]))
    torch.testing.assert_close(scores, by_hand(cider, bleu, [0, 1]), rtol=1e-9, atol=1e-12)
    assert scores.dtype == torch.float64


def test_images_may_be_named_by_their_places_among_many() -> None:
    reward = CaptionReward(frequency=table(), bleu_weights=(1, 0, 0, 0))
    every = reward.cook(REFERENCES)
    for images in ([1, 0], [2, 2]):
        scores = reward.score(SAMPLES, every, images)
        torch.testing.assert_close(scores, by_hand(1, (1, 0, 0, 0), images), rtol=1e-9, atol=1e-12)


def test_metrics_without_weight_are_not_counted_even_where_it_is_negative() -> None:
    alone = CaptionReward(frequency=table())
    other = CaptionReward(frequency=table(), bleu_weights=(-1, 0, 0, 0))
    assert not other.weighs_bleu
    assert torch.equal(*(r.score(SAMPLES, r.cook(REFERENCES[:2])) for r in (alone, other)))


@pytest.mark.parametrize("bleu", [(0, 0, 0, 0), (-1, 0, 0, -2)])
def test_a_reward_that_weighs_nothing_is_refused(bleu: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="expected one weight above 0"):
        CaptionReward(frequency=table(), cider_weight=0, bleu_weights=bleu)
    with pytest.raises(UserError, match="3 weights of BLEU: expected four"):
        CaptionReward(frequency=table(), bleu_weights=(0, 0, 1))


def test_what_references_earn_shows_captions_that_nothing_can_be_learnt_from() -> None:
    reward = CaptionReward(frequency=table())
    assert (reward.of_references(reward.cook(REFERENCES)) > 0).all()
    same = [["a cat", "a cat"], ["a cat"]]
    idle = CaptionReward(frequency=DocumentFrequency.from_references(cook(same)))
    assert idle.of_references(idle.cook(same)).tolist() == [0, 0]


def test_the_baseline_of_a_sample_is_the_mean_of_the_others() -> None:
    r = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    assert average_baseline(r).tolist() == [[4.0, 3.5, 1.5]]


def test_a_table_that_a_run_keeps_is_the_same_table(tmp_path: Path) -> None:
    made = table()
    kept = checkpoint.once(tmp_path / "kept", "table", 0, made.to_plain, print)
    plain_data, tensors = kept
    again = DocumentFrequency.from_plain(
        checkpoint.unpack(plain_data, lambda name: tensors[name].clone(), torch.device("cpu"))
    )
    assert again.counts() == made.counts()
    assert again.images == made.images
    first, second = CaptionReward(frequency=made), CaptionReward(frequency=again)
    assert torch.equal(
        first.score(SAMPLES, first.cook(REFERENCES[:2])), second.score(SAMPLES, second.cook(REFERENCES[:2]))
    )
