"""Products that draw their masks anew, against one masked weight and one product at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.mask import MaskedLinear, MaskSpec, Redrawn, draw_once, freeze, fused, masked_weight, redraw

WIDTHS, OUTPUTS = (64, 33, 80), 150


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraw, "_TILE", 40 * sum(WIDTHS))


def layer_with(**options: bool) -> MaskedLinear:
    torch.manual_seed(1)
    layer = MaskedLinear(sum(WIDTHS), OUTPUTS, mask=MaskSpec(**options))
    with torch.no_grad():
        layer.mask_of("weight").normal_()
    return layer


def inputs_of(calls: int, rows: tuple[int, ...] = (12, 4, 12)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(calls, n, width, generator=generator, requires_grad=True)
        for n, width in zip(rows, WIDTHS, strict=True)
    ]


def masks_drawn(layer: MaskedLinear, calls: int) -> list[Tensor]:
    """The masks of the next calls, without drawing them."""
    state = torch.get_rng_state()
    limit = fused.limits(layer.mask_of("weight"))
    found = []
    for _ in range(calls):
        out = torch.empty_like(layer.weight)
        fused.draw_product(torch.ones_like(out), limit, fused.new_key(), 0, out)
        found.append(out.bool())
    torch.set_rng_state(state)
    return found


def plain_products(layer: MaskedLinear, keeps: list[Tensor], inputs: list[Tensor]) -> Tensor:
    rows = max(x.shape[1] for x in inputs)
    joined = torch.cat([x.repeat_interleave(rows // x.shape[1], dim=1) for x in inputs], dim=2)
    bypass = layer.mask_spec.bypass_sigmoid_grad
    logits = layer.mask_of("weight")
    products = [masked_weight(layer.weight, logits, keep, bypass_sigmoid_grad=bypass) for keep in keeps]
    return torch.stack([F.linear(x, weight) for x, weight in zip(joined, products, strict=True)])


def taken(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of weight, logits and inputs, which have none afterwards."""
    holders = [*(p for name, p in layer.named_parameters() if name != "bias"), *inputs]
    found = [x.grad for x in holders if x.grad is not None]
    assert len(found) == len(holders)
    for x in holders:
        x.grad = None
    return found


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_products_and_gradients_are_those_of_masked_weights(bypass: bool, one_by_one: bool) -> None:
    layer, calls = layer_with(bypass_sigmoid_grad=bypass), 3
    weight, keeps = Redrawn(layer), masks_drawn(layer, calls)
    assert not torch.equal(keeps[0], keeps[1])
    upstream = torch.randn(calls, 12, OUTPUTS, generator=torch.Generator().manual_seed(3))
    inputs = inputs_of(calls)
    if one_by_one:
        found = torch.stack([weight.product(*(x[call] for x in inputs)) for call in range(calls)])
    else:
        found = weight.products(*inputs)
    found.backward(upstream)
    ours = taken(layer, inputs)
    expected = plain_products(layer, keeps, inputs)
    expected.backward(upstream)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for mine, theirs in zip(ours, taken(layer, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_a_pass_that_leaves_the_weight_out_leaves_nothing_behind() -> None:
    layer = layer_with()
    weight, keeps = Redrawn(layer), masks_drawn(layer, 2)
    inputs = inputs_of(2)
    found = weight.products(*inputs).sum()
    torch.autograd.grad(found, inputs, retain_graph=True)
    found.backward(retain_graph=True)
    found.backward()
    ours = taken(layer, [])
    (2 * plain_products(layer, keeps, inputs).sum()).backward()
    for mine, theirs in zip(ours, taken(layer, []), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)


def test_masks_follow_the_seed_and_are_new_for_every_product() -> None:
    layer, inputs = layer_with(), [x.detach() for x in inputs_of(2)]
    one = [x[:1].expand_as(x) for x in inputs]
    torch.manual_seed(5)
    first = Redrawn(layer).products(*one)
    assert not torch.allclose(first[0], first[1])
    torch.manual_seed(5)
    assert torch.equal(first, Redrawn(layer).products(*one))


def test_where_no_mask_is_drawn_products_share_one_weight() -> None:
    layer, x = layer_with(), torch.cat([x.detach() for x in inputs_of(1, (6, 6, 6))], dim=2)[0]
    plain = nn.Linear(sum(WIDTHS), OUTPUTS)
    torch.testing.assert_close(Redrawn(plain).product(x) + plain.bias, plain(x))
    with draw_once(layer):
        torch.testing.assert_close(Redrawn(layer).product(x) + layer.bias, layer(x))
    layer.eval()
    torch.testing.assert_close(Redrawn(layer).product(x) + layer.bias, layer(x))
    layer.train()
    freeze(layer, ("weight",))
    torch.testing.assert_close(Redrawn(layer).product(x[:, :64], x[:, 64:]) + layer.bias, layer(x))


def test_double_precision_draws_by_torchs_operations() -> None:
    layer, x = layer_with().double(), torch.ones(2, 3, sum(WIDTHS), dtype=torch.float64)
    found = Redrawn(layer).products(x)
    assert found.dtype == torch.float64
    assert torch.equal(found[0, 0], found[0, 1])
    assert not torch.equal(found[0], found[1])


def test_a_weight_that_was_changed_before_the_backward_pass_is_found() -> None:
    layer = layer_with()
    found = Redrawn(layer).products(*inputs_of(1)).sum()
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()
