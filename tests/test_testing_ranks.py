"""What two ranks must have found is told from what they must not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from testing.ranks import check_apart, check_as_one, check_cut, check_equal, flat, share

HISTORY = [torch.zeros(3), torch.ones(3)]


def found(*, random: float, pictures: tuple[int, ...] = (1, 2), **other: Any) -> dict[str, Any]:
    """What a rank left of a run of two steps."""
    values = {
        "history": HISTORY,
        "twice": HISTORY,
        "random": torch.tensor([random]),
        "pictures": torch.tensor(pictures),
    }
    return {f"run/{name}": value for name, value in (values | other).items()}


def test_ranks_have_equal_weights_and_random_numbers_of_their_own() -> None:
    check_equal([found(random=0.1), found(random=0.2)], "run", 2)
    for other in (
        found(random=0.1),
        found(random=0.2, history=HISTORY[:1]),
        found(random=0.2, history=[torch.zeros(3), torch.zeros(3)]),
    ):
        with pytest.raises(AssertionError):
            check_equal([found(random=0.1), other], "run", 2)


def test_pictures_of_one_rank_are_not_those_of_the_other() -> None:
    check_apart([found(random=0.1), found(random=0.2, pictures=(3,))], "run")
    with pytest.raises(AssertionError):
        check_apart([found(random=0.1), found(random=0.2, pictures=(3, 2))], "run")


def test_a_run_that_was_cut_has_the_steps_of_the_whole_one_on_every_rank() -> None:
    check_cut([found(random=0.1)], "run", 2)
    with pytest.raises(AssertionError):
        check_cut([found(random=0.1), found(random=0.2, twice=HISTORY[:1])], "run", 2)


def test_two_ranks_are_held_against_one_process() -> None:
    near = [value + 1e-9 for value in HISTORY]
    ranks = [{"steps": HISTORY}, {"steps": HISTORY}]
    check_as_one(ranks, "steps", near, rtol=0, atol=1e-8)
    for other, alone in ((near, HISTORY), (HISTORY, [torch.zeros(3), torch.zeros(3)])):
        with pytest.raises(AssertionError):
            check_as_one([{"steps": HISTORY}, {"steps": other}], "steps", alone, rtol=0, atol=1e-12)


def test_every_picture_is_in_one_share_and_all_weights_are_in_one_row() -> None:
    assert [share(list(range(7)), rank, 2) for rank in range(2)] == [[0, 1, 2], [3, 4, 5, 6]]
    assert flat(nn.BatchNorm1d(2)).tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 0]
