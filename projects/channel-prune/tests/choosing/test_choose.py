"""The whole choice: what it leaves alone, what it improves, resuming, networks that cannot be traced."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.choosing.choose import Choice, Progress, choose
from channel_prune.choosing.frontier import Traced, frontier
from channel_prune.choosing.frontier_hooks import Hooked
from channel_prune.choosing.prunable import prunable
from channel_prune.choosing.recalibrate import recalibrate
from channel_prune.config import NetConfig, PruneConfig
from channel_prune.model import build
from prunelab.errors import UserError

ORIGINAL: dict[str, Any] = {
    "selection": "ista",
    "reconstruction": "adam",
    "sample_mode": "train",
    "positions": "crops",
    "compensate_shortcut": False,
    "recalibrate": 0,
}


def pictures(count: int = 48, size: int = 16) -> list[Tensor]:
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return list(F.interpolate(coarse, size, mode="bicubic").split(16))


class Plain(nn.Module):
    """Three convolutions with norms and dropout; one that looks at values cannot be traced."""

    def __init__(self, *, looks: bool = False, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.looks = looks
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, stride=2, bias=bias), nn.BatchNorm2d(12)
        self.drop = nn.Dropout2d(0.2)
        self.conv3 = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.looks and x.sum() > 1e9:
            return x
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv3(self.drop(F.relu(self.norm2(self.conv2(x)))))


def trained(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    recalibrate(model, batches)
    return model.eval()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return build(NetConfig(name="resnet_v1", resnet_size=8, width_divisor=2))


def config(**options: Any) -> PruneConfig:
    return PruneConfig(**{"nb_smpls": 48, "nb_crops_per_smpl": 12, **options})


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def difference(one: nn.Module, other: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        return float(torch.cat([(one(x) - other(x)).flatten() for x in batches]).square().mean())


def test_nothing_to_prune_changes_nothing() -> None:
    batches = pictures()
    model = trained(Plain(), batches)
    before = copy.deepcopy(model)
    choice = choose(model, batches, config(prune_ratio=0.0))
    assert states_equal(model, before)
    assert choice.kept == {"conv1": [0, 1, 2], "conv2": list(range(8)), "conv3": list(range(12))}


@pytest.mark.parametrize("make", [Plain, residual])
def test_kept_channels_are_those_with_weights_and_the_fit_is_better_than_none(
    make: Callable[[], nn.Module],
) -> None:
    batches = pictures(size=32)
    full = trained(make(), batches)
    errors = {}
    for reconstruction in ("ridge", "none"):
        model = copy.deepcopy(full)
        choice = choose(model, batches, config(reconstruction=reconstruction))
        errors[reconstruction] = difference(model, full, batches)
        for record in choice.records:
            weight = model.get_submodule(record.name).weight
            assert torch.nonzero(weight.abs().sum((0, 2, 3))).flatten().tolist() == record.kept
            assert len(record.kept) == record.target
            assert record.loss_after <= record.loss_before * (1 + 1e-9)
        assert not model.training
    assert errors["ridge"] < errors["none"]


def test_the_exact_fit_has_the_lowest_loss_on_the_same_rows() -> None:
    batches = pictures()
    full = trained(Plain(), batches)
    losses = {}
    for name, options in {"exact": {"selection": "lasso", "reconstruction": "ridge"}, "original": {}}.items():
        choice = choose(copy.deepcopy(full), batches, config(**{**ORIGINAL, **options}))
        losses[name] = choice.records[1].loss_after
    assert losses["exact"] < losses["original"]


@pytest.mark.parametrize("options", [{}, ORIGINAL, {"positions": "all"}, {"sample_mode": "train"}])
def test_a_choice_that_is_resumed_anywhere_ends_bit_for_bit_the_same(options: dict[str, Any]) -> None:
    batches = pictures(32)
    full = trained(residual() if not options else Plain(), batches)
    kept: dict[str, Any] = {}

    def once(key: str, work: Callable[[], Any]) -> Any:
        if key not in kept:
            if len(kept) == limit:
                raise KeyboardInterrupt
            kept[key] = work()
        return kept[key]

    whole = copy.deepcopy(full)
    expected = choose(whole, batches, config(**options))
    for limit in range(len(expected.records) + 2):  # noqa: B007 - `once` reads it
        model = copy.deepcopy(full)
        with contextlib.suppress(KeyboardInterrupt):
            found = choose(model, batches, config(**options), once=once)
    assert found.kept == expected.kept
    assert states_equal(model, whole)


@pytest.mark.parametrize("options", [{}, ORIGINAL])
def test_a_network_that_cannot_be_traced_is_pruned_the_same(options: dict[str, Any]) -> None:
    batches = pictures(32)
    # Only the graph says that a constant may be added before a norm; to a bias it always may.
    models = [trained(Plain(looks=looks, bias=True), batches) for looks in (False, True)]
    for model in models:
        model.drop.p = 0.0  # the way through the network is another: what is dropped would be, too
    names = [layer.name for layer in prunable(models[0], batches[0][:1])]
    kinds = [type(frontier(model, batches[0][:1], names, batches)) for model in models]
    assert kinds == [Traced, Hooked]
    kept = [choose(model, batches, config(**options)).kept for model in models]
    assert kept[0] == kept[1]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_every_layer_runs_once_for_the_whole_choice() -> None:
    batches = pictures(32)
    model = trained(residual(), batches)
    names = [layer.name for layer in prunable(model, batches[0][:1])]
    counts = dict.fromkeys(names, 0)
    walk = frontier(model, batches[0][:1], names, batches)

    def count(name: str) -> Callable[..., None]:
        return lambda *_: counts.update({name: counts[name] + 1})

    for name in names:
        model.get_submodule(name).register_forward_hook(count(name))
    for name in names:
        assert sum(1 for _ in walk.to(name)) == len(batches)
    assert counts == {name: len(batches) if name != names[-1] else 0 for name in names}


@pytest.mark.parametrize(
    ("name", "options"), [("blocks", {}), ("blocks", ORIGINAL), ("dropout", ORIGINAL), ("in place", {})]
)
def test_without_memory_for_maps_layers_are_computed_again_and_nothing_changes(
    name: str, options: dict[str, Any]
) -> None:
    batches = pictures(48, 32 if name == "in place" else 16)
    made = {"blocks": residual, "dropout": Plain, "in place": lambda: timm.create_model("test_resnet")}[name]
    model = trained(made(), batches)
    found = []
    for memory in (None, 3e-4, 0.0):
        pruned = copy.deepcopy(model)
        choose(pruned, batches, config(**options, sample_memory=memory))
        found.append(pruned)
    assert states_equal(found[0], found[1])
    assert states_equal(found[0], found[2])


def test_what_is_kept_is_what_fits() -> None:
    batches = pictures(32)
    model = trained(residual(), batches)
    names = [layer.name for layer in prunable(model, batches[0][:1])]
    walk = frontier(model, batches[0][:1], names, batches, memory=10.0)
    assert isinstance(walk, Traced)
    for name in names:
        assert [number for number, _, _ in walk.to(name)] == [0, 1]
        assert walk._values == [{}, {}]
    largest = 2 * 8 * 16 * 16 * 4  # bytes of a picture in the first block: its input, and what is added to it
    assert max(walk._sizes) == largest
    whole = frontier(model, batches[0][:1], names, batches, memory=32.0 * largest)
    assert isinstance(whole, Traced)
    for name in names:
        assert sum(1 for _ in whole.to(name)) == 2
        assert all(whole._values)


@pytest.mark.parametrize("selection", ["l1", "random", "lasso", "ista"])
def test_every_selection_leaves_the_target(selection: str) -> None:
    batches = pictures(32)
    model = trained(Plain(), batches)
    choice = choose(model, batches, config(selection=selection, prune_ratio=0.7, round_to=2))
    assert [len(kept) for kept in choice.kept.values()][1:] == [2, 4]


def test_a_layer_keeps_one_channel_with_a_warning() -> None:
    batches = pictures(32)
    model = trained(Plain(), batches)
    with pytest.warns(UserWarning, match="conv1: a ratio of 0.9 would leave 0 of 3 channels; 1 stay"):
        choice = choose(model, batches, config(ratio_list=(0.9, 0.0, 0.0)))
    assert len(choice.kept["conv1"]) == 1


def test_a_network_whose_values_are_not_finite_is_refused() -> None:
    batches = pictures(32)
    model = trained(Plain(), batches)
    nn.init.constant_(model.norm1.weight, float("inf"))
    with pytest.raises(UserError, match=r"conv2: (what the network computes there|unable to recover)"):
        choose(model, batches, config())


def test_progress_is_told_and_records_survive_a_json_file() -> None:
    batches = pictures(32)
    model = trained(Plain(), batches)
    told: list[Progress] = []
    choice = choose(model, batches, config(), on_layer=told.append)
    assert [(one.done, one.total) for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].seconds_left == 0
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice
    assert choice.records[-1].pr_krn > choice.records[0].pr_krn
