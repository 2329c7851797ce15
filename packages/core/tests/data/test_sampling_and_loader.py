import gc
import multiprocessing
import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.data.loader import load_in, make_loader
from prunelab.data.sampling import EpochSampler, SampleKey
from prunelab.errors import UserError


def noise() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


class NoisySet:
    """Every sample draws from all three generators."""

    def __init__(self, size: int = 23) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 99:
            raise UserError("pictures/99.jpg is not a picture; expected a JPEG")
        return torch.tensor([index, *noise()], dtype=torch.float64)


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([torch.stack(samples).flatten(), torch.tensor(noise(), dtype=torch.float64)])


def loader(workers: int = 0, **changes):
    options = {"batch_size": 4, "collate": collate, "seed": 5, "shuffle": True, "drop_last": False}
    return make_loader(NoisySet(), workers=workers, **(options | changes))


def consume(loader, epochs: int) -> list[torch.Tensor]:
    batches = []
    for epoch in range(loader.sampler.epoch, epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loader.sampler.advance()
            batches.append(batch)
    return batches


def test_two_workers_give_the_bits_of_none_and_leave_the_surroundings_alone():
    seed_all()
    before = noise()
    seed_all()
    none, two = consume(loader(), 3), consume(loader(workers=2), 3)
    assert noise() == before
    assert len(none) == len(two) == 18
    assert all(torch.equal(a, b) for a, b in zip(none, two, strict=True))
    assert len({tuple(batch.tolist()) for batch in none}) == 18


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_in_between_changes_nothing(workers: int):
    plain = consume(loader(), 2)
    training, evaluation = loader(workers=workers), loader(workers=workers, shuffle=False, seed=6)
    mixed, seen = [], []
    for epoch in range(2):
        training.sampler.set_epoch(epoch)
        for batch in training:
            training.sampler.advance()
            seen.append(torch.cat(list(evaluation)))
            mixed.append(batch)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    assert all(torch.equal(a, seen[0]) for a in seen)


def test_killed_anywhere_and_resumed_gives_the_rest_of_the_run():
    whole = consume(loader(), 2)
    for stop in range(13):
        first = loader(workers=2 if stop == 8 else 0)
        done = []
        for epoch in range(2):
            first.sampler.set_epoch(epoch)
            for batch in islice(first, max(0, stop - len(done))):
                first.sampler.advance()
                done.append(batch)
            if len(done) == stop:
                break
        second = loader()
        second.sampler.load_state_dict(first.sampler.state_dict())
        done += consume(second, 2)
        assert len(done) == len(whole)
        assert all(torch.equal(a, b) for a, b in zip(whole, done, strict=True))


def test_resuming_with_another_order_is_one_clear_line():
    state = EpochSampler(10, 2, seed=1, shuffle=True, drop_last=False).state_dict()
    with pytest.raises(UserError, match="data order's global_batch was 2 and is now 5"):
        EpochSampler(10, 5, seed=1, shuffle=True, drop_last=False).load_state_dict(state)
    with pytest.raises(UserError, match="size was 10 and is now 11"):
        EpochSampler(11, 2, seed=1, shuffle=True, drop_last=False).load_state_dict(state)
    EpochSampler(10, 1, seed=1, shuffle=True, drop_last=False, rank=1, world_size=2).load_state_dict(state)


@given(size=st.integers(0, 40), batch=st.integers(1, 7), world=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_evaluation_counts_every_sample_once_in_the_batches_of_one_process(size: int, batch: int, world: int):
    def batches(rank: int, world: int) -> list[list[SampleKey]]:
        sampler = EpochSampler(
            size, batch, seed=0, shuffle=False, drop_last=False, rank=rank, world_size=world
        )
        found = list(sampler)
        assert len(found) == len(sampler)
        return found

    shared = [cut for rank in range(world) for cut in batches(rank, world)]
    assert sorted(key.sample for cut in shared for key in cut) == list(range(size))
    assert sorted(shared) == batches(0, 1)


@given(size=st.integers(0, 40), batch=st.integers(1, 7), world=st.integers(1, 4), drop=st.booleans())
@settings(max_examples=60, deadline=None)
def test_training_ranks_get_equally_many_batches_cut_from_the_batches_of_one_process(
    size: int, batch: int, world: int, drop: bool
):
    ranks = [
        EpochSampler(size, batch, seed=3, shuffle=True, drop_last=drop, rank=r, world_size=world)
        for r in range(world)
    ]
    single = list(EpochSampler(size, batch * world, seed=3, shuffle=True, drop_last=drop))
    cuts = [list(sampler) for sampler in ranks]
    assert len({len(c) for c in cuts}) == 1
    assert all(len(c) == len(s) for c, s in zip(cuts, ranks, strict=True))
    joined = [[key for part in parts for key in part] for parts in zip(*cuts, strict=True)]
    assert joined == single[: len(joined)]
    assert all(part for parts in cuts for part in parts)
    dropped = size - sum(map(len, joined))
    assert dropped < (batch * world if drop else world)


def test_each_epoch_has_its_own_order_and_repeats_are_told_apart_by_their_draw():
    sampler = EpochSampler(6, 4, seed=0, shuffle=True, drop_last=False, repeats=3)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        keys = [key for batch in sampler for key in batch]
        assert sorted(keys) == [SampleKey(epoch, i, d) for i in range(6) for d in range(3)]
        orders.append([key.sample for key in keys])
    assert orders[0] != orders[1]


def test_the_order_of_an_epoch_is_the_same_on_every_machine():
    sampler = EpochSampler(8, 8, seed=0, shuffle=True, drop_last=True)
    assert [key.sample for key in next(iter(sampler))] == [4, 6, 3, 5, 0, 7, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_in_a_worker_arrives_as_the_same_single_line(workers: int):
    bad = make_loader(
        NoisySet(100), batch_size=50, collate=collate, seed=0, shuffle=False, drop_last=False, workers=workers
    )
    batches = iter(bad)
    next(batches)
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == "pictures/99.jpg is not a picture; expected a JPEG"


def test_workers_end_when_told_where_the_garbage_collector_finds_their_loader(
    monkeypatch: pytest.MonkeyPatch,
):
    others = set(multiprocessing.active_children())

    def drop() -> None:
        held: list[object] = [loader(workers=2)]
        held += [held, next(batches := iter(held[0])), batches]  # a circle, as an exception's traceback makes

    gc.disable()
    drop()
    workers = set(multiprocessing.active_children()) - others
    forced: list[object] = []
    for worker in workers:
        monkeypatch.setattr(worker, "terminate", lambda: forced.append(1))
    gc.enable()
    gc.collect()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not forced


def test_more_workers_than_cores_and_pinned_memory_without_an_accelerator_do_not_warn():
    many = loader(workers=5, pin_memory=not torch.cuda.is_available())
    assert len(list(many)) == len(many) == 6


def test_wrong_sizes_are_refused():
    with pytest.raises(UserError, match="batch size is 0"):
        EpochSampler(3, 0, seed=0, shuffle=False, drop_last=False)
    with pytest.raises(ValueError, match="rank is 2"):
        EpochSampler(3, 1, seed=0, shuffle=False, drop_last=False, rank=2, world_size=2)


class Backwards(EpochSampler):
    """An order that is not the usual one."""

    def order(self) -> list[SampleKey]:
        return super().order()[::-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_of_ones_own_decides_what_comes(workers: int):
    sampler = Backwards(23, 4, seed=5, shuffle=False, drop_last=True)
    own = load_in(sampler, NoisySet(), collate=collate, seed=5, workers=workers)
    assert (own.sampler, len(own)) == (sampler, 5)
    batches = consume(own, 1)
    assert [int(batch[0]) for batch in batches] == [22, 18, 14, 10, 6]
    usual = {int(b[0]): b[1:4] for b in consume(loader(batch_size=1, shuffle=False, drop_last=True), 1)}
    assert all(torch.equal(b[1:4], usual[int(b[0])]) for b in batches)
