"""Incremental decoding against reading the whole sentence at every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expansionnet.config import ModelConfig
from expansionnet.model import ExpansionNet, build, cached, prefix
from prunelab import onednn
from prunelab.decode import State

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_model(seed: int, *, dtype: torch.dtype = torch.float32, **sizes: Any) -> ExpansionNet:
    """A captioner in eval mode whose words differ clearly."""
    torch.manual_seed(seed)
    known: dict[str, Any] = {"model_dim": 16, "N_enc": 1, "N_dec": 2, "ff": 24, "num_heads": 4}
    known |= {"num_exp_enc_list": (3, 5), "num_exp_dec": 4, "img_feature_dim": 10, "vocab_size": 20}
    model = build(ModelConfig(is_end_to_end=False, max_seq_len=16, **{**known, **sizes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5) if parameter.dim() > 1 else parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval().to(dtype)


def differences(
    model: ExpansionNet,
    encoded: Tensor,
    pads: Tensor | None,
    *,
    rows: int,
    steps: int,
    maps: cached.Maps | None = None,
) -> list[float]:
    """Greatest difference of the log-probabilities at each step of a search of random choices.

    After the first step every image has ``rows`` rows; at each later one rows are chosen at random, with
    repetition, and after half of the steps the first image leaves.
    """
    ways = [
        (cached.stepper(model, maps), cached.begin(model, encoded, pads)),
        (prefix.stepper(model), prefix.begin(encoded, pads)),
    ]
    images, beams, found = len(encoded), 1, []
    for time in range(steps):
        tokens = torch.randint(model.cfg.vocab_size, (images * beams,))
        with torch.no_grad():
            results = [step(tokens, state) for step, state in ways]
        found.append(float((results[0][0] - results[1][0]).abs().max()))
        gone = int(time == steps // 2 and images > 1)
        chosen = torch.randint(beams, (images, rows))[gone:]
        index = (torch.arange(images)[gone:, None] * beams + chosen).flatten()
        kept = torch.arange(gone, images)
        states: list[State] = [after.select_images(kept).select_rows(index) for _, after in results]
        ways = [(step, state) for (step, _), state in zip(ways, states, strict=True)]
        images, beams = images - gone, rows
    return found


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    double=st.booleans(),
    images=st.integers(1, 3),
    rows=st.integers(1, 4),
    steps=st.integers(1, 12),
    padded=st.booleans(),
    layers=st.integers(1, 3),
    vectors=st.integers(1, 5),
)
def test_log_probs_are_those_of_whole_sentences(
    seed: int, double: bool, images: int, rows: int, steps: int, padded: bool, layers: int, vectors: int
) -> None:
    dtype = torch.float64 if double else torch.float32
    model = random_model(seed, dtype=dtype, N_dec=layers, num_exp_dec=vectors)
    pads = torch.randint(0, 5, (images,)) if padded else None
    with torch.no_grad():
        encoded = model.encode(torch.randn(images, 6, 10, dtype=dtype), pads)
    assert max(differences(model, encoded, pads, rows=rows, steps=steps)) < CLOSE[dtype]


def test_a_state_may_be_continued_twice() -> None:
    model = random_model(1)
    step = cached.stepper(model)
    with torch.no_grad():
        encoded = model.encode(torch.randn(2, 6, 10))
        _, state = step(torch.tensor([1, 2]), cached.begin(model, encoded))
        _, after = step(torch.tensor([3, 4]), state)
        step(torch.tensor([5, 6]), state)
        again, _ = step(torch.tensor([7, 8]), after)
        whole = model.decode(encoded, torch.tensor([[1, 3, 7], [2, 4, 8]]))[:, -1].log_softmax(-1)
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=0)


def test_dropout_plays_no_part() -> None:
    model = random_model(2, dec_drop=0.5, dec_input_drop=0.5, drop_other=0.5)
    with torch.no_grad():
        encoded = model.encode(torch.randn(1, 6, 10))
        found = [
            cached.stepper(mode)(torch.tensor([3]), cached.begin(mode, encoded))[0]
            for mode in (model.train(), model.eval())
        ]
    assert torch.equal(found[0], found[1])


def test_gradients_are_those_of_whole_sentences() -> None:
    model, sentence = random_model(3, dtype=torch.float64), torch.tensor([[2, 5, 7, 4]])
    x = torch.randn(1, 6, 10, dtype=torch.float64)
    wanted = torch.randint(model.cfg.vocab_size, (4,))

    def gradients(log_probs: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        log_probs.gather(1, wanted[:, None]).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    encoded = model.encode(x)
    state, step, rows = cached.begin(model, encoded), cached.stepper(model), []
    for token in sentence.unbind(1):
        log_probs, state = step(token, state)
        rows.append(log_probs)
    found = gradients(torch.cat(rows))
    whole = gradients(model.decode(model.encode(x), sentence)[0].log_softmax(dim=-1))
    assert found.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=1e-7)


# --- oneDNN ---


def large_model() -> ExpansionNet:
    """One whose matrices are large enough for oneDNN."""
    wide = math.isqrt(onednn.LEAST)
    return random_model(4, model_dim=wide, ff=2 * wide, num_exp_enc_list=(wide, 40), vocab_size=wide + 9)


def test_linear_maps_of_onednn_change_nothing_but_rounding() -> None:
    model = large_model()
    x = torch.randn(2, 6, 10)
    with torch.no_grad():
        plain = model.encode(x)
        with onednn.OneDNN():
            encoded = model.encode(x)
            named = torch.nn.functional.linear(x, weight=torch.eye(10), bias=None)
        assert torch.equal(named, x)
        assert (encoded - plain).abs().max() < 1e-5
        assert max(differences(model, encoded, None, rows=3, steps=4)) < 1e-5
