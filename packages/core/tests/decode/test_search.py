"""The one entry: which search the options name, and what holds for all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunelab.decode import DecodeOptions, decode

from .toy import BOS, EOS, PAD, table_model


@pytest.mark.parametrize("how", [{}, {"beam_size": 3}, {"num_samples": 4}])
def test_forbidden_tokens_are_never_chosen_and_others_are(how: dict[str, Any]) -> None:
    options = DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD, **how)
    chosen: set[int] = set()
    for seed in range(8):
        step, state = table_model(seed, eos_bonus=-9.0)
        generator = torch.Generator().manual_seed(seed)
        free = decode(step, state, options, generator=generator).tokens
        chosen |= set(free.flatten().tolist())
        narrow = DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD, forbidden=(3, 4), **how)
        assert not torch.isin(
            decode(step, state, narrow, generator=generator).tokens, torch.tensor([3, 4])
        ).any()
    assert {3, 4} <= chosen


def test_forbidding_what_is_not_chosen_changes_nothing() -> None:
    step, state = table_model(3)
    options = DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD)
    free = decode(step, state, options)
    unused = next(token for token in range(6) if token not in free.tokens)
    narrow = decode(step, state, DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD, forbidden=(unused,)))
    assert torch.equal(free.tokens, narrow.tokens)
    assert torch.equal(free.log_probs, narrow.log_probs)
