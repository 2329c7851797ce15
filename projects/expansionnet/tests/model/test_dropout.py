"""Dropout: rates, scale, and what is kept of it."""

from __future__ import annotations

import pytest
import torch

from expansionnet.model.dropout import Dropout


def test_it_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = Dropout(0.3)(torch.ones(100_000))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_what_it_keeps_is_what_it_multiplies_by() -> None:
    drop, x = Dropout(0.5), torch.randn(50)
    torch.manual_seed(1)
    expected = drop(x)
    torch.manual_seed(1)
    assert torch.equal(drop.keep(x.shape, x.device).times_(x.clone()), expected)


@pytest.mark.parametrize("drop", [Dropout(0.0), Dropout(0.5).eval()])
def test_it_draws_nothing_where_it_does_nothing(drop: Dropout) -> None:
    x, state = torch.randn(5), torch.get_rng_state()
    assert drop(x) is x
    assert drop.keep(x.shape, x.device).mask is None
    assert torch.equal(torch.get_rng_state(), state)


def test_rate_one_drops_all() -> None:
    assert not Dropout(1.0)(torch.randn(9)).any()


def test_gradients_go_through_what_is_kept() -> None:
    x = torch.randn(20, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (out != 0) * 2.0)
