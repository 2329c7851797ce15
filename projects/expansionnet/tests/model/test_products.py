"""Products by oneDNN are torch's own, whole or block by block, and so are linear maps in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from expansionnet.model.fused import products
from expansionnet.model.linear import Linear
from prunelab import onednn


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least matrices go to oneDNN, in blocks of three rows."""
    monkeypatch.setattr(onednn, "LEAST", 1)
    monkeypatch.setattr(products, "_BLOCK", 1)
    monkeypatch.setattr(products, "_LEAST_ROWS", 3)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_products_are_torchs(rows: int) -> None:
    torch.manual_seed(0)
    x, w, bias, other = torch.randn(rows, 5), torch.randn(4, 5), torch.randn(4), torch.randn(rows, 7)
    assert_close(products.times(x, w, bias), F.linear(x, w, bias))
    assert_close(products.times(x, w.t().contiguous().t()), F.linear(x, w))
    assert_close(products.outer(x, other), x.t() @ other)
    for samples in (1, 3):
        a, b = torch.randn(samples, rows, 5), torch.randn(samples, 4, 5)
        assert_close(products.batched(a, b), a @ b.transpose(1, 2))
        turned = b.transpose(1, 2).contiguous().transpose(1, 2)
        assert_close(products.batched(a, turned), a @ b.transpose(1, 2))


def test_a_linear_map_in_training_has_torchs_gradients() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(5, 4), torch.nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5)
    gradients = []
    for block in (ours, theirs):
        own = x.clone().requires_grad_()
        out = block(own)
        out.square().sum().backward()
        gradients.append([out.detach(), own.grad, *(p.grad for p in block.parameters())])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        assert expected is not None
        assert_close(found, expected)


def test_an_input_without_gradient_gets_none() -> None:
    block, x = Linear(5, 4), torch.randn(2, 5)
    block(x).sum().backward()
    assert x.grad is None
    assert block.weight.grad is not None
