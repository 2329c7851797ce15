"""Searches and samples: what comes back, and what may not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.config import DecodeConfig
from expansionnet.decoding import Captions, beam_search, caption, options, sample, search
from expansionnet.model import ExpansionNet, build
from prunelab.errors import UserError

from .small import WORDS, config

SOS, EOS = WORDS.sos, WORDS.eos


def talkative(seed: int = 0, **sizes: Any) -> ExpansionNet:
    """A captioner whose captions end at different lengths."""
    torch.manual_seed(seed)
    model = build(config(**sizes))
    with torch.no_grad():
        model.vocab_linear.weight.mul_(5)
        model.vocab_linear.bias[EOS] += 1.0
    return model.eval()


def features(images: int, seed: int = 1) -> Tensor:
    return torch.randn(images, 6, config().img_feature_dim, generator=torch.Generator().manual_seed(seed))


def assert_same(found: Captions, expected: Captions) -> None:
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mean_log_prob, expected.mean_log_prob, atol=1e-5, rtol=0)


def test_incremental_search_finds_what_whole_sentences_find() -> None:
    model, x = talkative(), features(7)
    chosen = options(DecodeConfig(), WORDS, 4, positions=12)
    pads = torch.tensor([0, 1, 2, 3, 0, 5, 1])
    found = search(model, x, chosen, outputs=4, enc_pads=pads)
    assert_same(found, search(model, x, chosen, outputs=4, enc_pads=pads, incremental=False))
    assert len({len(tokens) for image in found.tokens for tokens in image}) > 2


def test_images_do_not_change_each_other() -> None:
    model, x = talkative(3), features(5)
    together = beam_search(model, x, beam_size=3, max_len=12, sos=SOS, eos=EOS, outputs=3)
    for place in range(5):
        alone = beam_search(model, x[place : place + 1], beam_size=3, max_len=12, sos=SOS, eos=EOS, outputs=3)
        assert alone.tokens[0] == together.tokens[place]


def test_captions_begin_with_the_start_and_stop_at_the_end_or_the_limit() -> None:
    found = beam_search(talkative(4), features(8), beam_size=3, max_len=5, sos=SOS, eos=EOS, outputs=2)
    for image in found.tokens:
        for tokens in image:
            assert tokens[0] == SOS
            assert EOS not in tokens[1:-1]
            assert tokens[-1] == EOS or len(tokens) == 5
    longest = max(len(tokens) for image in found.tokens for tokens in image)
    assert found.log_probs.shape == (8, 2, longest)
    assert not found.log_probs[:, :, 0].any()
    lengths = torch.tensor([[len(tokens) for tokens in image] for image in found.tokens])
    assert torch.equal(found.mean_log_prob, found.log_probs.double().sum(dim=2) / lengths)


def test_unknown_words_are_said_only_where_allowed() -> None:
    model = talkative(5)
    with torch.no_grad():
        model.vocab_linear.bias[WORDS.unk] += 9.0
    for beams in (1, 3):
        said = caption(
            model, features(4), options(DecodeConfig(suppress_unk=False), WORDS, beams, positions=9)
        )
        assert all(WORDS.unk in tokens for tokens in said)
        kept = caption(model, features(4), options(DecodeConfig(), WORDS, beams, positions=9))
        assert not any(WORDS.unk in tokens for tokens in kept)


def test_the_limit_of_the_configuration_comes_before_that_of_the_model() -> None:
    assert options(DecodeConfig(max_len=7), WORDS, 3, positions=12).max_length == 6
    assert options(DecodeConfig(), WORDS, 3, positions=12).max_length == 11


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_len": 1}, "max_len is 1, expected at least 2"),
        ({"outputs": 4}, "outputs is 4, expected 1 to 3, the number of beams"),
        ({"outputs": 0}, "outputs is 0, expected 1 to 3"),
        ({"max_len": 14}, "captions of 13 tokens, expected at most the model's 12 positions"),
        ({"beam_size": 99}, "beam_size 99 is too large"),
    ],
)
def test_searches_that_cannot_be_are_refused(changes: dict[str, int], words: str) -> None:
    arguments = {"beam_size": 3, "max_len": 8, "sos": SOS, "eos": EOS, **changes}
    with pytest.raises(UserError, match=words):
        beam_search(talkative(), features(1), **arguments)


@pytest.mark.parametrize("incremental", [True, False])
def test_samples_depend_on_the_generator_alone(incremental: bool) -> None:
    def drawn(seed: int) -> Captions:
        generator = torch.Generator().manual_seed(seed)
        arguments = {"samples": 3, "max_len": 8, "sos": SOS, "eos": EOS, "incremental": incremental}
        return sample(talkative(), features(4), generator=generator, **arguments)

    assert_same(drawn(0), drawn(0))
    assert drawn(0).tokens != drawn(1).tokens
    assert all(len(image) == 3 for image in drawn(0).tokens)


def test_stochastic_beams_are_ranked_and_follow_the_generator() -> None:
    def drawn(seed: int) -> Captions:
        generator = torch.Generator().manual_seed(seed)
        arguments = {"beam_size": 3, "max_len": 8, "sos": SOS, "eos": EOS, "outputs": 3}
        return beam_search(talkative(), features(4), sample=True, generator=generator, **arguments)

    assert_same(drawn(0), drawn(0))
    assert any(drawn(seed).tokens != drawn(0).tokens for seed in range(1, 9))
    assert bool((drawn(0).mean_log_prob.diff(dim=1) <= 1e-6).all())


@pytest.mark.parametrize("incremental", [True, False])
def test_gradients_of_samples_are_those_of_one_pass_over_them(incremental: bool) -> None:
    model, x = talkative().double(), features(2).double()
    arguments = {"samples": 2, "max_len": 6, "sos": SOS, "eos": EOS, "incremental": incremental}
    generator = torch.Generator().manual_seed(3)
    assert not sample(model, x, generator=generator, **arguments).log_probs.requires_grad
    found = sample(model, x, generator=generator, gradients=True, **arguments)
    found.log_probs.sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for image, many in zip(x, found.tokens, strict=True):
        for tokens in many:
            row = torch.tensor([tokens])
            log_probs = model(image[None], row[:, :-1]).log_softmax(dim=-1)
            total = total + log_probs.gather(2, row[:, 1:, None]).sum()
    total.backward()
    assert float(total.detach()) == pytest.approx(float(found.log_probs.detach().sum()))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-9, rtol=1e-6)


def test_greedy_is_one_beam() -> None:
    model, x = talkative(6), features(3)
    one = replace(options(DecodeConfig(), WORDS, 1, positions=12), forbidden=())
    found = search(model, x, one)
    assert_same(found, beam_search(model, x, beam_size=1, max_len=12, sos=SOS, eos=EOS))
