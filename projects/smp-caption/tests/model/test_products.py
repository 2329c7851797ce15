"""Products of a loop: the numbers and gradients of torch's own, whichever gradients are asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smp_caption.model.products import Deferred

STEPS = 4


def loop(linear: Deferred | None, weight: Tensor, bias: Tensor | None, first: Tensor) -> Tensor:
    """Some steps, each of which reads what the one before it made."""
    found, total = first, first.new_zeros(())
    for _ in range(STEPS):
        out = F.linear(found, weight, bias) if linear is None else linear(found)
        found = out.tanh()
        total = total + found.square().sum()
    return total


def made(*, bias: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 5), (5,), (3, 5)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    return tensors if bias else [tensors[0], tensors[2]]


def gradients(*, deferred: bool, bias: bool = True) -> tuple[Tensor, ...]:
    weight, *rest = made(bias=bias)
    of_bias, first = (rest[0], rest[1]) if bias else (None, rest[0])
    # The weight is no leaf, as in the network, where it is put together of parts or masked.
    effective = weight * 2
    linear = Deferred(effective, of_bias) if deferred else None
    return torch.autograd.grad(loop(linear, effective, of_bias, first), [weight, *rest])


def test_all_gradients_are_those_of_a_linear_layer_called_at_each_step() -> None:
    for bias in (True, False):
        for found, expected in zip(
            gradients(deferred=True, bias=bias), gradients(deferred=False, bias=bias), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_a_graph_that_is_kept_gives_the_same_gradients_again_and_none_of_an_earlier_pass() -> None:
    weight, bias, first = made()
    linear = Deferred(weight, bias)
    total = loop(linear, weight, bias, first)
    wanted = torch.autograd.grad(total, [weight, bias, first], retain_graph=True)
    (alone,) = torch.autograd.grad(total, [first], retain_graph=True)  # asks for nothing of the weight
    again = torch.autograd.grad(total, [weight, bias, first])
    assert torch.equal(alone, wanted[2])
    assert all(torch.equal(one, two) for one, two in zip(again, wanted, strict=True))


def test_a_weight_or_a_bias_that_is_held_fast_gets_no_gradient() -> None:
    whole = gradients(deferred=False)
    for held in (0, 1):
        weight, bias, first = made()
        effective = weight * 2
        pair = [effective, bias]
        pair[held] = pair[held].detach()
        free = bias if held == 0 else weight
        total = loop(Deferred(*pair), effective, bias, first)
        found = torch.autograd.grad(total, [free, first])
        torch.testing.assert_close(found, (whole[1 - held], whole[2]))


def test_without_gradients_and_in_mixed_precision_it_is_the_layer_itself() -> None:
    weight, bias, first = (tensor.detach().float().requires_grad_() for tensor in made())
    with torch.no_grad():
        assert torch.equal(Deferred(weight, bias)(first), F.linear(first, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        found = Deferred(weight, bias)(first)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert weight.grad is not None
