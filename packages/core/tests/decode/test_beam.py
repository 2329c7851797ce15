"""Beam search against plain searches, exhaustive enumeration, and itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.decode import Decoded, DecodeOptions, State, StepFunction, beam_search, greedy
from prunelab.decode.reference import beam_search_plain, mean_beam_search_plain
from prunelab.errors import UserError

from .toy import BOS, EOS, PAD, table_model

PENALTIES = ("", "wu_0.9", "wu_3", "wu_-0.5", "avg_0")


def options_with(**changes: object) -> DecodeOptions:
    return replace(DecodeOptions(max_length=6, bos=BOS, eos=EOS, pad=PAD, beam_size=3), **changes)  # type: ignore[arg-type]


@st.composite
def searches(draw: st.DrawFn) -> tuple[StepFunction, State, DecodeOptions]:
    """A random model and random options of the ``sum`` ranking."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    size = groups * draw(st.integers(1, 5 if groups == 1 else 2))
    step, state = table_model(
        draw(st.integers(0, 10**6)),
        images=draw(st.integers(1, 4)),
        vocabulary=max(4, size + draw(st.integers(0, 4))),
        ties=draw(st.booleans()),
        eos_bonus=draw(st.sampled_from([0.0, 2.0, 5.0])),
    )
    return (
        step,
        state,
        options_with(
            max_length=draw(st.integers(1, 7)),
            beam_size=size,
            group_size=groups,
            diversity_lambda=draw(st.sampled_from([0.0, 0.5, 2.0])),
            length_penalty=draw(st.sampled_from(PENALTIES)),
            temperature=draw(st.sampled_from([1.0, 1.0, 0.6, 1.7])),
            constraint=draw(st.booleans()),
            restore_ended=draw(st.booleans()),
        ),
    )


def assert_same(found: Decoded, expected: Decoded) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.allclose(found.log_probs, expected.log_probs, atol=1e-6)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)


@settings(max_examples=120, deadline=None)
@given(searches())
def test_beam_search_equals_the_plain_one(search: tuple[StepFunction, State, DecodeOptions]) -> None:
    assert_same(beam_search(*search), beam_search_plain(*search))


@settings(max_examples=60, deadline=None)
@given(searches())
def test_stopping_early_changes_nothing(search: tuple[StepFunction, State, DecodeOptions]) -> None:
    step, state, options = search
    found = beam_search(step, state, options)
    assert_same(found, beam_search(step, state, replace(options, early_stop=False)))


@settings(max_examples=40, deadline=None)
@given(searches())
def test_images_one_by_one_equal_the_batch(search: tuple[StepFunction, State, DecodeOptions]) -> None:
    step, state, options = search
    together = beam_search(step, state, options)
    for image in range(state.size[0]):
        index = torch.tensor([image])
        alone = beam_search(step, state.select_images(index).select_rows(index), options)
        assert torch.equal(alone.tokens[0], together.tokens[image])
        assert torch.equal(alone.scores[0], together.scores[image])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 5),
    length=st.integers(1, 7),
    bonus=st.sampled_from([0.0, 3.0]),
)
def test_mean_ranking_equals_the_plain_one(seed: int, size: int, length: int, bonus: float) -> None:
    step, state = table_model(seed, images=3, vocabulary=7, eos_bonus=bonus)
    options = options_with(beam_size=size, max_length=length, ranking="mean")
    expected = mean_beam_search_plain(step, state, options)
    assert_same(beam_search(step, state, options), expected)
    assert_same(beam_search(step, state, replace(options, early_stop=False)), expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), constraint=st.booleans(), ranking=st.sampled_from(["sum", "mean"]))
def test_one_beam_is_greedy(seed: int, constraint: bool, ranking: str) -> None:
    step, state = table_model(seed, images=4, eos_bonus=1.0)
    options = options_with(beam_size=1, constraint=constraint, ranking=ranking)
    found, expected = beam_search(step, state, options), greedy(step, state, options)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.allclose(found.log_probs, expected.log_probs)
    if ranking == "sum":
        assert torch.allclose(found.scores, expected.scores, atol=1e-5)


def all_captions(words: list[int], length: int) -> list[tuple[int, ...]]:
    """Every caption of some words: ended by eos, or as long as can be."""
    ended = [(*c, EOS) for n in range(length) for c in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=length))


