"""The original's decoding options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prunelab.errors import UserError
from smp_caption.config import CAPTION_MODELS, UP_DOWN, ModelConfig
from smp_caption.model.decoding import options_of

CFG = ModelConfig(max_seq_length=9, eos_token_id=7)


def test_empty_options_decode_greedily_within_the_models_limits() -> None:
    options = options_of(CFG, {})
    assert (options.beam_size, options.num_samples, options.max_length, options.eos) == (1, 0, 9, 7)
    assert not options.record_after_end
    assert options_of(CFG, {}, original=True).record_after_end


def test_every_option_is_read_and_those_without_effect_are_passed_over() -> None:
    given: dict[str, Any] = {
        "beam_size": 4,
        "temperature": 2,
        "decoding_constraint": 1,
        "group_size": 2,
        "diversity_lambda": 0.1,
        "length_penalty": "wu_1",
        "remove_bad_endings": 1,
        "suppress_UNK": 1,
        "vocab_size": 3,
    }
    options = options_of(CFG, given)
    assert (options.beam_size, options.group_size, options.temperature) == (4, 2, 2.0)
    assert (options.constraint, options.diversity_lambda, options.length_penalty) == (True, 0.1, "wu_1")
    assert options.forbidden == (CFG.unk_token_id,)
    assert options_of(CFG, {"suppress_UNK": 1}, original=True).forbidden == ()


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ({"beam_size": 4, "group_size": 2}, "group_size 2 never worked"),
        ({"beam_size": 1, "num_random_sample": 5}, "expected beam_size 0"),
    ],
)
def test_what_the_original_refused_is_refused_only_on_request(opt: dict[str, Any], message: str) -> None:
    assert options_of(CFG, opt).max_length == 9
    with pytest.raises(UserError, match=message):
        options_of(CFG, opt, original=True)


def test_bad_endings_stop_only_the_originals_transformers() -> None:
    opt = {"remove_bad_endings": 1}
    for name in CAPTION_MODELS:
        cfg = replace(CFG, caption_model=name)
        assert options_of(cfg, opt).max_length == 9
        if name in UP_DOWN:
            assert options_of(cfg, opt, original=True).max_length == 9
        else:
            with pytest.raises(UserError, match="remove_bad_endings 1 stopped"):
                options_of(cfg, opt, original=True)


def test_samples_are_asked_for_without_a_beam() -> None:
    options = options_of(CFG, {"beam_size": 0, "num_random_sample": 5}, original=True)
    assert options.num_samples == 5
