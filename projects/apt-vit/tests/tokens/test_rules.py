"""Which tokens a clip layer keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apt_vit.config import PruneConfig
from apt_vit.tokens.rules import Rule, likeliest
from prunelab.errors import UserError


def scores(*rows: list[float]) -> tuple[Tensor, Tensor]:
    """Scores and tokens that all remain."""
    score = torch.tensor(rows)
    return score, torch.ones_like(score, dtype=torch.bool)


def test_a_probability_must_be_above_the_threshold_as_a_float32_number() -> None:
    limit = np.float32(0.3)
    score, alive = scores([0.9, float(limit), float(np.nextafter(limit, np.float32(1)))])
    assert Rule(threshold=0.3).keep(score, alive).tolist() == [[True, True, False]]


def test_equal_logits_are_kept_at_one_half() -> None:
    score, alive = scores([0.5, 0.5, 0.5])
    assert Rule().keep(score, alive).all()


def test_the_classification_token_is_always_kept() -> None:
    score, alive = scores([1.0, 1.0, 1.0])
    assert Rule().keep(score, alive).tolist() == [[True, False, False]]
    assert Rule(keep_rate=0.0).keep(score, alive).tolist() == [[True, False, False]]


def test_the_threshold_prunes_again_what_was_pruned_before_and_keeps_it_out() -> None:
    score, alive = torch.tensor([[0.1, 0.9, 0.1, 0.9]]), torch.tensor([[True, False, False, True]])
    assert Rule().prune(score, alive).tolist() == [[False, True, False, True]]
    assert Rule().keep(score, alive).tolist() == [[True, False, False, False]]


def test_a_keep_rate_of_seven_tenths_keeps_138_97_and_68_of_197() -> None:
    rule, counts = Rule(keep_rate=0.7), []
    alive = torch.ones(1, 197, dtype=torch.bool)
    for _ in range(3):
        alive = rule.keep(torch.rand(1, 197), alive)
        counts.append(int(alive.sum()))
    assert counts == [138, 97, 68]
    assert [rule.count(n) for n in (197, 138, 97)] == counts


def test_of_equal_scores_the_earlier_tokens_are_kept() -> None:
    score, alive = scores([0.0, 1.0, 0.3, 1.0, 1.0, 1.0])
    kept = Rule(keep_rate=0.5).keep(score, alive)
    assert kept.tolist() == [[True, True, True, False, False, False]]


def test_each_picture_keeps_its_share_of_the_tokens_that_it_has_left() -> None:
    score = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]] * 2)
    alive = torch.tensor([[True] * 6, [True, False, True, False, True, True]])
    kept = Rule(keep_rate=0.5).keep(score, alive)
    assert kept.tolist() == [
        [True, True, True, False, False, False],
        [True, False, True, False, False, False],
    ]


@given(
    rate=st.floats(0.01, 1),
    tokens=st.integers(1, 30),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([2, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_a_keep_rate_keeps_the_lowest_scores_in_the_stated_number(
    rate: float, tokens: int, seed: int, levels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(levels, (3, tokens), generator=generator) / levels
    alive = torch.rand(3, tokens, generator=generator) < 0.7
    alive[:, 0] = True
    kept = Rule(keep_rate=rate).keep(score, alive)
    assert kept[:, 0].all()
    assert not (kept & ~alive).any()
    for row in range(3):
        assert kept[row].sum() == max(math.floor(alive[row].sum().item() * rate + 0.5), 1)
        stays = kept[row].clone()
        stays[0] = False
        goes = alive[row] & ~kept[row]
        if stays.any() and goes.any():
            assert score[row][stays].max() <= score[row][goes].min()


def test_method_plain_prunes_nothing() -> None:
    score, alive = scores([1.0, 1.0, 1.0])
    rule = Rule(method="plain", keep_rate=0.1)
    assert rule.keep(score, alive).all()
    assert not rule.prunes
    assert not rule.needs_agents


def test_random_scores_depend_on_seed_and_layer_or_on_the_generator() -> None:
    rule = Rule(method="random", keep_rate=0.5)
    first = rule.random_score(2, 9, 1)
    assert torch.equal(first, rule.random_score(2, 9, 1))
    assert not torch.equal(first, rule.random_score(2, 9, 2))
    assert not torch.equal(first, Rule(method="random", keep_rate=0.5, seed=1).random_score(2, 9, 1))
    generator = torch.Generator().manual_seed(3)
    drawn = [rule.random_score(2, 9, 1, generator=generator) for _ in range(2)]
    assert not torch.equal(*drawn)


def test_a_rule_is_what_the_configuration_says() -> None:
    cfg = PruneConfig(method="cls-attention", keep_rate=0.6, threshold=0.4)
    assert Rule.of(cfg) == Rule(method="cls-attention", keep_rate=0.6, threshold=0.4)


def test_a_number_to_keep_needs_a_keep_rate() -> None:
    with pytest.raises(ValueError, match="without keep_rate"):
        Rule().count(5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "none"}, "prune method"),
        ({"threshold": 1.5}, "threshold"),
        ({"keep_rate": -0.1}, "keep_rate"),
        ({"method": "random"}, "prune method random and no keep_rate"),
    ],
)
def test_rules_that_make_no_sense_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Rule(**values)  # type: ignore[arg-type]


def test_the_likeliest_token_is_the_first_of_equal_ones_and_no_classification_token() -> None:
    assert likeliest(torch.tensor([[1.0, 0.2, 0.9, 0.9], [0.1, 0.0, 0.0, 0.0]])).tolist() == [2, 1]
