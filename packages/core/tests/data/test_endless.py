"""Batches without end: epoch after epoch, resumed anywhere."""

from __future__ import annotations

from itertools import islice

import pytest

from prunelab.data.endless import Endless
from prunelab.data.loader import make_loader
from prunelab.errors import UserError


def stream(size: int = 10, batch_size: int = 4, workers: int = 0) -> Endless:
    return Endless(
        make_loader(
            range(size),  # pyright: ignore[reportArgumentType]
            batch_size=batch_size,
            collate=list,
            seed=3,
            shuffle=True,
            drop_last=True,
            workers=workers,
        )
    )


def drawn(batches: Endless, count: int) -> list[list[int]]:
    found = []
    for batch in islice(batches, count):
        batches.advance()
        found.append(batch)
    return found


def test_epochs_follow_each_other_in_new_orders() -> None:
    batches = drawn(stream(), 6)  # two batches an epoch
    assert [len(batch) for batch in batches] == [4] * 6
    for epoch in range(3):
        seen = batches[2 * epoch] + batches[2 * epoch + 1]
        assert len(set(seen)) == 8
    assert batches[0] != batches[2] != batches[4]


@pytest.mark.parametrize("after", range(6))
def test_a_stream_goes_on_where_its_state_was_taken(after: int) -> None:
    whole, first, second = stream(), stream(), stream()
    expected = drawn(whole, 6)
    drawn(first, after)
    second.load_state_dict(first.state_dict())
    second.set_epoch(0)  # a run says so at its beginning; the stream knows better
    assert drawn(second, 6 - after) == expected[after:]


def test_a_batch_that_is_never_full_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size is 4 in each of 1 processes, but the training set has 3"):
        stream(size=3)
