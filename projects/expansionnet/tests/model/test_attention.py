"""Cross attention against torch's own, and a word that sees nothing."""

from __future__ import annotations

import torch
from torch import nn

from expansionnet.model.attention import CrossAttention
from expansionnet.model.masks import pad_mask


@torch.no_grad()
def test_it_is_torchs_attention_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = CrossAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    projections = (ours.Wq, ours.Wk, ours.Wv)
    assert theirs.in_proj_weight is not None
    theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.out_proj.load_state_dict(ours.out_linear.state_dict())
    query, tokens, pads = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.tensor([0, 2])
    mask = pad_mask(3, 5, column_pads=pads)
    assert mask is not None
    expected, _ = theirs(query, tokens, tokens, key_padding_mask=~mask[:, 0])
    torch.testing.assert_close(ours(query, tokens, mask), expected)
    expected, _ = theirs(query, tokens, tokens)
    torch.testing.assert_close(ours(query, tokens), expected)


@torch.no_grad()
def test_a_word_that_sees_nothing_gets_the_even_average() -> None:
    torch.manual_seed(0)
    block = CrossAttention(8, 2)
    query, tokens = torch.randn(1, 2, 8), torch.randn(1, 5, 8)
    found = block(query, tokens, pad_mask(2, 5, row_pads=torch.tensor([1])))[0, 1]
    torch.testing.assert_close(found, block.out_linear(block.Wv(tokens)[0].mean(0)))
