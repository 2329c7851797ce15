"""The arithmetic of soft masks against the plain formula under automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acosp.soft_masks import LEAST_STD, attach, soft_masks


def plain(w: Tensor, k: int, temperature: float) -> Tensor:
    z = (w - w.mean()) / torch.clamp(w.std(), min=LEAST_STD)
    x0 = torch.quantile(z, 1 - k / len(w)).detach()
    return torch.sigmoid((z - x0) / temperature)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(2, 70),
    share=st.floats(0.01, 0.99),
    temperature=st.sampled_from([1.0, 0.3, 0.01]),
    scale=st.sampled_from([1.0, 1e-5, 50.0]),
    seed=st.integers(0, 1000),
)
def test_mask_and_gradient_are_those_of_the_plain_formula(
    channels: int, share: float, temperature: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(channels, generator=generator, dtype=torch.float64) * scale).requires_grad_()
    v = torch.randn(channels, generator=generator, dtype=torch.float64)
    k = min(max(int(share * channels), 1), channels - 1)
    found = attach(w, soft_masks([w], k, temperature)[0])
    expected = plain(w, k, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad((found * v).sum(), w)
    (theirs,) = torch.autograd.grad((expected * v).sum(), w)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * max(theirs.abs().max().item(), 1))


def test_k_of_the_values_lie_above_one_half() -> None:
    w = torch.randn(64)
    for k in (1, 8, 32, 63):
        (soft,) = soft_masks([w], k, 0.1)
        assert (soft.mask > 0.5).sum() == k
        assert set(soft.mask.topk(k).indices.tolist()) == set(w.topk(k).indices.tolist())


@pytest.mark.parametrize("channels", [16, 33, 512, 2048])
def test_a_layer_gets_the_same_mask_alone_and_in_company(channels: int) -> None:
    rows = [torch.randn(channels) for _ in range(7)]
    together = soft_masks(rows, channels // 4, 0.05)
    for row, soft in zip(rows, together, strict=True):
        (alone,) = soft_masks([row], channels // 4, 0.05)
        torch.testing.assert_close(alone.mask, soft.mask, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone.split, soft.split)
        torch.testing.assert_close(alone.slope, soft.slope)


def test_short_logits_are_computed_in_single_precision() -> None:
    w = torch.randn(32, dtype=torch.bfloat16, requires_grad=True)
    (soft,) = soft_masks([w], 8, 0.5)
    mask = attach(w, soft)
    assert soft.mask.dtype == torch.float32
    assert mask.dtype == torch.bfloat16
    mask.float().square().sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.bfloat16


def test_no_graph_is_made_where_nothing_is_learned() -> None:
    w = torch.randn(16)
    (soft,) = soft_masks([w.requires_grad_()], 8, 1.0)
    with torch.no_grad():
        assert not attach(w, soft).requires_grad
    assert not attach(torch.randn(16), soft).requires_grad


def test_a_second_derivative_is_refused() -> None:
    w = torch.randn(16, requires_grad=True)
    mask = attach(w, soft_masks([w], 8, 1.0)[0])
    (first,) = torch.autograd.grad(mask.square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
