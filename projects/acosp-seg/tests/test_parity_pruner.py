"""The library acosp against recorded numbers: counts, masks, temperatures, a small network's training."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import acosp.inject
from acosp.masking import Form, set_form
from acosp.pruner import SoftTopKPruner
from acosp.soft_topk import ChannelMaskLayer, SigmoidSoftTopK, temperature_at
from acosp.structure import apply_structure, phase, structure
from testing.parity import Folder, of_kind

from .filling import check, fill

pytestmark = pytest.mark.parity


@of_kind("k_schedule")
def test_as_many_channels_stay_as_in_the_original(folder: Folder) -> None:
    for path in folder.find("*.json"):
        table = folder.json(path.name)
        if "rows" not in table:
            continue
        columns = {name: place for place, name in enumerate(table["columns"])}
        for row in table["rows"]:
            pruner = SoftTopKPruner(
                row[columns["final_sparsity"]],
                10,
                min_remaining_elements=row[columns["min_remaining_elements"]],
            )
            model = nn.Sequential(nn.Conv2d(1, row[columns["out_channels"]], 1, device="meta"))
            pruner.configure_model(model)
            assert model[0][1].k == row[columns["k"]], row


def _cases(folder: Folder) -> dict[str, dict[str, Any]]:
    return folder.json("cases.json")


def _layer(case: dict[str, Any], logits: Tensor) -> SigmoidSoftTopK:
    layer = SigmoidSoftTopK(case["C"], case["k"], initial_temperature=case["tau"])
    layer.to(getattr(torch, case["dtype"]))
    with torch.no_grad():
        layer.weight.copy_(logits)
    return layer


@of_kind("mask_values")
def test_masks_their_gradients_and_their_logs_agree(folder: Folder) -> None:
    arrays = folder.arrays("*.npz")
    for name, case in _cases(folder).items():
        layer = _layer(case, arrays[f"{name}_logits"])
        mask = layer.current_mask()
        tau = case["tau"]
        torch.testing.assert_close(
            mask.detach(), arrays[f"{name}_mask"].to(mask), rtol=0, atol=1e-6 if tau >= 0.1 else 1e-4
        )
        assert torch.equal(layer.mask, mask.detach())
        assert layer.x_0.item() == pytest.approx(case["x0"], abs=1e-5)
        assert mask.requires_grad == case["grad_exists"]
        if case["grad_exists"]:
            (mask * arrays[f"{name}_v"].to(mask)).sum().backward()
            torch.testing.assert_close(
                layer.weight.grad,
                arrays[f"{name}_grad"].to(mask),
                rtol=1e-3,
                atol=1e-5 * max(1, 1 / tau) * 0.1,
            )
        logs = layer.get_logs()
        assert list(logs) == list(case["logs"])
        assert logs == pytest.approx(case["logs"], abs=1e-5)


@of_kind("mask_values")
def test_hard_masks_are_those_of_the_original(folder: Folder) -> None:
    arrays = folder.arrays("*.npz")
    for name, case in _cases(folder).items():
        expected = arrays[f"{name}_hard"]
        for stored in (True, False):
            layer = _layer(case, arrays[f"{name}_logits"])
            layer.current_mask()
            model = nn.Sequential(layer)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                acosp.inject.soft_to_hard_k(model, stored_mask=stored)
            hard = model[0].mask
            if stored:
                assert bool(caught) == case["warned"]
                assert hard.sum() == case["hard_sum"]
                assert torch.equal(hard, expected.to(hard))
            else:
                assert not caught
                assert hard.sum() == case["k"]
                if not case["warned"]:
                    assert torch.equal(hard, expected.to(hard))


@of_kind("temperature")
def test_temperatures_agree(folder: Folder) -> None:
    for path in folder.find("*.json"):
        schedules = folder.json(path.name)
        for schedule in schedules if isinstance(schedules, list) else []:
            starting, ending = schedule["starting"], schedule["ending"]
            found = [
                temperature_at(
                    epoch,
                    starting_epoch=starting,
                    ending_epoch=ending,
                    initial=schedule["initial"],
                    final=schedule["final"],
                )
                for epoch in range(len(schedule["T_of_epoch"]))
            ]
            assert found == pytest.approx(schedule["T_of_epoch"], rel=1e-9)
            pruner = SoftTopKPruner(
                0.5,
                ending,
                starting_epoch=starting,
                initial_temp=schedule["initial"],
                final_temp=schedule["final"],
            )
            model = nn.Sequential(nn.Conv2d(1, 16, 1))
            pruner.configure_model(model)
            used = []
            for epoch in range(len(schedule["T_used_while_training_epoch"])):
                used.append(model[0][1].current_temperature)
                pruner.update_mask_layers(model, epoch)
            assert used == pytest.approx(schedule["T_used_while_training_epoch"], rel=1e-9)


# --- the small network ---


class SmallNet(nn.Module):
    """The network of `small_net`; everything that could differ comes from the folder's settings."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        width = facts["channels"]
        self.stem = nn.Conv2d(3, width["stem"], 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width["stem"])
        self.mid = nn.Conv2d(width["stem"], width["mid"], 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(width["mid"])
        self.flagged = nn.Conv2d(width["mid"], width["flagged"], 1)
        self.head = nn.Conv2d(width["flagged"], width["head"], 1)
        for name in facts["unprunable"]:
            getattr(self, name).unprunable = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H / 2, W / 2)."""
        x = self.bn1(self.stem(x)).relu()
        x = self.bn2(self.mid(x)).relu()
        return self.head(self.flagged(x).relu())


class Calls:
    """Keeps what `collect_logs` hands over."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((step, metrics))


