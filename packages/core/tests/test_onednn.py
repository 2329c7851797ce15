"""Linear maps by oneDNN are torch's own, and are left to torch where oneDNN does not belong."""

from __future__ import annotations

import math

import pytest
import torch

from prunelab import onednn


def test_linear_maps_of_any_module_change_nothing_but_rounding() -> None:
    wide = math.isqrt(onednn.LEAST)
    block, x = torch.nn.Linear(wide, wide), torch.randn(2, 6, wide)
    with torch.no_grad():
        plain = block(x)
        with onednn.OneDNN():
            found = block(x)
            named = torch.nn.functional.linear(x, weight=torch.eye(wide), bias=None)
            small = torch.nn.functional.linear(x[..., :4], torch.eye(4))
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(named, x)
    assert torch.equal(small, x[..., :4])


def test_onednn_is_left_alone_where_it_does_not_belong() -> None:
    wide = math.isqrt(onednn.LEAST)
    weight, x = torch.randn(wide, wide), torch.randn(3, wide)
    with torch.no_grad():
        assert onednn.usable(x) == onednn.available()
        assert not onednn.usable(x.double())
        assert not onednn.usable(x[:0])
        assert onednn.linear(x[:0], weight).shape == (0, wide)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not onednn.usable(x)
            assert onednn.linear(x, weight).dtype == torch.bfloat16
    assert not onednn.usable(x)
    assert onednn.linear(x, weight.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "shapes", [((5, 300), (300, 256)), ((256, 300), (4, 300, 7)), ((4, 7, 300), (300, 256))]
)
def test_products_by_a_large_matrix_keep_their_shape(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (torch.randn(shape) for shape in shapes)
    with torch.no_grad(), onednn.OneDNN():
        found = [a @ b, torch.matmul(a, b), a.matmul(b)]
    for each in found:
        torch.testing.assert_close(each, torch.einsum("...ij,...jk->...ik", a, b), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_packed_weights_give_the_same_for_any_number_of_rows() -> None:
    weight, bias = torch.randn(70, 40), torch.randn(70)
    packed = onednn.packed(weight, 5)
    for rows in (1, 5, 33):
        x = torch.randn(rows, 40)
        expected = torch.nn.functional.linear(x, weight, bias)
        with torch.no_grad():
            torch.testing.assert_close(onednn.mapped(x, packed, bias), expected, atol=1e-5, rtol=1e-5)
            positive = onednn.mapped(x, packed, bias, relu=True)
        torch.testing.assert_close(positive, expected.relu(), atol=1e-5, rtol=1e-5)


def test_products_whose_arguments_have_names_are_torchs() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(4, 5)
    expected, given = a @ b, torch.empty(2, 3, 5)
    with torch.no_grad(), onednn.OneDNN():
        assert torch.equal(torch.matmul(a, other=b), expected)
        assert torch.matmul(a, b, out=given) is given
    assert torch.equal(given, expected)
