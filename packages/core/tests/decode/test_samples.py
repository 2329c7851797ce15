"""Where samples end."""

from __future__ import annotations

import torch

from prunelab.decode.samples import behind_end, trimmed

EOS = 3
TOKENS = torch.tensor([[7, EOS, EOS, 7, 7], [7, 7, 7, EOS, 0]])


def test_what_lies_behind_the_first_end() -> None:
    assert behind_end(TOKENS, EOS).tolist() == [[False, False, True, True, True], [False] * 4 + [True]]


def test_columns_behind_every_end_are_cut_and_others_stay() -> None:
    assert torch.equal(trimmed(TOKENS, EOS), TOKENS[:, :4])
    assert torch.equal(trimmed(TOKENS.view(1, 2, 5), EOS), TOKENS[:, :4].view(1, 2, 4))
    never = torch.full((2, 3), 5)
    assert torch.equal(trimmed(never, EOS), never)
