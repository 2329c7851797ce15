"""Every pruning method around a loop of one's own: three lines, then a plain network with zeros."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunelab import mask
from prunelab.errors import UserError
from prunelab.mask import Gradual, GradualSchedule, Pruning, Supermask

STEPS = 60


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))


def task(model: nn.Module, step: int) -> Tensor:
    """A batch's loss of learning the product of the first two inputs."""
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).device)
    return (model(x).squeeze(1) - x[:, 0] * x[:, 1]).square().mean()


def train(pruning: Pruning, steps: int = STEPS, first: int = 0) -> list[float]:
    """The three lines; the sparsity after each step."""
    optimizer = torch.optim.Adam(pruning.parameter_groups(), lr=0.01)
    found = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        (task(pruning.model, step) + pruning.loss()).backward()
        optimizer.step()
        pruning.step()
        found.append(pruning.report().sparsity)
    return found


def zeros(model: nn.Module, names: list[str]) -> float:
    weights = [model.get_parameter(name) for name in names]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


METHODS: dict[str, Callable[[nn.Module], Pruning]] = {
    "supermask": lambda m: Pruning.supermask(m, 0.8, steps=200),
    "gradual": lambda m: Pruning.gradual(m, 0.8, steps=STEPS),
    "magnitude": lambda m: Pruning.magnitude(m, 0.8),
    "lottery": lambda m: Pruning.lottery(m, 0.8, initial=m.state_dict(), scheme="blind"),
    "snip": lambda m: Pruning.snip(m, 0.8, batches=range(2), loss=lambda step: task(m, step)),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_ends_with_a_plain_network_of_the_wanted_sparsity(method: str) -> None:
    model = network()
    keys = list(model.state_dict())
    pruning = METHODS[method](model)
    train(pruning, 200 if method == "supermask" else STEPS)
    predicted = model.eval()(torch.ones(1, 6))
    assert pruning.finish() is model
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert list(model.state_dict()) == keys
    found = zeros(model, ["0.weight", "2.weight", "4.weight"])
    assert found == pytest.approx(0.8, abs=0.03)
    assert pruning.report().sparsity == pytest.approx(found)
    assert torch.equal(model(torch.ones(1, 6)), predicted)


def test_gradual_pruning_grows_in_the_first_half_and_lets_weights_come_back() -> None:
    pruning = Pruning.gradual(network(), 0.8, steps=STEPS)
    before: dict[str, Tensor] = {}
    returned = 0
    found = []
    for step in range(STEPS):
        found += train(pruning, 1, step)
        now = {name: value.detach().clone() for name, value in pruning.masks.items()}
        returned += sum(int(((now[name] == 1) & (before[name] == 0)).sum()) for name in before)
        before = now
    assert found == sorted(found)
    assert found[4] == 0
    assert 0 < found[14] < 0.8
    assert found[29] == found[-1] == pytest.approx(0.8, abs=0.01)
    assert returned > 0


@pytest.mark.parametrize("steps", [4, 7, 40, 1000, 10_007])
def test_the_default_schedule_fits_any_length_of_a_run(steps: int) -> None:
    schedule = Pruning.gradual(nn.Linear(3, 3), 0.5, steps=steps).schedule
    assert 1 <= schedule.start <= math.ceil(steps / 10)
    assert schedule.intervals <= 99
    assert 0.4 * steps - 1 <= schedule.end <= steps / 2
    assert schedule.sparsity_at(schedule.end) == 0.5


def test_a_lottery_goes_back_to_its_first_weights_under_the_masks_of_the_trained_ones() -> None:
    model = network()
    initial = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(20):
        optimizer.zero_grad()
        task(model, step).backward()
        optimizer.step()
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    pruning = Pruning.lottery(model, 0.5, initial=initial)
    for name, wanted in mask.magnitude(
        {"0.weight_pruning_mask": trained["0.weight"]}, 0.5, "uniform"
    ).items():
        assert torch.equal(pruning.masks[name], wanted)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in initial.items())
    with pytest.raises(UserError, match=r"initial weight 0\.bias is absent: expected \(16,\)"):
        pruning.rewind({name: value for name, value in initial.items() if name != "0.bias"})
    with pytest.raises(UserError, match=r"initial weight 4\.weight is \(2, 16\): expected \(1, 16\)"):
        pruning.rewind({**initial, "4.weight": torch.zeros(2, 16)})


