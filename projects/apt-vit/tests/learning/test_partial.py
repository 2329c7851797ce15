"""Parts of a block, beside the whole one."""

from __future__ import annotations

import pytest
import torch

from apt_vit.learning.partial import ahead, cls_through, through, without
from apt_vit.tokens.packed import Rows, rows_of

from ..small import CONFIG, small_model

B, N, D = 3, 9, CONFIG.hidden_size


def tokens() -> torch.Tensor:
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(2))


def test_one_token_of_each_sequence_is_taken_away() -> None:
    x = torch.arange(12.0).view(2, 6, 1)
    assert without(x, torch.tensor([1, 5]))[..., 0].tolist() == [[0, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_a_reward_s_block_is_the_block_and_leaves_its_input() -> None:
    block, x = small_model().blocks[0], tokens()
    before = x.clone()
    torch.testing.assert_close(ahead(block, x), block(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_a_reward_s_block_has_no_dropout() -> None:
    model = small_model(dropout_rate=0.5, attention_dropout_rate=0.5)
    expected = model.blocks[0](tokens())
    torch.testing.assert_close(ahead(model.train().blocks[0], tokens()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
def test_the_classification_token_of_the_last_block_is_the_block_s(padding: bool) -> None:
    block, x = small_model().blocks[-1], tokens()
    real = torch.ones(B, N, dtype=torch.bool)
    if padding:
        real[0, 5:], real[2, 8:] = False, False
    mask = real[:, None, None] if padding else None
    found, expected = cls_through(block, x, real if padding else None), block(x, mask)[:, :1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    params = list(block.parameters())
    pairs = [torch.autograd.grad(y.square().sum(), params) for y in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_of_different_lengths_see_their_own_picture(layout: str) -> None:
    block, x = small_model().blocks[0], tokens()
    keep = torch.rand(B, N, generator=torch.Generator().manual_seed(4)) < 0.6
    keep[:, 0], keep[1] = True, True
    assert len(set(keep.sum(1).tolist())) > 1
    rows = rows_of(keep, layout)
    whole = Rows.all(B, N, x.device)
    found = through(block, rows, whole.take(x.flatten(0, 1), rows.places))
    expected = block(x, keep[:, None, None])[keep]
    valid = slice(None) if rows.valid is None else rows.valid.flatten()
    torch.testing.assert_close(found[valid], expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_drawn_for_packed_rows_too() -> None:
    model = small_model(attention_dropout_rate=0.999).train()
    keep = torch.ones(B, N, dtype=torch.bool)
    keep[0, 4:] = False
    rows = rows_of(keep, "packed")
    x = torch.randn(len(rows.places), D)
    block = model.blocks[0]
    alone = x + block.ffn(block.ffn_norm(x))  # attention gives next to nothing
    same = (through(block, rows, x) - alone).abs().amax(1) < 1e-6
    assert same.double().mean() > 0.5
