"""The norm with and without gradients, and attention in its two forms."""

from __future__ import annotations

import pytest
import torch

from smp_caption.model.attention import attend, bias_of
from smp_caption.model.layers import LayerNorm


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 1.0, 1e4])
def test_norm_in_one_pass_is_the_norm_whatever_the_spread(spread: float) -> None:
    norm = LayerNorm(6).double()
    with torch.no_grad():
        norm.a_2.uniform_(0.5, 2)
        norm.b_2.uniform_(-1, 1)
    x = 3 + spread * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = norm(x).detach()
    with torch.no_grad():
        found = norm(x)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("hidden", [False, True])
def test_attention_without_gradients_is_the_same(hidden: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, generator=generator) for n in (5, 6, 6))
    allowed = torch.rand(2, 1, 1, 6, generator=generator) > 0.5
    allowed[1] = False  # nothing may be seen: all count alike
    bias = bias_of(allowed, query) if hidden else None
    expected = attend(query, key, value, bias)
    with torch.no_grad():
        found = attend(query, key, value, bias)
    torch.testing.assert_close(found, expected)
    if hidden:
        torch.testing.assert_close(found[1], value[1].mean(dim=1, keepdim=True).expand_as(found[1]))
