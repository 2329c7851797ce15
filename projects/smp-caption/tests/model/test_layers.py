"""The norm with and without gradients, and attention in its two forms."""

from __future__ import annotations

import pytest
import torch

from smp_caption.config import ModelConfig
from smp_caption.model.attention import BoxAttention, attend, bias_of, geometric_biases
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


def test_one_product_of_all_heads_gives_what_each_head_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    cfg = ModelConfig(d_model=8, num_heads=2)
    attentions = [BoxAttention(cfg, None, 0.0, None) for _ in range(3)]
    relations = torch.randn(2, 4, 4, 64)
    alone = geometric_biases(relations, attentions)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    joined = geometric_biases(relations, attentions)
    for attention, one, other in zip(attentions, alone, joined, strict=True):
        torch.testing.assert_close(other.exp(), one.exp())
        heads = torch.cat([linear(relations) for linear in attention.WGs], dim=-1)
        torch.testing.assert_close(one.exp(), heads.clamp(min=1e-6).permute(0, 3, 1, 2))