def test_snip_keeps_what_the_loss_needs_most_and_leaves_no_gradient_or_mode_behind() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5]]))
    inputs = torch.tensor([[4.0, -1.0, 0.1, 1.0]])
    layer.weight.requires_grad_()
    model = nn.Sequential(layer, nn.Dropout(0.0)).eval()
    # dL/dmask = weight * input: 4, 2, 0.3, 0.5 for the sum of two equal batches, halved
    pruning = Pruning.snip(model, 0.5, batches=[inputs, inputs], loss=lambda x: model(x).sum())
    assert pruning.masks["0.weight_pruning_mask"].tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert not model.training
    assert not any(m.training for m in model)
    assert all(p.grad is None for p in model.parameters())
    assert not pruning.masks["0.weight_pruning_mask"].requires_grad
    found = pruning.mask_gradients([inputs, inputs], lambda x: model(x).sum())
    assert found["0.weight_pruning_mask"].tolist() == [pytest.approx([8.0, 4.0, 0.6, 1.0])]
    with pytest.raises(UserError, match="at least one batch: got none"):
        pruning.prune_by_snip(0.5, [], lambda x: model(x).sum())


def test_signed_snip_ranks_by_the_gradient_over_its_sum() -> None:
    layer = mask.MaskedLinear(4, 1, bias=False, mask=mask.MaskSpec(kind="fixed"))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-3.0, 1.0, 0.5, -0.1]]))
    pruning = Pruning(layer)
    pruning.prune_by_snip(0.5, [torch.ones(1, 4)], lambda x: layer(x).sum(), signed=True)
    assert layer.weight_pruning_mask.tolist() == [[1.0, 0.0, 0.0, 1.0]]  # the sum is negative
    pruning.prune_by_snip(0.5, [torch.ones(1, 4)], lambda x: layer(x).sum())
    assert layer.weight_pruning_mask.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_a_layer_that_the_loss_does_not_reach_counts_as_needed_least() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    pruning = Pruning.snip(model, 0.5, batches=[torch.ones(1, 2)], loss=lambda x: model[0](x).sum())
    assert pruning.report().each == {"0.weight_pruning_mask": 0.0, "1.weight_pruning_mask": 1.0}
    assert pruning.report().crowded() == ["1.weight_pruning_mask"]


def test_a_network_with_zeros_is_trained_on_with_them() -> None:
    model = network()
    Pruning.magnitude(model, 0.5).finish()
    where = {name: value == 0 for name, value in model.state_dict().items() if name.endswith("weight")}
    pruning = Pruning.keep(model)
    train(pruning, 5)
    pruning.finish()
    assert all(torch.equal(model.state_dict()[name] == 0, zero) for name, zero in where.items())
    masked = mask.convert(network(), mask.MaskSpec(kind="fixed"))
    mask.assign(masked, {"0.weight_pruning_mask": torch.eye(16)[:, :6]})
    assert Pruning.keep(masked).report().kept["0.weight_pruning_mask"] == 6


def test_layers_are_left_out_by_name_by_a_module_around_them_and_by_class() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 2)), nn.Linear(2, 2)
    )

    def masked(*leave_out: Any) -> list[str]:
        pruning = Pruning.magnitude(model, 0.5, leave_out=leave_out)
        names = [name.removesuffix(".weight_pruning_mask") for name in pruning.masks]
        pruning.finish()
        return names

    assert masked() == ["0", "1.0", "1.1", "2"]
    assert masked("1.0") == ["0", "1.1", "2"]
    assert masked("1") == ["0", "2"]
    assert masked(nn.Linear, nn.Conv2d) == ["1.1"]
    assert masked("1", nn.Conv2d) == ["2"]
    with pytest.raises(UserError, match=r"leave_out '1\.3' is no layer of the model: did you mean 1\."):
        masked("1.3")
    with pytest.raises(UserError, match="has no layer to mask"):
        masked("0", "1", "2")


def test_mask_logits_have_an_optimizer_group_of_their_own_and_fixed_masks_none() -> None:
    pruning = Pruning.supermask(network(), 0.5, steps=10, weight=16.0)
    plain, published = pruning.parameter_groups(), pruning.parameter_groups(lr=100.0, eps=0.01)
    assert [len(group["params"]) for group in plain] == [6, 3]
    assert {k: v for k, v in plain[1].items() if k != "params"} == {
        "lr": 1.0,
        "weight_decay": 0.0,
        "eps": pytest.approx(16 * 10 / (2 * 368 * 800)),
    }
    assert (published[1]["lr"], published[1]["eps"]) == (100.0, 0.01)
    assert [len(group["params"]) for group in Pruning.magnitude(network(), 0.5).parameter_groups()] == [6]