class Training:
    """The recorded training, step by step."""

    def __init__(self, folder: Folder, mode: str, form: Form = "auto") -> None:
        self.facts = facts = folder.facts
        self.mode = mode
        self.data = folder.arrays("data.npz")
        self.log = folder.json("log.json")[mode]
        self.net = SmallNet(facts)
        self.model = nn.ModuleDict({"module": self.net})  # the names under which the original logs
        self.pruner = self.make_pruner()
        self.pruner.configure_model(self.net)
        set_form(self.net, form)
        fill(self.net, prefix=folder.facts.get("fill_prefix", ""))
        self.optimizer = torch.optim.SGD(
            [{"params": list(getattr(self.net, name).parameters())} for name in facts["groups"]],
            momentum=facts["momentum"],
            weight_decay=facts["weight_decay"],
        )

    def make_pruner(self) -> SoftTopKPruner:
        facts = self.facts
        return SoftTopKPruner(
            facts["sparsity"],
            facts["ending_epoch"],
            starting_epoch=facts["starting_epoch"],
            min_remaining_elements=facts["min_remaining_elements"],
            initial_temp=facts["initial_temp"],
            final_temp=facts["final_temp"],
            stored_mask=True,
            **facts["modes"][self.mode],
        )

    def masks(self) -> dict[str, ChannelMaskLayer]:
        return {n: m for n, m in self.model.named_modules() if isinstance(m, ChannelMaskLayer)}

    def expect(self, values: Tensor, key: str, kind: str) -> None:
        expected = self.data.get(f"{self.mode}_{key}")
        if expected is not None:
            torch.testing.assert_close(
                values.detach(), expected, **self.facts["tolerance"][kind], msg=lambda m: f"{key}: {m}"
            )

    @torch.no_grad()
    def expect_eval(self, key: str, kind: str, model: nn.Module | None = None) -> None:
        model = (model or self.net).eval()
        self.expect(model(self.data["x"][0]), key, kind)
        model.train()

    def step(self, number: int) -> None:
        """One iteration with the checks of the first, of the first after conversion, and of every one."""
        facts, record = self.facts, self.log[number]
        layers = self.masks()
        for layer in layers.values():
            if isinstance(layer, SigmoidSoftTopK):
                assert layer.current_temperature == pytest.approx(record["temperature"], rel=1e-9)
        logits = self.net(self.data["x"][number])
        loss = F.cross_entropy(logits, self.data["y"][number], ignore_index=facts["ignore_label"])
        self.optimizer.zero_grad()
        loss.backward()
        for at, name, kind in (
            ("first_iteration", "first", "first"),
            ("posthard_iteration", "posthard", "end"),
        ):
            if number == facts[at]:
                self.expect(logits, f"logits_{name}", kind)
                for key, parameter in self.model.named_parameters():
                    if parameter.grad is not None:
                        self.expect(parameter.grad, f"grad_{name}_{key}", kind)
        for group, rate in zip(self.optimizer.param_groups, record["lr"], strict=True):
            group["lr"] = rate
        self.optimizer.step()
        end = facts["tolerance"]["end"]
        assert loss.item() == pytest.approx(record["loss"], rel=end["rtol"], abs=end["atol"])
        assert set(record["mask_checks"]) == set(layers)
        for name, expected in record["mask_checks"].items():
            np.testing.assert_allclose(check(layers[name].mask), expected, **end)

    def harden(self) -> None:
        """The conversion, with the checks around it."""
        self.expect_eval("eval_before_hard", "end")
        self.pruner.on_pruning_end(self.net)
        for name, layer in self.masks().items():
            expected = self.data.get(f"{self.mode}_hard_{name}")
            assert expected is None or torch.equal(layer.mask, expected), name
        self.expect_eval("eval_after_hard", "end")


def _modes(folder: Folder) -> list[str]:
    return list(folder.facts["modes"])


def _checkpoint(folder: Folder, mode: str, name: str) -> dict[str, Any] | None:
    facts = folder.facts["checkpoints"].get(name)
    path = folder.path / facts["file"].format(mode=mode) if facts else None
    return torch.load(path, weights_only=True) if path is not None and path.exists() else None


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in state.items()}


