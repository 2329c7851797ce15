"""Rewards: what counts as a word, the signature, and captions that are worth nothing."""

from __future__ import annotations

import pytest
import torch

from expansionnet.learning.reward import Reward, signature
from expansionnet.words.vocabulary import Vocabulary
from prunelab.bench.reference_caption import cider_d, document_frequency
from prunelab.errors import UserError

CAPTIONS = [
    ["A red cat, sitting.", "the red cat sits on a mat"],
    ["Two dogs run\tin the park", "two dogs play"],
    ["a bus stops.", "one green bus"],
]
CLEAN = [
    ["a red cat sitting", "the red cat sits on a mat"],
    ["two dogs run in the park", "two dogs play"],
    ["a bus stops", "one green bus"],
]
WORDS = Vocabulary.from_captions([raw for image in CAPTIONS for raw in image], min_occurrences=1)
SAMPLES = [["two", "dogs", "UNK", "\n", "play"], ["a", "red", "bus", "EOS"]]


def by_hand(end: bool, sample: list[str], image: int) -> float:
    ending = " EOS" if end else ""
    references = [[caption + ending for caption in captions] for captions in CLEAN]
    kept = sample if end else [word for word in sample if word != "EOS"]
    frequency = document_frequency(references)
    return cider_d(" ".join(kept), references[image], frequency, len(references))


@pytest.mark.parametrize("end", [True, False])
def test_rewards_are_cider_d_with_or_without_the_end_as_a_word(end: bool) -> None:
    reward = Reward.from_references(CAPTIONS, end=end)
    scores = reward.of_words([SAMPLES, SAMPLES], [1, 2])
    expected = [[by_hand(end, sample, image) for sample in SAMPLES] for image in (1, 2)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))
    assert scores.dtype == torch.float64
    assert (scores > 0).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("end", [True, False])
def test_ids_score_as_their_words_up_to_the_first_end(end: bool) -> None:
    reward = Reward.from_references(CAPTIONS, end=end)
    cat = [WORDS.id(word) for word in ("the", "red", "cat")]
    ended = [*cat, WORDS.eos, WORDS.id("mat"), WORDS.eos]
    cut = [*cat, WORDS.id("sits"), WORDS.sos, WORDS.id("on")]
    found = reward.of_tokens(torch.tensor([[ended, cut]]), [0], WORDS.words, WORDS.eos)
    said = [["the", "red", "cat", "EOS"], ["the", "red", "cat", "sits", "SOS", "on"]]
    assert torch.equal(found, reward.of_words([said], [0]))


def test_a_caption_cut_off_is_worth_less_where_the_end_counts() -> None:
    reward = Reward.from_references(CAPTIONS, end=True)
    whole, cut = ["two", "dogs", "play", "EOS"], ["two", "dogs", "play"]
    scores = reward.of_words([[whole, cut]], [1])[0]
    assert scores[0] > scores[1]


def test_captions_that_can_earn_nothing_are_refused_before_training() -> None:
    with pytest.raises(UserError, match="the reward of every reference of 2 training pictures is 0"):
        Reward.from_references([["a cat"], ["A cat."]], end=True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "STANDARD_wInit+Cider-D[n4,s6.0]+average[nspi5]+1.0.0"),
        ({"end": False}, "NO<EOS>_wInit+Cider-D[n4,s6.0]+average[nspi5]+1.0.0"),
        ({"baseline": "greedy", "num_samples": 1}, "STANDARD_wInit+Cider-D[n4,s6.0]+greedy[nspi1]+1.0.0"),
    ],
)
def test_the_signature_names_the_settings(settings: dict[str, object], expected: str) -> None:
    assert signature(**{"end": True, "num_samples": 5, "baseline": "average", **settings}) == expected