@pytest.mark.parametrize("method", ["supermask", "gradual"])
def test_a_run_that_is_resumed_goes_on_as_if_it_had_never_stopped(method: str) -> None:
    whole, first = METHODS[method](network()), METHODS[method](network())
    for pruning in (whole, first):
        torch.manual_seed(3)
        train(pruning, 10)
    saved = copy.deepcopy((first.model.state_dict(), first.state_dict()))
    again = METHODS[method](network())
    again.model.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for pruning in (whole, again):
        torch.manual_seed(4)
        train(pruning, 10, 10)
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


def test_masks_in_a_scope_stay_and_count_in_the_report() -> None:
    model = mask.convert(network(), mask.MaskSpec(kind="fixed"))
    pruning = Pruning(model, scope=("0.",))
    pruning.prune_by_magnitude(0.5, "uniform")
    assert pruning.report().each == {
        "0.weight_pruning_mask": 0.0,
        "2.weight_pruning_mask": 0.5,
        "4.weight_pruning_mask": 0.5,
    }
    assert str(pruning.report()).splitlines()[-1] == " 36.96 %  of 368 masked weights are 0, 232 are kept"
    with pytest.raises(UserError, match="scope '0,2,4' freezes every mask"):
        Pruning(model, scope=("0", "2", "4"))


def test_what_does_not_fit_together_is_said_in_one_line() -> None:
    supermasks = mask.convert(network(), mask.MaskSpec())
    with pytest.raises(UserError, match="has masks of 0 kinds: expected one"):
        Pruning(network())
    with pytest.raises(UserError, match="has masks of kind supermask already: expected fixed"):
        Pruning.magnitude(supermasks, 0.5)
    with pytest.raises(
        UserError, match="Gradual got a model with masks of kind 'supermask': expected 'fixed'"
    ):
        Gradual(supermasks, schedule=GradualSchedule(target=0.5, start=1, intervals=1), scheme="blind")
    with pytest.raises(UserError, match="Pruning got a model with masks of kind 'supermask'"):
        Pruning(supermasks).prune_by_magnitude(0.5, "uniform")
    fixed = mask.convert(network(), mask.MaskSpec(kind="fixed"))
    with pytest.raises(UserError, match="Supermask got a model with masks of kind 'fixed'"):
        Supermask(fixed, target=0.5, weight=1.0, max_step=1)
    with pytest.raises(UserError, match=r"sparsity target 1\.0 is out of range"):
        Pruning.supermask(network(), 1.0, steps=1)
    with pytest.raises(UserError, match="has 0 intervals"):
        Pruning.gradual(network(), 0.5, steps=3)


def test_a_step_whose_layers_run_often_draws_each_mask_once() -> None:
    layer = mask.convert(nn.LSTMCell(3, 4), mask.MaskSpec(init=0.0))
    pruning = Pruning(layer)
    with pruning.drawing():
        assert torch.equal(layer.effective("weight_hh"), layer.effective("weight_hh"))
    assert pruning.loss() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_each_method_works_on_a_gpu_as_on_the_cpu(method: str) -> None:
    here, there = METHODS[method](network()), METHODS[method](network().cuda())
    for pruning in (here, there):
        train(pruning, 20)
    for name, value in here.masks.items():
        assert there.masks[name].is_cuda
        if method != "supermask":  # whose draws differ
            assert float((there.masks[name].cpu() != value).float().mean()) < 0.02
    assert not mask.masks(there.finish())


# --- the page ---


def examples() -> list[str]:
    page = Path(__file__).resolve().parents[4] / "docs" / "pruning.md"
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_pages_example_prunes_a_torchvision_network_and_packs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"batches": [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))] * 4}
    exec(examples()[0], names)
    found = names["pruning"].report()
    assert found.sparsity == pytest.approx(0.9, abs=1e-3)
    assert capsys.readouterr().out.splitlines()[-1].startswith(" 90.00 %  of ")
    plain, again = names["model"].state_dict(), names["again"].state_dict()
    assert all(map(torch.equal, plain.values(), again.values()))
    masked = [name.removesuffix(mask.MASK_SUFFIX) for name in found.sizes]
    assert not {"conv1.weight", "fc.weight"} & set(masked)
    assert zeros(names["again"], masked) == pytest.approx(0.9, abs=1e-3)
    assert (tmp_path / "resnet18.plp").stat().st_size < 0.11 * 4 * sum(map(torch.numel, plain.values()))


def test_the_pages_one_line_a_method_runs() -> None:
    lines = examples()[1].splitlines()
    assert len(lines) == 6
    for line in lines:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
        names = {"model": model, "initial": copy.deepcopy(model.state_dict())}
        names |= {"Pruning": Pruning, "cross_entropy": nn.functional.cross_entropy}
        names["batches"] = [(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))] * 3
        assert isinstance(eval(line, names), Pruning)
        assert len(mask.masks(model)) == 2
