"""Attention by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.model.attention import Attention


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(12, 3, 0.0).eval()


def by_hand(attention: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """Head by head."""
    heads = []
    for h in range(3):
        rows = slice(4 * h, 4 * h + 4)
        query, key, value = (
            x @ layer.weight[rows].T + layer.bias[rows]
            for layer in (attention.query, attention.key, attention.value)
        )
        heads.append((query @ key.transpose(1, 2) / math.sqrt(4) + mask).softmax(-1) @ value)
    return torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias


@torch.no_grad()
def test_attention_is_what_its_definition_says(attention: Attention) -> None:
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(attention(x), by_hand(attention, x, torch.zeros(2, 1, 5)))


@torch.no_grad()
@pytest.mark.parametrize("penalty", [-10000.0, -torch.inf])
def test_masked_keys_are_not_seen(attention: Attention, penalty: float) -> None:
    x, seen = torch.randn(2, 5, 12), torch.tensor([[True, False, True, True, False], [True] * 5])
    numbers = torch.zeros(2, 5).masked_fill(~seen, penalty)
    expected = by_hand(attention, x, numbers[:, None])
    torch.testing.assert_close(attention(x, numbers[:, None, None]), expected)
    torch.testing.assert_close(attention(x, seen[:, None, None]), expected)
    only = attention(x[:1, seen[0]])
    torch.testing.assert_close(attention(x, seen[:, None, None])[0, seen[0]], only[0])


@torch.no_grad()
def test_probabilities_are_shares_of_the_keys_that_are_seen(attention: Attention) -> None:
    x, seen = torch.randn(2, 5, 12), torch.tensor([True, False, True, True, False])
    shares = attention.probabilities(x, seen[None, None, None])
    assert shares.shape == (2, 3, 5, 5)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, 5))
    assert shares[..., ~seen].sum() == 0
    first = attention.probabilities(x, seen[None, None, None], queries=1)
    torch.testing.assert_close(first, shares[:, :, :1])


@torch.no_grad()
def test_dropout_takes_probabilities_and_then_what_comes_out() -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3, 0.5).train(), torch.randn(2, 5, 12)
    torch.manual_seed(1)
    found = attention(x)
    torch.manual_seed(1)
    shares = F.dropout(attention.probabilities(x), 0.5)
    context = (shares @ attention.split(attention.value(x))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, F.dropout(attention.out(context), 0.5))


@torch.no_grad()
def test_a_mask_of_other_precision_is_taken(attention: Attention) -> None:
    x = torch.randn(1, 5, 12, dtype=torch.bfloat16)
    found = attention.to(torch.bfloat16)(x, torch.zeros(1, 1, 1, 5))
    assert found.dtype is torch.bfloat16
