"""The compiled masks against torch's operations, and their draws against what chance allows."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from prunelab.mask import MaskedEmbedding, MaskedLinear, MaskSpec, draw_once, fused, sample_mask, use_samples
from prunelab.mask.supermask import masked_weight, round_mask, through_sigmoid

SHAPE = (300, 401)  # an odd number of elements to a row, and not a whole number of blocks


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the kernels unused from here on."""
    monkeypatch.setattr(fused, "LEAST", 2**62)


def within(found: Tensor, expected: Tensor, count: int) -> bool:
    """Whether means of ``count`` draws lie within five and a half deviations of their probability."""
    spread = (expected * (1 - expected) / count).sqrt()
    return bool(((found - expected).abs() <= 5.5 * spread + 1e-12).all())


def test_kept_shares_are_the_sigmoid_for_small_and_large_logits() -> None:
    logits = torch.tensor([-9.0, -5.0, -2.0, -0.3, 0.0, 0.7, 3.0, 5.0, 8.0])
    torch.manual_seed(0)
    kept = sample_mask(logits.unsqueeze(1).expand(-1, 400_000)).double().mean(1)
    assert within(kept, torch.sigmoid(logits.double()), 400_000)


def test_rare_outcomes_keep_their_probability_and_certain_ones_are_certain() -> None:
    rare = torch.tensor([-14.0, 14.0, -12.0, 12.0]).unsqueeze(1).expand(-1, 2**22)
    torch.manual_seed(1)
    drawn = sample_mask(rare)
    seen = torch.stack([drawn[0], ~drawn[1], drawn[2], ~drawn[3]]).sum(1)
    expected = torch.tensor([14.0, 14.0, 12.0, 12.0]).neg().sigmoid() * 2**22
    assert bool(((seen - expected).abs() <= 5.5 * expected.sqrt()).all())
    certain = torch.tensor([math.inf, 24.0, -math.inf, math.nan]).repeat(2**20)
    assert sample_mask(certain).view(-1, 4).float().mean(0).tolist() == [1, 1, 0, 0]


def test_draws_are_independent_between_elements_calls_and_layers() -> None:
    torch.manual_seed(2)
    draws = torch.stack([sample_mask(torch.zeros(2**18)) for _ in range(6)]).float() * 2 - 1
    count = draws[0].numel()
    between = draws @ draws.t() / count
    assert bool((between.fill_diagonal_(0).abs() < 5.5 / count**0.5).all())
    for lag in (1, 2, 3, 512, 1024, 2048):
        assert abs(float((draws[:, lag:] * draws[:, :-lag]).mean())) < 5.5 / (6 * count) ** 0.5
    assert within(draws.mean(1) / 2 + 0.5, torch.full((6,), 0.5), count)
    # The bits of neighbours, eight at a time, are spread evenly over the 256 patterns.
    patterns = (draws.view(-1, 8) > 0).float() @ 2.0 ** torch.arange(8)
    counts = torch.bincount(patterns.long(), minlength=256).double()
    mean = float(counts.mean())
    assert float(((counts - mean) ** 2 / mean).sum()) < 255 + 5.5 * (2 * 255) ** 0.5


@pytest.mark.usefixtures("threads")
def test_draws_follow_the_seed_and_the_state_whatever_the_threads_and_the_layout() -> None:
    logits = normal(3, (640, 1001))
    torch.manual_seed(4)
    state = torch.get_rng_state()
    one = sample_mask(logits)
    assert not torch.equal(one, sample_mask(logits))
    torch.set_rng_state(state)
    torch.set_num_threads(3)
    assert torch.equal(one, sample_mask(logits.t().contiguous().t()))


