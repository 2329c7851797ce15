"""Dynamic expansion: causality, padding, and one word by hand."""

from __future__ import annotations

import torch

from expansionnet.model.dynamic import DynamicExpansion
from expansionnet.model.initialise import initialise
from expansionnet.model.masks import causal_mask


def block_of(dim: int, vectors: int) -> DynamicExpansion:
    torch.manual_seed(0)
    block = DynamicExpansion(dim, vectors, 0.1, 1e-9).double().eval()
    initialise(block)
    return block


@torch.no_grad()
def test_a_word_does_not_change_those_before_it() -> None:
    block, x = block_of(4, 3), torch.randn(2, 5, 4, dtype=torch.float64)
    whole = block(x, causal_mask(5))
    for length in range(1, 5):
        torch.testing.assert_close(block(x[:, :length], causal_mask(length)), whole[:, :length])


@torch.no_grad()
def test_padded_words_become_zero_and_do_not_change_the_others() -> None:
    block, x = block_of(4, 3), torch.randn(2, 5, 4, dtype=torch.float64)
    padded = block(x, causal_mask(5, torch.tensor([0, 2])))
    torch.testing.assert_close(padded[0], block(x, causal_mask(5))[0])
    torch.testing.assert_close(padded[1, :3], block(x[:, :3], causal_mask(3))[1])
    assert torch.equal(padded[1, 3:], torch.zeros(2, 4, dtype=torch.float64))


@torch.no_grad()
def test_one_word_and_one_vector_by_hand() -> None:
    block = block_of(1, 1)
    values = {"cond_embed": 2.0, "query_exp_vectors": 3.0, "bias_exp_vectors": 0.5, "key_linear": 1.0}
    for name, value in {**values, "class_a_embed": 7.0, "class_b_embed": 5.0, "selector_embed": 0.0}.items():
        part = getattr(block, name)
        for parameter in part.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.constant_(part.weight, value)
    # The vector's query is 3 + 2 x and its bias 0.5 + 2 x; the score (3 + 2 x) x is positive for x = 4 and
    # negative for x = -1, and the gate takes half of the one path that it leaves.
    for x, expected in ((4.0, (7 * 4 + 0.5 + 2 * 4) / 2), (-1.0, (5 * -1 + 0.5 - 2) / 2)):
        found = block(torch.tensor([[[x]]], dtype=torch.float64), causal_mask(1))
        torch.testing.assert_close(found.item(), expected)
