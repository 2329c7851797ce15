"""Samples drawn and then scored by one pass cost what the original's way gives, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.config import ScstConfig
from expansionnet.learning.scst import Samples, draw_and_score, greedy
from expansionnet.model import ExpansionNet
from prunelab.decode.samples import behind_end

from ..small import WORDS, captioner

ORIGINAL = ScstConfig(scoring="original", sample_mode="train", scst_max_len=7, num_samples=3)
RESCORED = ScstConfig(scst_max_len=7, num_samples=3)
RATES = ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other")


def network(rate: float = 0.0, seed: int = 0) -> ExpansionNet:
    model = captioner(seed=seed, **dict.fromkeys(RATES, rate)).model
    with torch.no_grad():  # ends come early now and then
        model.vocab_linear.bias[WORDS.eos] += 1.5
    return model.double().train()


def features(model: ExpansionNet, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 6, model.cfg.img_feature_dim, generator=generator, dtype=torch.float64)


def forced(tokens: Tensor) -> Any:
    """Draws these captions (B, K, L)."""
    columns = iter(tokens.flatten(0, 1).T)
    return lambda _, rows: next(columns)[rows]


def gradients(model: ExpansionNet, samples: Samples) -> list[Tensor]:
    weights = torch.arange(1.0, 1 + samples.log_probs.shape[1], dtype=torch.float64)
    (samples.log_probs.sum(-1) * weights).sum().backward()
    found = [param.grad for param in model.parameters()]
    model.zero_grad()
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("pads", [None, [0, 2]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_ways_give_equal_log_probabilities_and_gradients_without_dropout(
    seed: int, pads: list[int] | None
) -> None:
    model = network(seed=seed)
    x, padded = features(model), None if pads is None else torch.tensor(pads)
    torch.manual_seed(seed)
    there = draw_and_score(model, x, padded, ORIGINAL, WORDS)
    here = draw_and_score(model, x, padded, RESCORED, WORDS, draw=forced(there.tokens))
    length = here.tokens.shape[2]
    assert torch.equal(here.tokens, there.tokens[..., :length])
    torch.testing.assert_close(here.log_probs, there.log_probs[..., :length])
    assert not there.log_probs[..., length:].any()
    expected = gradients(model, there)
    found = gradients(model, here)
    assert len(found) == len(expected) == len(list(model.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cfg", [ORIGINAL, RESCORED])
def test_samples_end_once_and_nothing_behind_the_end_counts(cfg: ScstConfig) -> None:
    model = network()
    torch.manual_seed(1)
    samples = draw_and_score(model, features(model), None, cfg, WORDS)
    behind = behind_end(samples.tokens, WORDS.eos)
    ended = (samples.tokens == WORDS.eos).sum(-1)
    assert ended.max() == 1
    assert ended.sum() > 0
    assert bool((samples.tokens[behind] == WORDS.pad).all())
    assert torch.equal(samples.log_probs == 0, behind)


def test_the_original_way_drops_while_it_samples_and_only_there_does_the_mode_matter() -> None:
    model = network(rate=0.4)
    x, tokens = features(model), torch.full((2, 3, 7), 5)

    def log_probs(cfg: ScstConfig) -> Tensor:
        torch.manual_seed(0)
        model.enc_input_drop.p = model.enc_reduce_drop.p = 0.0
        for layer in model.encoders:
            for part in layer.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
        return draw_and_score(model, x, None, cfg, WORDS, draw=forced(tokens)).log_probs.detach()

    quiet = ScstConfig(scoring="original", sample_mode="eval", scst_max_len=7, num_samples=3)
    without = log_probs(quiet)
    assert model.training
    assert all(part.training for part in model.modules())
    assert not torch.allclose(log_probs(ORIGINAL), without)
    assert not torch.allclose(log_probs(RESCORED), without)  # its one pass is a training step like others
    model.eval()
    torch.testing.assert_close(log_probs(RESCORED), without)


def test_pictures_are_encoded_once() -> None:
    model, calls = network(), []
    model.input_linear.register_forward_hook(lambda *_: calls.append(1))
    for cfg in (ORIGINAL, RESCORED):
        calls.clear()
        draw_and_score(model, features(model), None, cfg, WORDS)
        assert len(calls) == 1


def test_the_greedy_caption_holds_the_likeliest_words_without_dropout() -> None:
    model = network(rate=0.5)
    x = features(model)
    found = greedy(model, x, None, RESCORED, WORDS)
    assert found.shape == (2, 1, 7)
    assert model.training
    model.eval()
    written = torch.full((2, 1), WORDS.sos)
    for place in range(7):
        likeliest = model(x, written)[:, -1].argmax(-1)
        alive = ~(written == WORDS.eos).any(1)
        assert torch.equal(found[alive, 0, place], likeliest[alive])
        written = torch.cat([written, likeliest.unsqueeze(1)], 1)
