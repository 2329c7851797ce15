"""The bench's sides agree at a small size."""

from __future__ import annotations

from dataclasses import replace

from channel_prune.benches.choose import EXACT, ORIGINAL, Size, error, ours, problem, same, theirs


def test_the_originals_steps_find_what_its_plain_way_finds_and_ours_is_nearer() -> None:
    size = Size(pictures=96, batch=48, depth=8, width_divisor=4)
    model, batches = problem(size)
    expected = theirs(model, batches)
    assert same(ours(model, batches, replace(ORIGINAL, nb_smpls=size.pictures)), expected)
    exact = ours(model, batches, EXACT)
    assert error(model, batches, exact) <= error(model, batches, expected)
