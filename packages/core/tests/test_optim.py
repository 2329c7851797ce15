import math

import pytest
import torch
from torch import nn

from prunelab.optim import (
    NonFiniteError,
    Schedule,
    carry_state,
    cosine,
    guarded_step,
    noam,
    piecewise,
    poly,
    staircase,
    step,
)


def test_noam_rises_to_its_warm_up_and_falls_with_the_root():
    # 0.5 * 16**-0.5 = 0.125; at s = 4 = warm-up both branches give 4**-0.5 = 0.5
    assert noam(4, d_model=16, factor=0.5, warmup=4) == pytest.approx(0.0625)
    assert noam(1, d_model=16, factor=0.5, warmup=4) == pytest.approx(0.125 / 8)
    assert noam(16, d_model=16, factor=0.5, warmup=4) == pytest.approx(0.125 / 4)
    assert noam(1, d_model=512) == pytest.approx(512**-0.5 * 1e-6)


def test_cosine_goes_from_base_to_minimum_and_stays():
    def at(s):
        return cosine(s, base=0.5, minimum=0.1, total=100)

    assert at(0) == pytest.approx(0.5)
    assert at(50) == pytest.approx(0.3)
    assert at(100) == at(500) == pytest.approx(0.1)
    assert at(25) == pytest.approx(0.1 + 0.4 * (1 + math.sqrt(0.5)) / 2)


def test_step_falls_every_few_epochs_after_its_start():
    rates = [step(epoch, base=1.0, start=1, every=2, rate=0.5) for epoch in range(7)]
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert step(9, base=1.0, start=-1) == 1.0


def test_a_piecewise_rate_changes_after_its_bound():
    rates = [piecewise(s, bounds=[2, 4], values=[1.0, 0.5, 0.25]) for s in range(7)]
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert piecewise(9, bounds=[], values=[3.0]) == 3.0
    with pytest.raises(ValueError, match="2 bounds and 2 values; expected one value more"):
        piecewise(0, bounds=[1, 2], values=[1.0, 2.0])


def test_a_staircase_falls_at_every_step_of_it():
    assert [staircase(s, base=8.0, rate=0.5, every=3) for s in (0, 2, 3, 5, 6)] == [8.0, 8.0, 4.0, 4.0, 2.0]


def test_poly_falls_to_zero():
    assert poly(0, base=2.0, total=10) == 2.0
    assert poly(5, base=2.0, total=10, power=2.0) == pytest.approx(0.5)
    assert poly(10, base=2.0, total=10) == poly(11, base=2.0, total=10) == 0.0


def test_a_schedule_counts_its_calls_and_leaves_marked_groups_alone():
    weight, mask = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [weight]}, {"params": [mask], "lr": 100.0, "pruning_mask": True}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = Schedule(optimizer, lambda s: 1.0 / s, skip_key="pruning_mask")
    assert [schedule.step() for _ in range(3)] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1 / 3), 100.0]
    assert schedule.step(at=10) == 0.1
    other = Schedule(optimizer, lambda s: 1.0 / s)
    other.load_state_dict(schedule.state_dict())
    assert (other.count, other.lr) == (4, 0.1)
    assert other.step() == 0.2


def parameters_with(*gradients):
    params = [nn.Parameter(torch.ones(len(gradient))) for gradient in gradients]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    return params, torch.optim.SGD(params, lr=1.0, momentum=0.9)


def test_a_guarded_step_clips_by_norm_as_torch_does():
    params, optimizer = parameters_with([3.0, 0.0], [0.0, 4.0])
    result = guarded_step(optimizer, params, clip=1.0)
    assert result
    assert result.norm == 5.0
    torch.testing.assert_close(params[0].detach(), torch.tensor([1 - 0.6, 1.0]))
    torch.testing.assert_close(params[1].detach(), torch.tensor([1.0, 1 - 0.8]))


def test_a_guarded_step_clips_by_value_or_by_a_function():
    params, optimizer = parameters_with([3.0, -0.05])
    guarded_step(optimizer, params, clip=("value", 0.1))
    torch.testing.assert_close(params[0].detach(), torch.tensor([0.9, 1.05]))

    def halve(with_gradient):
        for param in with_gradient:
            param.grad.mul_(0.5)

    params, optimizer = parameters_with([1.0, 1.0])
    unused = nn.Parameter(torch.ones(1))
    guarded_step(optimizer, [*params, unused], clip=halve)
    assert params[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_leaves_weights_and_state_alone(bad):
    params, optimizer = parameters_with([1.0, bad], [1.0])
    assert not guarded_step(optimizer, params, clip=1.0, on_nonfinite="skip")
    word = "nan" if math.isnan(bad) else "inf"
    with pytest.raises(
        NonFiniteError, match=rf"gradient is {word} in 1 of 2 parameters .*\(2,\).*expected finite"
    ):
        guarded_step(optimizer, params)
    assert [param.tolist() for param in params] == [[1.0, 1.0], [1.0]]
    assert not optimizer.state


def test_large_finite_values_whose_square_overflows_are_still_finite():
    params, optimizer = parameters_with([1e30, 1e30])
    result = guarded_step(optimizer, params)
    assert result
    assert result.norm == math.inf
    assert params[0][0] == -1e30


def test_a_step_without_gradients_is_a_step():
    param = nn.Parameter(torch.ones(1))
    assert guarded_step(torch.optim.SGD([param], lr=1.0), [param], clip=1.0).norm == 0.0


def two_optimizers(kind, **options):
    torch.manual_seed(0)
    wide, slim = nn.Linear(3, 4), nn.Linear(3, 2)
    old = kind(wide.parameters(), **options)
    wide(torch.randn(5, 3)).square().mean().backward()
    old.step()
    return wide, slim, old, kind(slim.parameters(), **options)


def test_momentum_follows_parameters_by_name_and_is_cut_like_them():
    wide, slim, old, new = two_optimizers(torch.optim.Adam, lr=0.1)
    before, after = dict(wide.named_parameters()), dict(slim.named_parameters())
    carried = carry_state(old, new, before, after, lambda name, value: value[[1, 3]])
    assert carried == ["weight", "bias"]
    assert torch.equal(new.state[slim.weight]["exp_avg"], old.state[wide.weight]["exp_avg"][[1, 3]])
    assert new.state[slim.bias]["step"] == 1
    new.state[slim.bias]["exp_avg"].zero_()
    assert old.state[wide.bias]["exp_avg"].abs().sum() > 0


def test_momentum_of_another_shape_is_refused_and_new_names_start_fresh():
    wide, slim, old, new = two_optimizers(torch.optim.SGD, lr=0.1, momentum=0.9)
    before, after = dict(wide.named_parameters()), dict(slim.named_parameters())
    with pytest.raises(
        ValueError, match=r"'momentum_buffer' of 'weight' has shape \(4, 3\); expected \(2, 3\)"
    ):
        carry_state(old, new, before, after)
    assert carry_state(old, new, {}, after) == []
    assert not new.state
