"""Both reconstructions from sums: the same as from rows, exact where they say so."""

from __future__ import annotations

import pytest
import torch

from channel_prune.benches.choose_reference import PlainSettings, _reconstruct
from channel_prune.choosing.gram import Gram, kernel_rows
from channel_prune.choosing.regression import adam, ridge

KEPT = [0, 2, 3]


def sampled(rows: int = 80) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Gram]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(rows, 9, 5, generator=generator), torch.randn(rows, 6, generator=generator)
    weight = torch.randn(6, 5, 3, 3, generator=generator) / 5
    gram = Gram(9, 5, 6)
    gram.add(x, y)
    return x, y, weight, gram


def test_steps_over_sums_are_steps_over_rows() -> None:
    x, y, weight, gram = sampled()
    patches = [x[:, :, i].numpy() for i in range(5)]
    settings = PlainSettings(adam_steps=60, decay=1e-3)
    expected, before, after = _reconstruct(weight, patches, y.numpy(), KEPT, settings)
    found = adam(gram, kernel_rows(weight), KEPT, rate=1e-3, steps=60, decay=1e-3)
    torch.testing.assert_close(found, kernel_rows(expected), rtol=0, atol=2e-6)
    assert gram.loss(found) == pytest.approx(after, rel=1e-5)
    assert after < before


def test_the_ridge_solution_has_no_slope_left() -> None:
    *_, gram = sampled()
    found = ridge(gram, KEPT, decay=1e-2)
    slope = gram.g @ found / gram.rows - gram.h / gram.rows + 1e-2 * found
    assert float(slope[gram.columns(KEPT)].abs().max()) < 1e-12
    gone = gram.columns([1, 4])
    assert torch.count_nonzero(found[gone]) == 0


def test_fewer_rows_than_weights_have_a_solution_without_a_penalty_too() -> None:
    *_, gram = sampled(rows=7)
    found = ridge(gram, KEPT, decay=0.0)
    assert bool(torch.isfinite(found).all())
    assert gram.loss(found) < 1e-6


def test_sums_that_rounding_made_indefinite_have_a_solution() -> None:
    *_, gram = sampled(rows=7)
    gram.g.diagonal().sub_(1e-4 * gram.g.diagonal().mean())
    assert bool(torch.isfinite(ridge(gram, KEPT, decay=0.0)).all())
