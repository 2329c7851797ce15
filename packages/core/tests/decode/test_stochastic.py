"""Beams that draw their continuations, against the procedure written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunelab.decode import Decoded, DecodeOptions, State, StepFunction, stochastic_beam_search
from prunelab.errors import UserError

from .toy import BOS, EOS, PAD, table_model

OPTIONS = DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD, beam_size=3, ranking="mean")


def drawn_plain(
    step: StepFunction, state: State, options: DecodeOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """All rows to the last step: each draws K tokens; of an ended one the first stands for itself.

    Returns:
        Tokens (B, K, t) and their log-probabilities, ranked.
    """
    images, beams = state.size[0], options.beam_size
    batch = torch.arange(images).unsqueeze(1)
    log_probs, state = step(torch.full((images,), options.bos), state)
    token = torch.multinomial(log_probs.exp(), beams, generator=generator)
    tokens, values = token.unsqueeze(2), log_probs.gather(1, token).unsqueeze(2)
    state = state.expand(beams)
    lengths = torch.ones(images, beams)
    for _ in range(options.max_length - 1):
        ended = (tokens == options.eos).any(dim=2)
        log_probs, state = step(tokens[:, :, -1].flatten(), state)
        token = torch.multinomial(log_probs.exp(), beams, generator=generator)
        value = log_probs.gather(1, token).view(images, beams, beams)
        value[ended] = torch.tensor([0.0] + [-999.0] * (beams - 1))
        totals = (values.sum(dim=2, keepdim=True) + value).flatten(1)
        chosen = totals.topk(beams, dim=1).indices
        parent = chosen // beams
        token = token.view(images, -1).gather(1, chosen)
        tokens = torch.cat([tokens[batch, parent], token.unsqueeze(2)], dim=2)
        values = torch.cat([values[batch, parent], value.flatten(1).gather(1, chosen).unsqueeze(2)], dim=2)
        lengths = lengths[batch, parent] + (~ended[batch, parent]).float()
        state = state.select_rows((batch * beams + parent).flatten())
    order = (values.sum(dim=2) / (lengths + 1)).argsort(dim=1, descending=True)
    return tokens[batch, order], values[batch, order]


def cut(found: Decoded) -> list[list[list[int]]]:
    """Captions up to their end."""
    return [[_cut(row) for row in image] for image in found.tokens.tolist()]


def _cut(row: list[int]) -> list[int]:
    return row[: row.index(EOS) + 1] if EOS in row else row


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 4),
    size=st.integers(1, 4),
    length=st.integers(1, 7),
    bonus=st.sampled_from([0.0, 2.0, 4.0]),
)
def test_draws_are_those_of_a_search_that_no_image_leaves(
    seed: int, images: int, size: int, length: int, bonus: float
) -> None:
    step, state = table_model(seed, images=images, vocabulary=8, eos_bonus=bonus)
    options = replace(OPTIONS, beam_size=size, max_length=length)
    found = stochastic_beam_search(step, state, options, generator=torch.Generator().manual_seed(seed))
    tokens, values = drawn_plain(step, state, options, torch.Generator().manual_seed(seed))
    assert cut(found) == [[_cut(row) for row in image] for image in tokens.tolist()]
    assert torch.allclose(found.log_probs.sum(dim=2), values.sum(dim=2), atol=1e-5)


def test_images_leave_when_all_their_beams_have_ended() -> None:
    step, state = table_model(3, images=3, vocabulary=8, eos_bonus=30.0)
    calls = []

    def counted(tokens: Tensor, held: State) -> tuple[Tensor, State]:
        calls.append(len(tokens))
        return step(tokens, held)

    options = replace(OPTIONS, beam_size=2, max_length=50)
    stochastic_beam_search(counted, state, options, generator=torch.Generator().manual_seed(0))
    assert len(calls) < 10


def test_other_seeds_draw_other_captions() -> None:
    step, state = table_model(5, images=6, vocabulary=9)
    found = [
        stochastic_beam_search(step, state, OPTIONS, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert not torch.equal(found[0].tokens, found[2].tokens)


def test_a_temperature_is_refused() -> None:
    step, state = table_model(0)
    with pytest.raises(UserError, match=r"temperature is 0\.5, expected 1"):
        stochastic_beam_search(step, state, replace(OPTIONS, temperature=0.5))
