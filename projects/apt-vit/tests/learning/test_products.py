"""Linear maps by oneDNN and faster dropout, beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apt_vit.learning import products
from apt_vit.learning.products import Faster, drop, linear
from prunelab import onednn

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN is not faster on this processor")


def gradients(x: Tensor, layer: nn.Linear, fast: bool) -> list[Tensor]:
    """What a product gives, and its gradients; the gradient that comes in has no memory of its own."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    if fast:
        with Faster(dropout=False):
            y = layer(x)
    else:
        y = layer(x)
    y.sum(-1).square().sum().backward()
    found = [y.detach(), x.grad, layer.weight.grad, *([] if layer.bias is None else [layer.bias.grad])]
    return [each.clone() for each in found if each is not None]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(33, 64), (3, 11, 64)])
def test_a_product_and_its_gradients_are_torch_s(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96, bias=bias), torch.randn(shape)
    plain = gradients(x, layer, fast=False)
    fast = gradients(x, layer, fast=True)
    for found, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_what_has_no_gradient_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST", 0)
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    layer.weight.requires_grad_(False)
    linear(x, layer.weight, layer.bias).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 5.0))
    with torch.no_grad():
        torch.testing.assert_close(linear(x, layer.weight, layer.bias), layer(x))


def test_double_precision_and_empty_batches_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST", 0)
    layer = nn.Linear(4, 3).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(linear(x, layer.weight, layer.bias), layer(x))
    assert linear(torch.randn(0, 4), layer.weight.float(), layer.bias.float()).shape == (0, 3)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1001, requires_grad=True)
    with Faster(dropout=True):
        y = F.dropout(x, 0.1, True)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.003)
    assert y.max().item() == pytest.approx(1 / 0.9, rel=1e-4)
    assert y.mean().item() == pytest.approx(1.0, abs=0.003)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = drop(torch.ones(200_000, 8), 0.5) > 0
    together = (kept.double().t() @ kept.double()) / len(kept)
    expected = torch.full((8, 8), 0.25, dtype=torch.float64).fill_diagonal_(0.5)
    torch.testing.assert_close(together, expected, atol=0.006, rtol=0)


def test_dropout_of_nothing_and_of_all_is_torch_s() -> None:
    x = torch.randn(4, 5)
    assert drop(x, 0.0) is x or torch.equal(drop(x, 0.0), x)
    assert torch.equal(drop(x, 0.3, False), x)
    assert torch.equal(drop(x, 1.0), torch.zeros(4, 5))


def test_draws_are_torch_s_own_where_they_are_to_be() -> None:
    x = torch.randn(50, 60)
    torch.manual_seed(2)
    expected = F.dropout(x, 0.2)
    torch.manual_seed(2)
    with Faster(dropout=False):
        assert torch.equal(F.dropout(x, 0.2), expected)