def test_given_masks_have_the_products_and_gradients_of_torch_in_double_precision() -> None:
    upstream, keep = normal(7), normal(8) > 0.3
    found = []
    for dtype in (torch.float32, torch.float64):
        weight, logits = (x.to(dtype).requires_grad_() for x in (normal(5), 3 * normal(6)))
        out = masked_weight(weight, logits, keep)
        out.backward(upstream.to(dtype))
        found.append(
            [out.detach().float(), *(x.grad.float() for x in (weight, logits) if x.grad is not None)]
        )
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_gradient_alone_is_the_same(wanted: tuple[bool, bool]) -> None:
    both = normal(5).requires_grad_(), normal(6).requires_grad_()
    masked_weight(*both, round_mask(both[1])).backward(normal(7))
    one = normal(5).requires_grad_(wanted[0]), normal(6).requires_grad_(wanted[1])
    masked_weight(*one, round_mask(one[1])).backward(normal(7))
    for a, b, asked in zip(one, both, wanted, strict=True):
        assert (a.grad is not None) == asked
        if asked:
            torch.testing.assert_close(a.grad, b.grad)


def test_one_number_passes_the_sigmoid_like_a_tensor_of_it() -> None:
    logits = 4 * normal(9)
    fast = through_sigmoid(torch.tensor(-3.7), logits)
    plain = through_sigmoid(torch.full(SHAPE, -3.7).double(), logits.double())
    torch.testing.assert_close(fast.double(), plain, rtol=2e-6, atol=1e-9)


def test_layers_agree_with_torchs_way_on_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linear, table = (
        MaskedLinear(200, 128, mask=MaskSpec(init=0.4)),
        MaskedEmbedding(300, 200, mask=MaskSpec()),
    )
    ids = torch.randint(0, 300, (5, 40))
    found: list[list[Tensor]] = []
    with draw_once(linear), draw_once(table):
        samples = [{"weight_pruning_mask": layer.binary_mask("weight")} for layer in (linear, table)]
    for _ in range(2):
        for layer in (linear, table):
            layer.zero_grad()
        with use_samples(linear, samples[0]), use_samples(table, samples[1]):
            out = linear(table(ids))
            out.square().sum().backward()
        gradients = [p.grad for layer in (linear, table) for p in layer.parameters() if p.grad is not None]
        found.append([out.detach(), *gradients])
        plainly(monkeypatch)
    assert len(found[0]) == 1 + 5
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_calls_at_once_have_rows_of_their_own() -> None:
    table = MaskedEmbedding(40, 500, mask=MaskSpec(init=0.0))
    ids = torch.arange(40).repeat(3, 2)
    torch.manual_seed(6)
    kept = table.each(ids) != 0
    assert torch.equal(kept[:, :40], kept[:, 40:])
    assert within(kept[:, :40].double().mean((1, 2)), torch.full((3,), 0.5).double(), 20_000)
    assert abs(float((kept[0] == kept[1]).double().mean()) - 0.5) < 0.02
    table.eval()
    assert torch.equal(table.each(ids), table(ids))


def test_kernels_are_for_large_float32_tensors_of_processors() -> None:
    assert fused.usable(normal(0))
    assert fused.usable(normal(0), normal(0) > 0)
    for other in (normal(0).double(), normal(0, (8, 8)), normal(0).bfloat16(), normal(0).to("meta")):
        assert not fused.usable(other)
    drawn = sample_mask(normal(0).double())
    assert drawn.dtype == torch.bool
    assert 0.4 < float(drawn.double().mean()) < 0.6


def test_memory_is_used_again_only_when_the_last_tensor_on_it_is_gone() -> None:
    shape = torch.Size((700, 801))
    first = fused.fresh(shape)
    place, view = first.data_ptr(), first[1:].t()
    del first
    gc.collect()
    second = fused.fresh(shape)
    assert second.data_ptr() != place
    del view
    gc.collect()
    assert fused.fresh(torch.Size((801, 700))).data_ptr() == place


def test_idle_memory_has_a_limit() -> None:
    memory = fused._Memory(limit=3000)
    held = [memory.tensor(torch.Size((2000,)), dtype) for dtype in (bool, bool)]
    del held
    gc.collect()
    assert memory.bytes <= 3000
