"""Static expansion by hand, without vectors of full width, and with padded tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expansionnet.model.initialise import initialise
from expansionnet.model.masks import visible
from expansionnet.model.static import StaticExpansion


def block_of(dim: int, groups: tuple[int, ...], seed: int = 0) -> StaticExpansion:
    torch.manual_seed(seed)
    block = StaticExpansion(dim, groups, 0.1, 1e-9).double().eval()
    initialise(block)
    return block


@settings(max_examples=20, deadline=None)
@given(
    groups=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    tokens=st.integers(1, 6),
    dim=st.integers(1, 6),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_weights_of_both_ways_multiplied_first_give_the_same(
    groups: list[int], tokens: int, dim: int, padded: bool, seed: int
) -> None:
    block = block_of(dim, tuple(groups), seed)
    x = torch.randn(2, tokens, dim, dtype=torch.float64)
    seen = visible(tokens, torch.tensor([0, tokens - 1])) if padded else None
    with_vectors = block(x, seen)  # with gradients vectors (B, P, D) are made
    with torch.no_grad():
        torch.testing.assert_close(block(x, seen), with_vectors.detach(), atol=1e-10, rtol=0)


def test_one_token_and_one_vector_by_hand() -> None:
    block = block_of(1, (1,))
    values = {"query_exp_vectors": 2.0, "bias_exp_vectors": 0.5, "key_embed": 1.0, "class_a_embed": 3.0}
    for name, value in {**values, "class_b_embed": 5.0, "selector_embed": 0.0}.items():
        part = getattr(block, name)
        for parameter in part.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.constant_(part.weight, value)
    with torch.no_grad():
        # A score of 2 x: path a has 3 x + 0.5 and path b nothing, and the gate takes half of each.
        torch.testing.assert_close(block(torch.tensor([[[4.0]]]).double()).item(), (3 * 4 + 0.5) / 2)
        torch.testing.assert_close(block(torch.tensor([[[-4.0]]]).double()).item(), (5 * -4 + 0.5) / 2)


def test_padded_tokens_change_nothing_for_the_others() -> None:
    block = block_of(4, (2, 3))
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    other = torch.cat([x, torch.randn(1, 2, 4, dtype=torch.float64)], dim=1)
    with torch.no_grad():
        padded = block(other, visible(7, torch.tensor([2])))
        torch.testing.assert_close(padded[:, :5], block(x), atol=1e-12, rtol=0)
