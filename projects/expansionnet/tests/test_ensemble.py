"""Ensembles: one member is that member, several are between them."""

from __future__ import annotations

import math

import pytest
import torch

from expansionnet.decoding import beam_search
from expansionnet.ensemble import Ensemble
from expansionnet.model import ExpansionNet, build
from prunelab.errors import UserError

from .small import WORDS, config


def member(seed: int, **sizes: int) -> ExpansionNet:
    torch.manual_seed(seed)
    return build(config(**sizes)).eval()


def test_equal_members_decide_as_one() -> None:
    x = torch.randn(3, 6, config().img_feature_dim)
    arguments = {"beam_size": 3, "max_len": 9, "sos": WORDS.sos, "eos": WORDS.eos, "outputs": 2}
    alone = beam_search(member(0), x, **arguments)
    for copies in (1, 3):
        found = beam_search(Ensemble(models=[member(0)] * copies), x, **arguments)
        assert found.tokens == alone.tokens
        torch.testing.assert_close(found.log_probs, alone.log_probs, atol=1e-5, rtol=0)


def test_probabilities_are_averaged_over_members_of_any_size() -> None:
    models = [member(0), member(1, model_dim=24, N_dec=1), member(2)]
    x, tokens = torch.randn(2, 6, config().img_feature_dim), torch.tensor([[WORDS.sos, 5], [WORDS.sos, 7]])
    pads = torch.tensor([0, 2])
    found = Ensemble(models=models).log_probs(x, tokens, pads)
    each = [model(x, tokens, pads).softmax(dim=-1) for model in models]
    torch.testing.assert_close(found.exp(), torch.stack(each).mean(dim=0), atol=1e-6, rtol=0)
    assert math.isclose(float(found[0, 0].exp().sum()), 1.0, rel_tol=1e-5)


def test_captions_are_no_longer_than_every_member_can_read() -> None:
    pair = Ensemble(models=[member(0), member(1, max_seq_len=7)])
    assert pair.positions == 7
    arguments = {"beam_size": 2, "sos": WORDS.sos, "eos": WORDS.eos}
    x = torch.randn(1, 6, config().img_feature_dim)
    assert len(beam_search(pair, x, max_len=8, **arguments).tokens[0][0]) <= 8
    with pytest.raises(UserError, match="captions of 8 tokens, expected at most the model's 7 positions"):
        beam_search(pair, x, max_len=9, **arguments)


def test_members_of_other_vocabularies_are_refused() -> None:
    with pytest.raises(UserError, match=r"vocabularies of \[12, 13\] words, expected one size"):
        Ensemble(models=[member(0, vocab_size=12), member(1, vocab_size=13)])
    with pytest.raises(UserError, match="ensemble of no models"):
        Ensemble(models=[])
