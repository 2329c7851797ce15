"""The original's order of samples, on any number of processes and resumed anywhere."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expansionnet.learning.order import OriginalOrder, init_seeds
from prunelab.errors import UserError


def order(size: int = 23, batch: int = 4, **place: int) -> OriginalOrder:
    return OriginalOrder(size, batch, seeds=init_seeds(7, 2), **place)


def epoch_of(sampler: OriginalOrder) -> list[list[int]]:
    return [[key.sample for key in batch] for batch in sampler]


def joined(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_all_ranks_together_read_the_shuffled_list_without_its_tail(
    size: int, batch: int, world: int
) -> None:
    ranks = [order(size, batch, rank=rank, world_size=world) for rank in range(world)]
    batches = [epoch_of(rank) for rank in ranks]
    assert {len(found) for found in batches} == {len(ranks[0])}
    shuffled = list(range(size))
    generator = random.Random(init_seeds(7, 2)[0])
    generator.shuffle(shuffled)
    used = shuffled[: size - size % (batch * world)]
    for rank, found in enumerate(batches):
        assert joined(found) == used[rank::world]
    for step in range(len(ranks[0])):  # what the ranks read at the same time are neighbours
        read = joined([found[step] for found in batches])
        assert sorted(read) == sorted(used[step * len(read) : (step + 1) * len(read)])
    assert ranks[0].generator().random() == generator.random()


def test_an_epoch_has_its_own_order_and_goes_on_where_it_was_left() -> None:
    whole = order()
    first = epoch_of(whole)
    whole.set_epoch(1)
    second = epoch_of(whole)
    assert first != second
    half = order()
    half.set_epoch(1)
    half.advance()
    half.advance()
    assert epoch_of(half) == second[2:]
    other = OriginalOrder(23, 4, seeds=[0.5])
    other.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert epoch_of(other) == second[2:]
    other.set_epoch(1)
    assert other.position == 2
    other.set_epoch(0)
    assert epoch_of(other) == first


def test_it_goes_on_from_the_state_of_an_original_checkpoint() -> None:
    sampler = order()
    sampler.begin_at(1, 3, [0.25, 0.75])
    assert (sampler.epoch, sampler.position, sampler.seeds) == (1, 3, (0.25, 0.75))
    assert epoch_of(sampler) == epoch_of(OriginalOrder(23, 4, seeds=[0.75]))[3:]
    sampler.begin_at(0, 0)
    assert sampler.seeds == (0.25, 0.75)


def test_seeds_last_for_twenty_times_the_epochs_and_then_it_says_so() -> None:
    sampler = order()
    sampler.set_epoch(39)
    assert len(epoch_of(sampler)) == 5
    sampler.set_epoch(40)
    with pytest.raises(UserError, match=r"epoch 41 has no seed: the original's order has those of 40"):
        epoch_of(sampler)


def test_resuming_with_another_data_set_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"cannot resume: data order's size was 23 and is now 24"):
        order(24).load_state_dict(order().state_dict())
    with pytest.raises(UserError, match=r"data order's global_batch was 4 and is now 12"):
        order(batch=3, world_size=4).load_state_dict(order().state_dict())
