"""Masked layers against plain ones, against autograd, and against values worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.mask import (
    MaskedConv2d,
    MaskedEmbedding,
    MaskedLinear,
    MaskedLSTMCell,
    MaskSpec,
    draw_once,
    freeze,
    masked_layers,
    masks,
    parse_scope,
    round_mask,
    sample_mask,
    use_samples,
    weights_of,
)
from prunelab.mask import layers as mask_layers

SUPER = MaskSpec()

Pair = tuple[Callable[[], nn.Module], Callable[[MaskSpec], nn.Module], Callable[[], Tensor]]

LAYERS: dict[str, Pair] = {
    "linear": (
        lambda: nn.Linear(5, 3),
        lambda spec: MaskedLinear(5, 3, mask=spec),
        lambda: torch.randn(4, 2, 5),
    ),
    "linear without bias": (
        lambda: nn.Linear(5, 3, bias=False),
        lambda spec: MaskedLinear(5, 3, bias=False, mask=spec),
        lambda: torch.randn(5),
    ),
    "embedding": (
        lambda: nn.Embedding(7, 3, padding_idx=0),
        lambda spec: MaskedEmbedding(7, 3, padding_idx=0, mask=spec),
        lambda: torch.tensor([[1, 1, 6], [0, 2, 1]]),
    ),
    "lstm cell": (
        lambda: nn.LSTMCell(5, 4),
        lambda spec: MaskedLSTMCell(5, 4, mask=spec),
        lambda: torch.randn(3, 5),
    ),
    "lstm cell without batch": (
        lambda: nn.LSTMCell(5, 4, bias=False),
        lambda spec: MaskedLSTMCell(5, 4, bias=False, mask=spec),
        lambda: torch.randn(5),
    ),
    "convolution": (
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, padding_mode="reflect"),
        lambda spec: MaskedConv2d(2, 4, 3, stride=2, padding=1, groups=2, padding_mode="reflect", mask=spec),
        lambda: torch.randn(2, 2, 6, 6),
    ),
}

each_layer = pytest.mark.parametrize("pair", LAYERS.values(), ids=LAYERS.keys())


def first(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return out if isinstance(out, Tensor) else torch.stack(out)


def built_from_one_seed(pair: Pair, spec: MaskSpec) -> tuple[nn.Module, nn.Module, Tensor]:
    plain, masked, example = pair
    torch.manual_seed(3)
    one = plain()
    after_plain = torch.rand(1)
    torch.manual_seed(3)
    two = masked(spec)
    assert torch.equal(torch.rand(1), after_plain)  # masks draw nothing
    return one, two, example()


@each_layer
@pytest.mark.parametrize("spec", [MaskSpec(init=math.inf), MaskSpec(kind="fixed")], ids=["super", "fixed"])
@pytest.mark.parametrize("training", [True, False])
def test_with_all_masks_one_a_masked_layer_equals_the_plain_one(
    pair: Pair, spec: MaskSpec, training: bool
) -> None:
    plain, masked, example = built_from_one_seed(pair, spec)
    plain.train(training)
    masked.train(training)
    assert torch.equal(first(plain(example)), first(masked(example)))
    first(plain(example)).square().sum().backward()
    first(masked(example)).square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(masked.get_parameter(name).grad, parameter.grad)


@each_layer
def test_masks_stand_after_torchs_parameters_and_have_their_first_value(pair: Pair) -> None:
    plain, masked, _ = built_from_one_seed(pair, SUPER)
    names = [name for name, _ in plain.named_parameters()]
    expected = names + [f"{name}_pruning_mask" for name in names if name.startswith("weight")]
    assert [name for name, _ in masked.named_parameters()] == expected
    assert list(masks(masked)) == expected[len(names) :]
    for name, weight in weights_of(masked).items():
        mask = masked.get_parameter(name)
        assert mask.shape == weight.shape
        assert mask.requires_grad
        assert bool((mask == 5).all())


@each_layer
def test_evaluation_multiplies_by_the_rounded_mask_and_gradients_are_those_of_the_formula(pair: Pair) -> None:
    plain, masked, example = built_from_one_seed(pair, SUPER)
    masked.eval()
    torch.manual_seed(0)
    for mask in masks(masked).values():
        mask.data.normal_()
        mask.data.view(-1)[0] = 0.0
    state = plain.state_dict()
    for name, mask in masks(masked).items():
        state[name.removesuffix("_pruning_mask")] *= mask > 0
    plain.load_state_dict(state)
    assert torch.equal(first(plain(example)), first(masked(example)))
    first(plain(example)).square().sum().backward()
    first(masked(example)).square().sum().backward()
    for name, mask in masks(masked).items():
        weight = weights_of(masked)[name]
        upstream = plain.get_parameter(name.removesuffix("_pruning_mask")).grad  # dL/d(masked weight)
        assert upstream is not None
        s = torch.sigmoid(mask.detach())
        torch.testing.assert_close(weight.grad, upstream * (mask > 0))
        torch.testing.assert_close(mask.grad, upstream * weight.detach() * s * (1 - s))


def test_the_mask_is_one_only_above_zero() -> None:
    logits = torch.tensor([-math.inf, -8.0, -1e-30, 0.0, -0.0, 1e-30, 8.0, math.inf, math.nan])
    assert round_mask(logits).tolist() == [False, False, False, False, False, True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_infinite_logits_are_certain(dtype: torch.dtype) -> None:
    logits = torch.tensor([math.inf, -math.inf] * 50_000, dtype=dtype)
    assert sample_mask(logits).view(-1, 2).tolist() == [[True, False]] * 50_000


def test_samples_have_the_sigmoid_as_their_mean_and_follow_the_seed() -> None:
    logits = torch.tensor([-3.0, -1.0, 0.0, 1.0, 5.0])
    torch.manual_seed(1)
    drawn = sample_mask(logits.expand(20_000, 5))
    # four standard deviations of a mean of 20,000
    assert bool(((drawn.float().mean(0) - torch.sigmoid(logits)).abs() < 4 * 0.5 / 20_000**0.5).all())
    torch.manual_seed(1)
    assert torch.equal(drawn, sample_mask(logits.expand(20_000, 5)))


def test_bypass_leaves_the_sigmoid_out_of_the_gradient() -> None:
    layer = MaskedLinear(3, 1, bias=False, mask=MaskSpec(init=0.5, bypass_sigmoid_grad=True)).eval()
    layer(torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(
        layer.get_parameter("weight_pruning_mask").grad,
        layer.weight.detach() * torch.tensor([[1.0, 2.0, 3.0]]),
    )


def test_a_fixed_mask_has_a_gradient_only_when_asked_for() -> None:
    frozen = MaskedLinear(3, 2, mask=MaskSpec(kind="fixed"))
    frozen(torch.randn(4, 3)).sum().backward()
    assert frozen.get_parameter("weight_pruning_mask").grad is None
    asking = MaskedLinear(3, 2, bias=False, mask=MaskSpec(kind="fixed", trainable=True))
    asking(torch.ones(1, 3)).sum().backward()
    torch.testing.assert_close(asking.get_parameter("weight_pruning_mask").grad, asking.weight.detach())


@each_layer
def test_every_call_in_training_draws_anew_and_draw_once_does_not(pair: Pair) -> None:
    _, masked, example = built_from_one_seed(pair, MaskSpec(init=0.0))
    torch.manual_seed(5)
    different = {tuple(first(masked(example)).flatten().tolist()) for _ in range(8)}
    assert len(different) > 1
    assert not any(layer.is_held for _, layer in masked_layers(masked))
    with draw_once(masked):
        assert all(layer.is_held for _, layer in masked_layers(masked))
        same = {tuple(first(masked(example)).flatten().tolist()) for _ in range(8)}
    assert len(same) == 1


def test_one_token_has_one_sample_in_a_call() -> None:
    layer = MaskedEmbedding(4, 50, mask=MaskSpec(init=0.0))
    rows = layer(torch.tensor([[2, 1], [3, 2]]))
    assert torch.equal(rows[0, 0], rows[1, 1])
    assert not torch.equal(rows[0, 0] == 0, rows[0, 1] == 0)


def test_rows_that_do_not_occur_have_gradients_of_exactly_zero() -> None:
    for held in (False, True):
        layer = MaskedEmbedding(5, 3, mask=SUPER)
        if held:
            with draw_once(layer):
                layer(torch.tensor([1, 3, 1])).sum().backward()
        else:
            layer(torch.tensor([1, 3, 1])).sum().backward()
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert bool((parameter.grad[[0, 2, 4]] == 0).all())
            assert bool((parameter.grad[[1, 3]] != 0).any())


@each_layer
def test_given_samples_are_used_at_every_call_with_the_right_gradients(pair: Pair) -> None:
    plain, masked, example = built_from_one_seed(pair, MaskSpec(init=0.7))
    torch.manual_seed(0)
    samples = {name: torch.randint(0, 2, mask.shape) for name, mask in masks(masked).items()}
    state = plain.state_dict()
    for name, sample in samples.items():
        state[name.removesuffix("_pruning_mask")] *= sample
    plain.load_state_dict(state)
    with use_samples(masked, samples):
        for _ in range(3):
            torch.testing.assert_close(first(masked(example)), first(plain(example)), rtol=0, atol=0)
            first(masked(example)).square().sum().backward()
    first(plain(example)).square().sum().backward()
    s = 1 / (1 + math.exp(-0.7))
    for name, sample in samples.items():
        upstream = plain.get_parameter(name.removesuffix("_pruning_mask")).grad
        weight = weights_of(masked)[name]
        assert upstream is not None
        torch.testing.assert_close(weight.grad, 3 * upstream * sample)
        torch.testing.assert_close(
            masked.get_parameter(name).grad, 3 * upstream * weight.detach() * s * (1 - s)
        )


def test_a_loop_inside_draw_once_equals_calls_with_its_sample() -> None:
    torch.manual_seed(0)
    cell = MaskedLSTMCell(3, 2, mask=MaskSpec(init=0.3))
    inputs = torch.randn(6, 4, 3)

    def run(module: MaskedLSTMCell) -> Tensor:
        state = None
        for step in inputs:
            state = module(step, state)
        assert state is not None
        return state[0].sum()

    with draw_once(cell):
        run(cell).backward()
        run(cell).backward()  # a second backward pass on the same sample
        drawn = {name: cell.binary_mask(name) for name in cell.masked_names}
        shared = cell.effective_weights()
        assert shared[0] is cell.effective_weights()[0]
    twin = copy.deepcopy(cell)
    twin.zero_grad()
    for _ in range(2):
        with use_samples(twin, {f"{name}_pruning_mask": mask for name, mask in drawn.items()}):
            run(twin).backward()
    for one, two in zip(cell.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_draw_once_sees_an_optimizer_step_and_a_change_of_mode() -> None:
    torch.manual_seed(0)
    layer = MaskedLinear(4, 3, mask=MaskSpec(init=0.0))
    x = torch.randn(2, 4)
    with draw_once(layer):
        before = layer(x)
        kept = layer.binary_mask("weight")
        with torch.no_grad():
            layer.weight.mul_(2)
        torch.testing.assert_close(layer(x) - layer.bias, 2 * (before - layer.bias))
        assert torch.equal(layer.binary_mask("weight"), kept)
        layer.eval()
        assert torch.equal(layer(x), layer.bias.expand(2, 3))  # a logit of 0 prunes
        with torch.inference_mode():
            layer(x)
        layer.train()
        layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_an_embedding_inside_draw_once_draws_rows_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = MaskedEmbedding(9, 40, mask=MaskSpec(init=0.0))
    drawn: list[int] = []
    monkeypatch.setattr(mask_layers, "sample_mask", lambda m: drawn.append(len(m)) or sample_mask(m))
    with torch.no_grad():
        layer.weight.fill_(1)
    with draw_once(layer):
        with torch.inference_mode():
            first = layer(torch.tensor([[4, 2], [4, 8]])).clone()
        second = layer(torch.tensor([8, 3, 2]))
        assert drawn == [3, 1]
        assert torch.equal(first[0, 0], first[1, 0])
        assert torch.equal(second[[0, 2]], torch.stack([first[1, 1], first[0, 1]]))
        whole = layer.binary_mask("weight")
        assert drawn == [3, 1, 9]
        assert torch.equal(whole[[8, 3, 2]].float(), second)
        assert torch.equal(layer(torch.arange(9)), whole.float())
        assert drawn == [3, 1, 9]
    with draw_once(layer):
        assert not torch.equal(layer(torch.tensor([8, 3, 2])), second)


def test_contexts_nest_and_end_with_an_error() -> None:
    layer = MaskedLinear(30, 30, mask=MaskSpec(init=0.0))
    with draw_once(layer):
        outer = layer.binary_mask("weight")
        with draw_once(layer):
            assert not torch.equal(layer.binary_mask("weight"), outer)
        with pytest.raises(RuntimeError, match="stop"), use_samples(layer, {}):
            raise RuntimeError("stop")
        assert torch.equal(layer.binary_mask("weight"), outer)
    assert not torch.equal(layer.binary_mask("weight"), outer)


def test_frozen_masks_are_rounded_or_still_sampled() -> None:
    model = nn.Sequential(MaskedLinear(40, 40, mask=MaskSpec(init=1.0)), MaskedLinear(40, 40, mask=SUPER))
    sampled, rounded = copy.deepcopy(model), copy.deepcopy(model)
    scope = parse_scope(" 0. ,")
    assert scope == ("0.",)
    assert parse_scope(None) == ()
    assert freeze(sampled, scope, sampled=True) == ["0.weight_pruning_mask"]
    assert freeze(rounded, scope) == ["0.weight_pruning_mask"]
    for frozen in (sampled, rounded):
        assert [m.requires_grad for m in masks(frozen).values()] == [False, True]
    layers = [dict(masked_layers(m))["0"] for m in (sampled, rounded)]
    assert 0 < int(layers[0].binary_mask("weight").sum()) < 1600
    assert bool(layers[1].binary_mask("weight").all())
    with pytest.raises(UserError, match=r"'core\.' fits no mask: expected a prefix of one of 0\.weight_"):
        freeze(model, ("core.",))


def test_resetting_a_cell_leaves_its_masks() -> None:
    cell = MaskedLSTMCell(3, 2, mask=SUPER)
    before = cell.weight_hh.clone()
    cell.reset_parameters()
    assert not torch.equal(cell.weight_hh, before)
    assert bool((cell.get_parameter("weight_hh_pruning_mask") == 5).all())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"nothing": torch.ones(2, 3)}, "names no mask"),
        ({"weight_pruning_mask": torch.ones(3, 2)}, r"has shape \(3, 2\): expected \(2, 3\)"),
        ({"weight_pruning_mask": torch.full((2, 3), 0.5)}, "other than 0 and 1"),
    ],
)
def test_unfit_samples_are_refused(samples: dict[str, Tensor], message: str) -> None:
    layer = MaskedLinear(3, 2, mask=SUPER)
    with pytest.raises(UserError, match=message), use_samples(layer, samples):
        pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "soft"}, "mask kind 'soft' is unknown"),
        ({"init": math.nan}, "not a number"),
        ({"kind": "fixed", "bypass_sigmoid_grad": True}, "no meaning for a fixed mask"),
    ],
)
def test_unfit_specs_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskSpec(**fields)  # type: ignore[arg-type]


def test_a_layer_says_what_mask_it_has() -> None:
    layer = MaskedLinear(3, 2, mask=SUPER)
    assert str(layer) == "MaskedLinear(in_features=3, out_features=2, bias=True, mask=supermask)"


def test_an_embedding_that_is_drawn_once_can_be_compiled() -> None:
    layer = MaskedEmbedding(9, 40, mask=MaskSpec(init=0.0))
    ids, compiled = torch.tensor([1, 5, 1]), torch.compile(layer, backend="eager")
    with draw_once(layer):
        rows = compiled(ids)
        assert torch.equal(rows, layer(ids))
    assert (rows == 0).any()
