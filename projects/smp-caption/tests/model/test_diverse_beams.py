"""Diverse beam search with every family of networks: each group has its own place and its own caches."""

from __future__ import annotations

import pytest
import torch

from prunelab.decode import Decoded, decode
from prunelab.decode.reference import beam_search_plain
from prunelab.errors import UserError
from smp_caption.model import Network
from smp_caption.model.decoding import options_of

from ..networks import FAMILIES, pictures, small

INPUTS = pictures(3, 2, 4)
DIVERSE = {"beam_size": 4, "group_size": 2, "diversity_lambda": 0.8}


def found(network: Network, opt: dict[str, float]) -> Decoded:
    with torch.inference_mode():
        return decode(network.step, network.begin(INPUTS), options_of(network.cfg, opt))


@pytest.mark.parametrize("name", FAMILIES)
def test_diverse_beams_are_those_of_the_plain_search(name: str) -> None:
    network = small(name).eval()
    diverse = found(network, DIVERSE)
    with torch.inference_mode():
        expected = beam_search_plain(network.step, network.begin(INPUTS), options_of(network.cfg, DIVERSE))
    assert torch.equal(diverse.tokens, expected.tokens)
    torch.testing.assert_close(diverse.scores, expected.scores)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_group_is_an_ordinary_search_and_the_second_writes_other_captions(name: str) -> None:
    network = small(name).eval()
    diverse, ordinary = found(network, DIVERSE), found(network, {"beam_size": 2})
    assert torch.equal(diverse.tokens[:, :2], ordinary.tokens)
    assert not torch.equal(diverse.tokens[:, 2:], ordinary.tokens)
    same = found(network, {**DIVERSE, "diversity_lambda": 0.0})
    assert torch.equal(same.tokens[:, 2:], same.tokens[:, :2])


@pytest.mark.parametrize("name", FAMILIES)
def test_diverse_beams_are_refused_where_the_original_could_not_run_them(name: str) -> None:
    with pytest.raises(UserError, match="group_size 2 never worked in the original"):
        options_of(small(name).cfg, DIVERSE, original=True)
