"""Sums of products say of rows what the rows themselves say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from channel_prune.choosing.gram import Gram, kernel_rows, kernel_weight


def rows_and_gram(*, double: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Gram]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 9, 4, generator=generator) + 1
    y = torch.randn(60, 5, generator=generator) + 2
    gram = Gram(9, 4, 5, double=double)
    for begin in (0, 25):
        gram.add(x[begin : begin + 25 if begin == 0 else 60], y[begin : begin + 25 if begin == 0 else 60])
    w = torch.randn(36, 5, generator=generator).double()
    return x.flatten(1).double(), y.double(), w, gram


def test_loss_is_that_of_the_rows() -> None:
    x, y, w, gram = rows_and_gram()
    assert gram.rows == 60
    assert gram.loss(w) == pytest.approx(float((x @ w - y).square().sum() / 120), rel=1e-12)


def test_loss_with_a_free_constant_is_that_of_centred_rows() -> None:
    x, y, w, gram = rows_and_gram()
    rest = (x - x.mean(0)) @ w - (y - y.mean(0))
    assert gram.centred().loss(w) == pytest.approx(float(rest.square().sum() / 120), rel=1e-10)
    torch.testing.assert_close(gram.means, (x.mean(0), y.mean(0)))


def test_the_selections_problem_is_made_of_what_each_channel_puts_out() -> None:
    x, y, w, gram = rows_and_gram()
    parts = x.view(60, 9, 4)
    z = torch.stack([(parts[:, :, i] @ w.view(9, 4, 5)[:, i]).flatten() for i in range(4)])
    quadratic, linear = gram.problem(w)
    torch.testing.assert_close(torch.from_numpy(quadratic), z @ z.T)
    torch.testing.assert_close(torch.from_numpy(linear), z @ y.flatten())


def test_products_in_single_precision_are_close() -> None:
    *_, exact = rows_and_gram()
    *_, quick = rows_and_gram(double=False)
    torch.testing.assert_close(quick.g, exact.g, rtol=1e-5, atol=1e-5)
    assert not torch.equal(quick.g, exact.g)


def test_a_kernel_as_rows_and_back_is_itself() -> None:
    conv = nn.Conv2d(3, 5, (2, 4))
    rows = kernel_rows(conv.weight)
    assert rows.shape == (24, 5)
    assert torch.equal(kernel_weight(rows, conv.weight), conv.weight)
    assert Gram(8, 3, 5).columns([0, 2]).tolist() == [i for i in range(24) if i % 3 != 1]