@pytest.mark.parametrize("form", get_args(Form))
@of_kind("small_net")
def test_a_small_network_trains_prunes_and_logs_as_in_the_original(folder: Folder, form: Form) -> None:
    facts = folder.facts
    for mode in _modes(folder):
        training = Training(folder, mode, form)
        initial = _checkpoint(folder, mode, "initial")
        if initial is not None:
            mine, theirs = training.model.state_dict(), initial["state_dict"]
            assert list(mine) == list(theirs)
            for key, value in theirs.items():
                torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-7)
        training.expect_eval("eval_fresh", "first")
        for epoch in range(facts["epochs"]):
            if epoch == facts["ending_epoch"]:
                training.harden()
            for i in range(facts["iterations_per_epoch"]):
                training.step(epoch * facts["iterations_per_epoch"] + i)
            logger = Calls()
            training.pruner.collect_logs(logger, training.model, epoch)
            expected = training.log[(epoch + 1) * facts["iterations_per_epoch"] - 1]["collect_logs"]
            for (step, found), (recorded_step, values) in zip(logger.calls, expected, strict=True):
                assert step == recorded_step
                assert list(found) == list(values)
                assert found == pytest.approx(values, rel=2e-3, abs=2e-4)
            training.pruner.update_mask_layers(training.model, epoch)
            _expect_checkpoint(folder, training, epoch + 1)
        for key, value in training.model.state_dict().items():
            training.expect(value, f"end_{key}", "end")
        training.expect_eval("eval_end", "end")
        _expect_other_forms(folder, training)


def _expect_checkpoint(folder: Folder, training: Training, epoch: int) -> None:
    """What was saved after so many epochs has our keys, our values and our optimiser's indices."""
    for name, facts in folder.facts["checkpoints"].items():
        saved = _checkpoint(folder, training.mode, name) if facts["epoch"] == epoch else None
        if saved is None or epoch == 0:
            continue
        state = training.model.state_dict()
        assert phase(training.net) == facts["phase"]
        assert list(state) == list(saved["state_dict"])
        for key, value in saved["state_dict"].items():
            torch.testing.assert_close(state[key], value, **folder.tolerance["end"], msg=key)
        mine = training.optimizer.state_dict()
        groups = [group["params"] for group in saved["optimizer"]["param_groups"]]
        assert [group["params"] for group in mine["param_groups"]] == groups
        assert set(mine["state"]) == set(saved["optimizer"]["state"])


def _expect_other_forms(folder: Folder, training: Training) -> None:
    """The finished network as bare convolutions, and with those channels alone that stay."""
    state, plain = training.net.state_dict(), structure(training.net)

    def again() -> SmallNet:
        net = SmallNet(folder.facts)
        apply_structure(net, plain)
        net.load_state_dict(state)
        return net

    net = again()
    acosp.inject.hard_to_conv(net)
    training.expect_eval("hard_to_conv_eval", "end", net)
    training.expect(net.stem.weight, "hard_to_conv_stem_weight", "end")
    net = again()
    acosp.inject.soft_to_channel_sparse(net)
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert shapes == folder.json("log.json")[f"{training.mode}_sparse_keys"]
    training.expect_eval("channel_sparse_eval", "end", net)


@of_kind("small_net")
def test_checkpoints_of_the_original_load_strictly_in_every_phase(folder: Folder) -> None:
    for mode in _modes(folder):
        for name, facts in folder.facts["checkpoints"].items():
            saved = _checkpoint(folder, mode, name)
            if saved is None:
                continue
            training = Training(folder, mode)
            if facts["phase"] == "hard":
                training.net.train()(training.data["x"][0])
                training.pruner.on_pruning_end(training.net)
            net = SmallNet(folder.facts)
            apply_structure(net, structure(training.net))
            net.load_state_dict(_stripped(saved["state_dict"]), strict=True)
            assert phase(net) == facts["phase"]
            if name == "final":
                training.expect_eval("eval_end", "end", net)


@of_kind("small_net")
def test_before_any_forward_the_published_way_keeps_every_channel_and_ours_does_not(folder: Folder) -> None:
    expected = folder.json("log.json").get("hard_before_any_forward_mask_sums")
    training = Training(folder, _modes(folder)[0])
    wanted = [layer.k for layer in training.masks().values()]
    with pytest.warns(UserWarning, match="do not keep the wanted number"):
        training.pruner.on_pruning_end(training.net)
    sums = [layer.mask.sum().item() for layer in training.masks().values()]
    assert expected is None or sums == expected
    training = Training(folder, _modes(folder)[0])
    acosp.inject.soft_to_hard_k(training.net)
    assert [layer.mask.sum().item() for layer in training.masks().values()] == wanted
