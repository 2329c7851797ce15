"""Greedy choice and random draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prunelab.decode import DecodeOptions, State, decode, greedy, multinomial_draw, sample
from prunelab.errors import UserError

from .toy import BOS, EOS, PAD, table_model

OPTIONS = DecodeOptions(max_length=7, bos=BOS, eos=EOS, pad=PAD)


def test_greedy_takes_the_likeliest_token_until_eos() -> None:
    step, state = table_model(1, images=5, eos_bonus=1.0)
    found = greedy(step, state, OPTIONS)
    for image in range(5):
        index, token = torch.tensor([image]), BOS
        now = state.select_images(index).select_rows(index)
        for place in range(OPTIONS.max_length):
            log_probs, now = step(torch.tensor([token]), now)
            best, token = float(log_probs.max()), int(log_probs.argmax())
            assert int(found.tokens[image, 0, place]) == token
            assert float(found.log_probs[image, 0, place]) == best
            if token == EOS:
                break
        assert not found.tokens[image, 0, place + 1 :].any()
        assert not found.log_probs[image, 0, place + 1 :].any()
        assert float(found.scores[image, 0]) == pytest.approx(float(found.log_probs[image, 0].sum()))


def original_greedy(step: object, state: State, options: DecodeOptions) -> tuple[Tensor, Tensor]:
    """Ended rows are fed their own choices and recorded until every row has ended."""
    images = state.size[0]
    fed = torch.full((images,), options.bos)
    alive = torch.ones(images, dtype=torch.bool)
    tokens, recorded = torch.zeros(images, options.max_length).long(), torch.zeros(images, options.max_length)
    for place in range(options.max_length):
        log_probs, state = step(fed, state)  # type: ignore[operator]
        if options.constraint and place:
            log_probs[torch.arange(images), tokens[:, place - 1]] = -torch.inf
        recorded[:, place], fed = log_probs.max(dim=1)
        tokens[:, place] = fed * alive
        alive &= fed != options.eos
        if not alive.any():
            break
    return tokens, recorded


@pytest.mark.parametrize("constraint", [False, True])
def test_recording_after_the_end_follows_the_original(constraint: bool) -> None:
    step, state = table_model(2, images=6, eos_bonus=2.0)
    options = replace(OPTIONS, record_after_end=True, constraint=constraint)
    found = greedy(step, state, options)
    tokens, recorded = original_greedy(step, state, options)
    assert torch.equal(found.tokens[:, 0], tokens)
    assert torch.equal(found.log_probs[:, 0], recorded)
    clean = greedy(step, state, replace(options, record_after_end=False))
    assert torch.equal(clean.tokens, found.tokens)
    assert torch.equal(clean.scores, found.scores)


def test_constraint_forbids_repeated_words() -> None:
    step, state = table_model(3, images=40, vocabulary=4, eos_bonus=-9.0)
    free = greedy(step, state, OPTIONS).tokens[:, 0]
    bound = greedy(step, state, replace(OPTIONS, constraint=True)).tokens[:, 0]
    assert bool((free[:, 1:] == free[:, :-1]).any())
    repeats = (bound[:, 1:] == bound[:, :-1]) & (bound[:, 1:] != PAD)
    assert not bool(repeats.any())


def test_samples_are_the_same_whether_images_leave_or_stay() -> None:
    step, state = table_model(4, images=6, eos_bonus=1.5)
    options = replace(OPTIONS, num_samples=3)
    runs = [
        sample(
            step, state, replace(options, record_after_end=stays), generator=torch.Generator().manual_seed(5)
        )
        for stays in (False, True)
    ]
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    assert torch.equal(runs[0].scores, runs[1].scores)
    assert runs[0].tokens.shape == (6, 3, 7)


@pytest.mark.parametrize("stays", [False, True])
def test_multinomial_draws_are_those_of_a_loop_that_no_row_leaves(stays: bool) -> None:
    step, state = table_model(4, images=6, eos_bonus=1.5)
    generator, draws = (torch.Generator().manual_seed(5) for _ in range(2))
    options = replace(OPTIONS, num_samples=3, record_after_end=stays)
    found = sample(step, state, options, draw=multinomial_draw(18, generator=draws))
    now, fed, columns = state.expand(3), torch.full((18,), BOS), []
    for _ in range(OPTIONS.max_length):
        log_probs, now = step(fed, now)
        fed = torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(1)
        columns.append(fed)
    drawn = torch.stack(columns, dim=1).view(6, 3, -1)
    ended = (drawn == EOS).cumsum(dim=2) - (drawn == EOS).long() > 0
    assert bool(ended[:, :, -1].any())
    assert torch.equal(found.tokens, drawn.masked_fill(ended, PAD))


def test_samples_follow_the_distribution_that_the_temperature_makes() -> None:
    step, state = table_model(6, images=1, vocabulary=5)
    log_probs, _ = step(torch.tensor([BOS]), state)
    for temperature in (0.5, 1.0, 2.0):
        options = replace(OPTIONS, num_samples=20000, max_length=1, temperature=temperature)
        found = sample(step, state, options, generator=torch.Generator().manual_seed(7))
        share = found.tokens.flatten().bincount(minlength=5) / 20000
        assert torch.allclose(share, (log_probs[0] / temperature).softmax(0), atol=0.015)
        assert torch.equal(found.log_probs.flatten(), log_probs[0][found.tokens.flatten()])


def test_tokens_without_probability_are_never_drawn() -> None:
    log_probs = torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]])

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return log_probs.expand(len(tokens), -1), state

    options = DecodeOptions(max_length=50, num_samples=40, bos=0, eos=3)
    found = sample(step, State(per_image=torch.zeros(1)), options, generator=torch.Generator().manual_seed(0))
    assert bool((found.tokens == 1).all())


def test_given_draws_are_taken_and_scored() -> None:
    step, state = table_model(8, images=2, vocabulary=6)
    wanted = torch.tensor([[3, 4, EOS, 0], [5, EOS, 0, 0], [4, 4, 4, 4], [EOS, 0, 0, 0]])
    place = iter(range(4))

    def recorded(probabilities: Tensor, rows: Tensor) -> Tensor:
        return wanted[rows, next(place)]

    options = DecodeOptions(max_length=4, num_samples=2, bos=BOS, eos=EOS)
    found = decode(step, state, options, draw=recorded)
    assert torch.equal(found.tokens.flatten(0, 1), wanted)
    expanded, fed = state.expand(2), torch.full((4,), BOS)
    for t in range(4):
        log_probs, expanded = step(fed, expanded)
        fed = wanted[:, t]
        going = ~(wanted[:, :t] == EOS).any(dim=1)
        assert torch.equal(
            found.log_probs[:, :, t].flatten()[going], log_probs.gather(1, fed[:, None])[:, 0][going]
        )
        assert not found.log_probs[:, :, t].flatten()[~going].any()


def test_gradients_flow_from_samples_only_on_request() -> None:
    step, state = table_model(9, images=2)
    table = state.per_image["table"].clone().requires_grad_()
    state = replace(state, per_image={"table": table})
    options = replace(OPTIONS, num_samples=2)
    assert not sample(step, state, options).log_probs.requires_grad
    sample(step, state, replace(options, gradients=True)).log_probs.sum().backward()
    assert table.grad is not None
    assert not greedy(step, state, replace(options, gradients=True)).log_probs.requires_grad


def test_decode_chooses_the_method() -> None:
    step, state = table_model(10, images=2)
    assert decode(step, state, OPTIONS).tokens.shape == (2, 1, 7)
    assert decode(step, state, replace(OPTIONS, beam_size=3)).tokens.shape == (2, 3, 7)
    assert decode(step, state, replace(OPTIONS, beam_size=3, num_samples=4)).tokens.shape == (2, 4, 7)


@pytest.mark.parametrize("rows", [None, 6])
def test_what_is_not_finite_is_not_drawn_by(rows: int | None) -> None:
    step, state = table_model(3, images=3, eos_bonus=0.0)

    def broken(fed: Tensor, now: State) -> tuple[Tensor, State]:
        log_probs, now = step(fed, now)
        return log_probs.index_fill(0, torch.tensor([1]), torch.nan), now

    options = replace(OPTIONS, num_samples=2)
    with pytest.raises(UserError, match="no finite probabilities: expected finite weights and features"):
        sample(broken, state, options, draw=None if rows is None else multinomial_draw(rows))
