"""The rows of decoding at a tiny size: both sides are run and compared, times are not judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expansionnet.benches import decode as bench_decode
from expansionnet.benches.decode import EOS, Size, beams, problem, same
from expansionnet.config import ModelConfig
from expansionnet.decoding import beam_search

TINY = Size(
    model=ModelConfig(
        is_end_to_end=False,
        model_dim=16,
        N_enc=1,
        N_dec=1,
        ff=16,
        num_heads=2,
        num_exp_enc_list=(3,),
        num_exp_dec=2,
        img_feature_dim=8,
        vocab_size=90,
        max_seq_len=10,
    ),
    tokens=4,
    beams=3,
    words=6,
)


@pytest.mark.parametrize("pictures", [1, 3])
def test_both_ways_give_equal_captions(pictures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    row = beams(pictures, goal=2.0, size=TINY)
    assert row.name == f"beam 3, batch {pictures}"
    assert row.work == pictures
    assert [side.name for side in row.extra] == ["ours, not compiled"]
    assert [goal for goal, _ in row.goals()] == [">= 2x"]


def test_captions_of_the_rows_have_the_greatest_length() -> None:
    model, x = problem(TINY, 2)
    found = beam_search(model, x, beam_size=3, max_len=6, sos=5, eos=EOS)
    assert all(len(best) == 6 for (best,) in found.tokens)


def test_other_captions_or_log_probs_are_not_the_same() -> None:
    model, x = problem(TINY, 2)
    found = beam_search(model, x, beam_size=3, max_len=6, sos=5, eos=EOS)
    assert same(found, found)
    assert not same(replace(found, tokens=found.tokens[::-1]), found)
    assert not same(replace(found, log_probs=found.log_probs + 1e-3), found)


def test_rows_measure_the_published_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(bench_decode, "beams", lambda *pictures, goal: asked.append((*pictures, goal)))
    for row in bench_decode.ROWS.values():
        row()
    assert asked == [(1, 6.0), (8, 8.0)]
    assert Size().model.model_dim == 512