@pytest.mark.parametrize(("ranking", "penalty"), [("mean", ""), *(("sum", penalty) for penalty in PENALTIES)])
@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_finds_what_enumeration_finds(ranking: str, penalty: str, seed: int) -> None:
    length, words, vocabulary = 4, [3, 4], 40
    step, state = table_model(seed, images=1, vocabulary=vocabulary)
    table = state.per_image["table"].clone()
    table[:, :, [token for token in range(vocabulary) if token not in (EOS, *words)]] = -torch.inf
    state = replace(state, per_image={"table": table.log_softmax(-1)})
    options = options_with(beam_size=vocabulary, max_length=length, length_penalty=penalty, ranking=ranking)
    scored = []
    for caption in all_captions(words, length):
        now, total, token = state, 0.0, BOS
        for following in caption:
            log_probs, now = step(torch.tensor([token]), now)
            total, token = total + float(log_probs[0, following]), following
        divisor = len(caption) + 1 if ranking == "mean" else options.penalty.divisor(len(caption))
        scored.append((total / divisor, caption))
    scored.sort(reverse=True)
    found = beam_search(step, state, options)
    assert found.scores[0, : len(scored)].tolist() == pytest.approx([s for s, _ in scored], abs=1e-5)
    padded = [list(caption) + [PAD] * (length - len(caption)) for _, caption in scored]
    assert found.tokens[0, : len(scored)].tolist() == padded


def test_wider_beams_score_higher_than_greedy_on_the_whole() -> None:
    # Not for each image: a beam may drop the greedy prefix for one that ends worse.
    step, state = table_model(3, images=300, vocabulary=9)
    scores = [greedy(step, state, options_with()).scores[:, 0]]
    scores += [beam_search(step, state, options_with(beam_size=k)).scores[:, 0] for k in (2, 5, 9)]
    means = [float(s.mean()) for s in scores]
    assert means == sorted(means)
    assert float((scores[-1] >= scores[0] - 1e-6).double().mean()) > 0.97


@pytest.mark.parametrize("ranking", ["sum", "mean"])
def test_scores_are_what_the_log_probs_say(ranking: str) -> None:
    step, state = table_model(5, images=6, vocabulary=8, eos_bonus=1.0)
    found = beam_search(step, state, options_with(beam_size=4, ranking=ranking))
    total = found.log_probs.double().sum(-1)
    length = (found.tokens != PAD).sum(-1) if ranking == "mean" else torch.ones(())
    expected = total / (length + 1) if ranking == "mean" else total
    # Token 0 is padding here and a word of the toy model too: count only captions without it.
    plain = ((found.tokens != PAD) | (found.log_probs == 0)).all(-1)
    assert bool(plain.any())
    assert torch.allclose(found.scores[plain], expected[plain], atol=1e-5)
    assert bool((found.scores.diff(dim=1) <= 1e-12).all())


def test_diverse_groups_use_other_first_words_when_lambda_is_large() -> None:
    step, state = table_model(11, images=5, vocabulary=12)
    options = options_with(beam_size=4, group_size=4, diversity_lambda=50.0)
    first = beam_search(step, state, options).tokens[:, :, 0]
    assert all(len(set(row)) == 4 for row in first.tolist())


def test_first_group_of_diverse_beams_is_ordinary_beam_search() -> None:
    step, state = table_model(12, images=5, vocabulary=12, eos_bonus=2.0)
    diverse = beam_search(step, state, options_with(beam_size=6, group_size=3))
    assert_same(
        Decoded(
            tokens=diverse.tokens[:, :2], log_probs=diverse.log_probs[:, :2], scores=diverse.scores[:, :2]
        ),
        beam_search(step, state, options_with(beam_size=2)),
    )


def test_negative_diversity_decodes_to_the_last_step() -> None:
    step, state = table_model(13, images=3, vocabulary=8, eos_bonus=3.0)
    options = options_with(beam_size=4, group_size=2, diversity_lambda=-1.0)
    assert_same(beam_search(step, state, options), beam_search_plain(step, state, options))


def test_fewer_steps_are_made_when_captions_end_early() -> None:
    step, state = table_model(14, images=3, vocabulary=8, eos_bonus=30.0)
    calls = []

    def counted(tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        calls.append(len(tokens))
        return step(tokens, state)

    beam_search(counted, state, options_with(beam_size=2, max_length=50))
    assert len(calls) < 10


def test_gradients_flow_from_beams_only_on_request() -> None:
    step, state = table_model(15, images=3, vocabulary=8, eos_bonus=2.0)
    table = state.per_image["table"].clone().requires_grad_()
    state = replace(state, per_image={"table": table})
    assert not beam_search(step, state, options_with()).log_probs.requires_grad
    found = beam_search(step, state, options_with(gradients=True))
    found.log_probs.sum().backward()
    assert table.grad is not None
    assert float(table.grad.sum()) == float((found.log_probs != 0).sum())


def test_more_beams_than_tokens_are_refused() -> None:
    step, state = table_model(0, vocabulary=4)
    with pytest.raises(UserError, match="beam_size 5 is too large: expected at most 4"):
        beam_search(step, state, options_with(beam_size=5))
