"""Single actions: the original's draws and ours, and their state."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from apt_vit.config import Config, PruneConfig, QuirkConfig, RunOptions
from apt_vit.learning.actions import LIKELIEST, Draws, anywhere, choose, within_batch
from prunelab.errors import UserError

FAITHFUL = Config(quirks=QuirkConfig.of("faithful"))
FIXED = Config()


def test_the_likeliest_token_is_the_first_of_equals_and_never_the_classification_token() -> None:
    probability = torch.tensor([[1.0, 0.2, 0.9, 0.9], [0.5, 0.3, 0.3, 0.3], [1.0, 1.0, 1.0, 1.0]])
    cfg = replace(FIXED, prune=PruneConfig(greedy_share=1.0))
    assert choose(probability, cfg, Draws(cfg).begin()).tolist() == [2, 1, 1]


def test_the_original_draws_a_number_and_then_a_place_for_each_picture() -> None:
    rng, again = random.Random(6), random.Random(6)
    drawn = within_batch(12, 19, 0.5, rng).tolist()
    expected = [LIKELIEST if again.random() > 0.5 else again.randint(1, 11) for _ in range(12)]
    assert drawn == expected
    assert 0 < drawn.count(LIKELIEST) < 12


def test_one_picture_has_no_token_to_try_within_the_batch() -> None:
    with pytest.raises(UserError, match=r"micro-batch of 1 picture .*expected at least 2"):
        within_batch(1, 9, 0.0, random.Random(0))
    assert within_batch(1, 9, 1.0, random.Random(0)).tolist() == [LIKELIEST]


def test_a_batch_larger_than_the_sequence_is_refused_where_a_draw_falls_outside() -> None:
    with pytest.raises(UserError, match=r"micro-batch of 50 pictures drew token \d+ of sequences of 5 "):
        within_batch(50, 5, 0.0, random.Random(0))
    assert within_batch(50, 50, 0.5, random.Random(0)).max() < 50


def test_random_actions_reach_all_patch_tokens_and_no_other() -> None:
    drawn = anywhere(600, 7, 0.5, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {LIKELIEST, 1, 2, 3, 4, 5, 6}
    assert 240 < (drawn == LIKELIEST).sum() < 360
    assert set(anywhere(600, 7, 0.0, torch.Generator().manual_seed(0)).tolist()) == {1, 2, 3, 4, 5, 6}
    assert set(anywhere(60, 7, 1.0, torch.Generator().manual_seed(0)).tolist()) == {LIKELIEST}


@pytest.mark.parametrize(
    "quirks",
    [
        QuirkConfig(),
        QuirkConfig.of("faithful"),
        QuirkConfig(explore_within_batch=True),
        QuirkConfig(same_exploration=True),
    ],
    ids=["fixed", "faithful", "within", "same"],
)
def test_draws_go_on_from_their_state(quirks: QuirkConfig) -> None:
    cfg = Config(quirks=quirks)
    probability = torch.rand(20, 30, generator=torch.Generator().manual_seed(3))
    first = Draws(cfg)
    for _ in range(3):
        choose(probability, cfg, first.begin())
    second = Draws(cfg)
    second.load_state_dict(first.state_dict())
    one, other = first.begin(), second.begin()
    for _ in range(2):  # two layers of a micro-batch
        assert torch.equal(choose(probability, cfg, one), choose(probability, cfg, other))
    assert torch.equal(
        torch.rand(3, generator=first.generator()), torch.rand(3, generator=second.generator())
    )
    assert second.count == 4


def test_the_state_of_other_quirks_is_refused() -> None:
    with pytest.raises(ValueError, match="explore_within_batch or same_exploration"):
        Draws(FIXED).load_state_dict(Draws(FAITHFUL).state_dict())


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_processes_draw_alike_only_if_they_are_told_to(within: bool, same: bool) -> None:
    cfg = Config(quirks=QuirkConfig(explore_within_batch=within, same_exploration=same))
    probability = torch.rand(20, 30, generator=torch.Generator().manual_seed(3))
    drawn = [choose(probability, cfg, Draws(cfg, rank).begin()) for rank in (0, 1)]
    assert torch.equal(*drawn) == same


def test_micro_batches_and_seeds_differ() -> None:
    draws = Draws(FIXED)
    rows = [anywhere(20, 30, 0.0, draws.begin()) for _ in range(2)]  # type: ignore[arg-type]
    other = Draws(replace(FIXED, run=RunOptions(seed=1)))
    rows.append(anywhere(20, 30, 0.0, other.begin()))  # type: ignore[arg-type]
    assert len({tuple(row.tolist()) for row in rows}) == 3


def test_the_original_s_row_begins_at_the_seed() -> None:
    cfg = replace(FAITHFUL, run=RunOptions(seed=8))
    source = Draws(cfg).begin()
    assert isinstance(source, random.Random)
    assert source.random() == random.Random(8).random()
