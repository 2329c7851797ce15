"""A prepared captioner finds the captions that it finds unprepared, however compiling went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.config import DecodeConfig, ModelConfig
from expansionnet.decoding import Captions, options, search
from expansionnet.model import ExpansionNet
from expansionnet.model.packed import Prepared, _free_sizes
from prunelab import onednn

from .small import WORDS, config
from .test_decoding import features, talkative

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="nothing is compiled without oneDNN")


def said(model: ExpansionNet | Prepared, x: Tensor, beams: int = 4) -> Captions:
    return search(model, x, options(DecodeConfig(), WORDS, beams, positions=12), outputs=beams)


def assert_same(found: Captions, expected: Captions, atol: float = 1e-5) -> None:
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=atol, rtol=0)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`torch.compile` leaves functions as they are; for each, how often it was called."""
    calls: list[int] = []

    def record(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        place = len(calls)
        calls.append(0)

        def run(*args: Any) -> Any:
            calls[place] += 1
            return function(*args)

        return run

    monkeypatch.setattr(torch, "compile", record)
    return calls


@needs_onednn
def test_the_encoder_and_steps_of_a_single_picture_are_the_compiled_ones(compiled: list[int]) -> None:
    model = talkative()
    prepared, threads = Prepared(model), torch.get_num_threads()
    assert_same(said(prepared, features(1)), said(model, features(1)))
    encoded, *steps = compiled
    assert encoded == 3  # twice to compile it
    first, second, later = steps
    assert (first, second) == (2, 2)  # once to compile them
    assert later > 2
    assert_same(said(prepared, features(3)), said(model, features(3)))
    assert compiled == [encoded + 1, *steps]
    assert_same(
        said(prepared, features(1), 1), said(model, features(1), 1)
    )  # a single beam, but for its start
    assert compiled == [encoded + 2, first + 1, second, later]
    assert torch.get_num_threads() == threads


@needs_onednn
def test_padded_features_are_encoded_the_ordinary_way(compiled: list[int]) -> None:
    model, pads = talkative(), torch.tensor([0, 2])
    prepared, how = Prepared(model), options(DecodeConfig(), WORDS, 4, positions=12)
    found, expected = (search(m, features(2), how, enc_pads=pads) for m in (prepared, model))
    assert_same(found, expected)
    assert compiled[0] == 2


@needs_onednn
def test_a_single_picture_is_decoded_on_one_thread(compiled: list[int]) -> None:
    prepared = Prepared(talkative())
    assert not compiled
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            prepared.encode(features(1))
            for images, expected in ((1, 1), (2, 2)):
                with prepared.threads(images):
                    assert torch.get_num_threads() == expected
                assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@needs_onednn
def test_changed_weights_are_compiled_anew(compiled: list[int]) -> None:
    model = talkative()
    prepared = Prepared(model)
    before = said(prepared, features(1))
    said(prepared, features(1))
    assert len(compiled) == 4
    with torch.no_grad():
        model.vocab_linear.weight.mul_(-1)
    after = said(prepared, features(1))
    assert len(compiled) == 8
    assert after.tokens != before.tokens
    assert_same(after, said(model, features(1)))


def test_double_precision_is_not_compiled(compiled: list[int]) -> None:
    model, x = talkative().double(), features(1).double()
    assert_same(said(Prepared(model), x), said(model, x))
    assert not compiled


@needs_onednn
def test_a_compiler_that_fails_is_named_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    model = talkative()
    prepared = Prepared(model)
    assert_same(said(prepared, features(1)), said(model, features(1)))
    assert_same(said(prepared, features(1)), said(model, features(1)))
    assert caplog.messages == ["captions are decoded without torch.compile, which failed: no compiler here"]


@pytest.mark.parametrize(
    "sizes", [{}, {"num_exp_dec": 5, "num_heads": 2}, {"num_exp_dec": 16, "model_dim": 28}]
)
def test_sizes_of_what_is_compiled_are_all_different(sizes: dict[str, int]) -> None:
    cfg: ModelConfig = config(**sizes)
    rows, visual, words = _free_sizes(cfg)
    every = [rows, visual, words, 1 + rows * (words - 1), cfg.num_exp_dec, cfg.num_heads, cfg.model_dim]
    assert len({*every, cfg.model_dim // cfg.num_heads}) >= len(set(every))
    assert (
        len({rows, visual, words, 1 + rows * (words - 1)} - {*every[4:], cfg.model_dim // cfg.num_heads}) == 4
    )


@pytest.mark.slow
@needs_onednn
def test_what_inductor_compiles_finds_the_same_captions() -> None:
    model = talkative(model_dim=256, ff=256)
    prepared = Prepared(model)
    for pictures, visual in ((1, 6), (1, 9), (3, 9)):
        x = torch.randn(pictures, visual, config().img_feature_dim)
        assert_same(said(prepared, x), said(model, x), atol=3e-4)  # logits of this model reach 20
    assert prepared._compiled is not None
