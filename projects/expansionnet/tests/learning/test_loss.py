"""The smoothed cross entropy against its definition, and what it does with the logits' memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from expansionnet.learning import loss as module
from expansionnet.learning.loss import smoothed_cross_entropy, word_losses

PAD, WORDS = 3, 11
TARGETS = torch.tensor([[5, 0, 10, PAD], [1, PAD, PAD, PAD]])


def logits(dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(2, 4, WORDS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (3 * values).to(dtype).requires_grad_()


def divergences(x: Tensor, smoothing: float) -> Tensor:
    """KL(q ‖ p) of every word whose target is not padding, one after the other."""
    log_p = x.double().log_softmax(-1)
    found = []
    for row, column in (TARGETS != PAD).nonzero().tolist():
        q = torch.full((WORDS,), smoothing / (WORDS - 1), dtype=torch.float64)
        q[TARGETS[row, column]] = 1 - smoothing
        found.append(torch.special.xlogy(q, q).sum() - (q * log_p[row, column]).sum())
    return torch.stack(found)


@pytest.mark.parametrize("chunk", [1, 3 * WORDS, 2**19])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_loss_and_gradient_are_those_of_the_divergence(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, overwrite: bool, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    for mean in (True, False):
        x, mirror = logits(), logits()
        expected = divergences(mirror, smoothing).mean() if mean else divergences(mirror, smoothing).sum()
        found = smoothed_cross_entropy(
            x.clone(), TARGETS, pad=PAD, smoothing=smoothing, mean=mean, overwrite=overwrite
        )
        torch.testing.assert_close(found, expected)
        (3 * found).backward()
        (3 * expected).backward()
        torch.testing.assert_close(x.grad, mirror.grad)


def test_the_least_loss_is_zero() -> None:
    q = torch.full((1, WORDS), 0.2 / (WORDS - 1), dtype=torch.float64)
    q[0, 4] = 0.8
    found = smoothed_cross_entropy(q.log(), torch.tensor([4]), pad=PAD, smoothing=0.2)
    assert float(found) == pytest.approx(0.0, abs=1e-12)


def test_without_smoothing_it_is_the_negative_log_probability() -> None:
    x = logits()
    picked = x.log_softmax(-1).gather(2, TARGETS.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(word_losses(x, TARGETS), -picked)


def test_a_chunk_of_large_logits_stays_finite() -> None:
    x = (1e4 * torch.eye(4)).requires_grad_()
    word_losses(x, torch.tensor([1, 1, 1, 1]), smoothing=0.1).sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_half_precision_is_summed_in_float32() -> None:
    x = logits(torch.bfloat16)
    found = smoothed_cross_entropy(x, TARGETS, pad=PAD, smoothing=0.1)
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(divergences(x.detach(), 0.1).mean()), rel=1e-5)
    found.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_the_gradient_takes_the_place_of_the_logits_where_that_is_allowed() -> None:
    for overwrite in (True, False):
        x = logits() * 1.0
        places: list[int] = []
        x.register_hook(lambda gradient, places=places: places.append(gradient.data_ptr()))
        smoothed_cross_entropy(x, TARGETS, pad=PAD, smoothing=0.1, overwrite=overwrite).backward()
        assert (places == [x.data_ptr()]) is overwrite


def test_whoever_needs_overwritten_logits_gets_an_error() -> None:
    x = logits() * 1.0
    other = x.square().sum()
    loss = smoothed_cross_entropy(x, TARGETS, pad=PAD, smoothing=0.1, overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + other).backward()


def test_no_matrix_besides_the_logits_is_kept() -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = logits() * 1.0
    with torch.autograd.graph.saved_tensors_hooks(note, note):
        smoothed_cross_entropy(x, TARGETS, pad=PAD, smoothing=0.1)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel()]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]
    assert math.prod(x.shape) > TARGETS.numel()
