"""Foreign files of weights: recognised by content, loaded with masks to suit, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from acosp import SoftTopKPruner, phase
from acosp.inject import soft_to_hard_k
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from acosp_seg.model.checkpoint import layout, load_original, read_original
from acosp_seg.model.original import load_optimizer, optimizer_state, write_original
from acosp_seg.model.pspnet import PSPNet
from prunelab.errors import UserError
from prunelab.hub import save_model_folder

SEGNET = ModelConfig(arch="segnet", classes=3, width=4)
PSP = ModelConfig(arch="psp", classes=3, width=4, dropout=0.0)


def _model(kind: str = "dense", cfg: ModelConfig = SEGNET, *, learnable: bool = True) -> Network:
    """A network that has seen one training batch, so that nothing in it is as it was built."""
    model = build(cfg)
    pruner = SoftTopKPruner(0.5, 1, min_remaining_elements=1, learnable_weights=learnable)
    if kind != "dense":
        pruner.configure_model(model)
    model.train().losses(torch.randn(2, 3, 33, 33), torch.randint(0, 3, (2, 33, 33)))
    if kind == "hard":
        soft_to_hard_k(model)
    return model


def _sgd(model: Network) -> torch.optim.SGD:
    base, new = model.groups()
    groups = [{"params": list(model.get_submodule(name).parameters())} for name in (*base, *new)]
    return torch.optim.SGD(groups, 0.01, momentum=0.9, weight_decay=1e-4)


def _step(model: Network, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.train().losses(torch.ones(2, 3, 33, 33), torch.ones(2, 33, 33, dtype=torch.long))[1].backward()
    optimizer.step()


def _output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.linspace(-1, 1, 3 * 33 * 33).view(1, 3, 33, 33))


@pytest.mark.parametrize("have", ["dense", "soft", "hard"])
@pytest.mark.parametrize("stored", ["soft", "hard"])
def test_masked_file_brings_its_kind_of_masks(stored: str, have: str, tmp_path: Path) -> None:
    source, model = _model(stored), _model(have)
    write_original(tmp_path / "a.pth", 7, source)
    report = load_original(model, tmp_path / "a.pth")
    assert phase(model) == stored == report.file.layout
    assert (report.file.kind, report.file.epoch) == ("checkpoint", 7)
    assert not report.missing
    assert not report.unused
    assert torch.equal(_output(model), _output(source))


@pytest.mark.parametrize("have", ["dense", "soft", "hard"])
def test_file_without_masks_leaves_the_networks_masks(have: str, tmp_path: Path) -> None:
    source, model = _model(), _model(have)
    masks = {name: value.clone() for name, value in model.state_dict().items() if name.endswith(".mask")}
    write_original(tmp_path / "a.pth", 7, source)
    report = load_original(model, tmp_path / "a.pth")
    assert phase(model) == have
    assert len(report.loaded) == len(source.state_dict())
    assert len(report.missing) == {"dense": 0, "soft": 50, "hard": 25}[have]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in masks.items())
    if have == "dense":
        assert torch.equal(_output(model), _output(source))


def test_soft_masks_that_are_made_for_a_file_keep_what_it_says_of_them(tmp_path: Path) -> None:
    for learnable in (True, False):
        write_original(tmp_path / "a.pth", 1, _model("soft", learnable=learnable))
        model = build(SEGNET)
        load_original(model, tmp_path / "a.pth")
        layer = model.get_submodule("down3.conv1.cbr_unit.0.1")
        assert layer.k == 8  # half of 16 channels
        assert layer.learnable == learnable


def test_plain_state_dict_and_model_folder_load_too(tmp_path: Path) -> None:
    source = _model("hard")
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    save_model_folder(tmp_path / "folder", {}, source.state_dict(), kind="acosp-seg")
    for name, kind in (("plain.pth", "state dict"), ("folder", "model folder")):
        model = build(SEGNET)
        report = load_original(model, tmp_path / name)
        assert report.file.kind == kind
        assert torch.equal(_output(model), _output(source))


def test_reports_say_what_was_recognised_and_what_was_not_used(tmp_path: Path) -> None:
    write_original(tmp_path / "a.pth", 7, _model("hard"))
    text = str(load_original(build(SEGNET), tmp_path / "a.pth"))
    assert text.endswith(
        "a.pth: a checkpoint of the original: hard masks, next epoch 7, 207 entries; 207 loaded"
    )
    torch.save(_trunk_state(), tmp_path / "trunk.pth")
    text = str(load_original(build(PSP), tmp_path / "trunk.pth"))
    assert "initial weights of a ResNet trunk" in text
    assert "2 not used (fc.weight, ...)" in text
    assert "kept as they were (ppm.features.0.1.weight, ...)" in text


def test_layout_is_told_by_masks_alone() -> None:
    some = torch.zeros(2)
    assert layout({"a.1.weight": some, "a.1.running_mean": some}) == "dense"
    assert layout({"a.1.weight": some, "b.1.mask": some}) == "hard"
    assert layout({"b.1.weight": some, "b.1.mask": some}) == "soft"


# -------------------------------------------------------------------------------------- weights to start from


def _trunk_state(*, deep: bool = True, cfg: ModelConfig = PSP) -> dict[str, Tensor]:
    """A flat file of a trunk, as ``resnet50_v2.pth`` is, or as torchvision's ResNet-50."""
    model = PSPNet(cfg, deep_base=deep)
    places = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}
    state = {}
    for name, value in model.state_dict().items():
        block, _, rest = name.partition(".")
        place, _, last = rest.partition(".")
        if block == "layer0":
            state[f"{places[int(place)]}.{last}"] = value
        elif block.startswith("layer"):
            state[name] = value
    return state | {"fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", ["dense", "soft"])
def test_trunk_starts_pspnet_with_either_stem(deep: bool, kind: str, tmp_path: Path) -> None:
    state = _trunk_state(deep=deep)
    torch.save(state, tmp_path / "trunk.pth")
    model = PSPNet(PSP, deep_base=deep)
    if kind == "soft":
        SoftTopKPruner(0.5, 1, min_remaining_elements=1).configure_model(model)
    report = load_original(model, tmp_path / "trunk.pth")
    own = model.state_dict()
    first = "layer0.0.weight" if kind == "dense" else "layer0.0.0.weight"
    assert torch.equal(own[first], state["conv1.weight"])
    assert torch.equal(own["layer4.2.bn3.running_var"], state["layer4.2.bn3.running_var"])
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    weights = {name for name in report.missing if not name.startswith(("ppm", "cls", "aux"))}
    assert all(".1.mask" in name or name.replace(".1.weight", ".1.mask") in own for name in weights)


def test_torchvisions_resnet_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save(_trunk_state(deep=False), tmp_path / "resnet50.pth")
    with pytest.raises(
        UserError, match=r"resnet50\.pth: a ResNet whose stem is one 7x7 convolution \(as in tor"
    ):
        load_original(build(PSP), tmp_path / "resnet50.pth")
    with pytest.raises(UserError, match=r"initial weights of a ResNet trunk, .* expected weights of SegNet"):
        load_original(build(SEGNET), tmp_path / "resnet50.pth")


def _vgg_state(width: int = 4) -> dict[str, Tensor]:
    """VGG16 as torchvision stores it, with narrower layers."""
    state, before = {}, 3
    layers = [1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8]
    place = 0
    for factor in layers:
        if factor:
            state[f"features.{place}.weight"] = torch.randn(factor * width, before, 3, 3)
            state[f"features.{place}.bias"] = torch.randn(factor * width)
            before = factor * width
        place += 2 if factor else 1
    return state | {"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}


def test_vgg16_starts_segnets_encoder(tmp_path: Path) -> None:
    state = _vgg_state()
    torch.save(state, tmp_path / "vgg16.pth")
    model = build(ModelConfig(arch="segnet", classes=3, width=4, pretrained=str(tmp_path / "vgg16.pth")))
    own = model.state_dict()
    assert torch.equal(own["down1.conv1.cbr_unit.0.weight"], state["features.0.weight"])
    assert torch.equal(own["down5.conv3.cbr_unit.0.bias"], state["features.28.bias"])
    report = load_original(model, tmp_path / "vgg16.pth")
    assert report.file.kind == "vgg16"
    assert len(report.loaded) == 26
    assert set(report.unused) == {"classifier.0.weight", "classifier.0.bias"}


def test_other_vggs_and_other_networks_are_refused(tmp_path: Path) -> None:
    state = _vgg_state()
    torch.save({name: value for name, value in state.items() if "28" not in name}, tmp_path / "vgg13.pth")
    with pytest.raises(UserError, match=r"vgg13\.pth: 12 convolutions, expected the 13 of VGG16"):
        load_original(build(SEGNET), tmp_path / "vgg13.pth")
    with pytest.raises(UserError, match=r"torchvision's VGG16, .* expected weights of PSPNet"):
        load_original(build(PSP), tmp_path / "vgg13.pth")


# -------------------------------------------------------------------------------------------------- bad files


def test_whole_pickled_network_is_refused_without_unpickling_it(tmp_path: Path) -> None:
    torch.save(resnet18(), tmp_path / "model_0.5.pth")
    with pytest.raises(
        UserError, match=r"model_0\.5\.pth: a whole pickled object \(it names torchvision\."
    ) as caught:
        read_original(tmp_path / "model_0.5.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", r"bad\.pth: no file of weights, or cut off"),
        (b"", r"bad\.pth: no file of weights, or cut off"),
        ([1, 2], r"bad\.pth: holds a list, expected a checkpoint or a state dict"),
        ({}, r"bad\.pth: holds no weights"),
        ({"epoch": 3}, r"bad\.pth: entry 'epoch' is a int, expected tensors by name"),
    ],
)
def test_bad_files_are_refused_in_one_line(content: object, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "bad.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=message):
        read_original(tmp_path / "bad.pth")


def test_missing_and_truncated_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        read_original(tmp_path / "absent.pth")
    write_original(tmp_path / "whole.pth", 1, _model())
    (tmp_path / "part.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"part\.pth: no file of weights, or cut off"):
        read_original(tmp_path / "part.pth")


def test_weights_of_another_network_are_told_by_first_names_and_shapes(tmp_path: Path) -> None:
    write_original(tmp_path / "a.pth", 1, _model())
    other = build(ModelConfig(arch="segnet", classes=5, width=4))
    with pytest.raises(
        UserError, match=r"a\.pth: weights of another model: .*up1\.convs\.1.* in the file and"
    ):
        load_original(other, tmp_path / "a.pth")
    write_original(tmp_path / "b.pth", 1, _model("hard"))
    with pytest.raises(UserError, match=r"b\.pth: weights of another model: .*down1\.conv1"):
        load_original(build(PSP), tmp_path / "b.pth")


# -------------------------------------------------------------------------------------------------- optimizer


def test_training_goes_on_from_an_exported_file_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model = _model("soft", PSP)
    optimizer = _sgd(model)
    _step(model, optimizer)
    write_original(tmp_path / "a.pth", 1, model, optimizer)
    again = _model("soft", PSP)
    report = load_original(again, tmp_path / "a.pth")
    later = _sgd(again)
    for group in later.param_groups:
        group["lr"] = 5.0
    assert report.file.optimizer is not None
    assert load_optimizer(again, later, report.file.optimizer, where="a.pth") == ()
    _step(model, optimizer)
    _step(again, later)
    ours, theirs = again.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_optimizers_state_is_that_of_torch_where_groups_are_the_same(tmp_path: Path) -> None:
    model = _model("soft")
    optimizer = _sgd(model)
    _step(model, optimizer)
    write_original(tmp_path / "a.pth", 1, model, optimizer)
    ours, torchs = torch.load(tmp_path / "a.pth", weights_only=True)["optimizer"], optimizer.state_dict()
    assert ours["param_groups"] == torchs["param_groups"]
    assert ours["state"].keys() == torchs["state"].keys()
    for number, entry in torchs["state"].items():
        assert torch.equal(ours["state"][number]["momentum_buffer"], entry["momentum_buffer"])


def test_logits_that_are_gone_keep_their_numbers_but_no_state(tmp_path: Path) -> None:
    soft = _model("soft")
    before = _sgd(soft)
    _step(soft, before)
    soft_state = optimizer_state(soft, before)
    soft_to_hard_k(soft)
    after = _sgd(soft)
    dropped = load_optimizer(soft, after, soft_state, where="here")
    assert len(dropped) == 25
    assert dropped[0] == "down1.conv1.cbr_unit.0.1.weight"
    hard_state = optimizer_state(soft, after)
    numbers = [[group["params"] for group in state["param_groups"]] for state in (soft_state, hard_state)]
    assert numbers[0] == numbers[1]
    assert len(hard_state["state"]) == len(soft_state["state"]) - 25
    never = optimizer_state(soft, after, learnable_weights=False)
    assert sum(len(group["params"]) for group in never["param_groups"]) == len(hard_state["state"])
    assert load_optimizer(soft, _sgd(soft), never, where="here") == ()


def test_state_of_another_networks_optimizer_is_refused() -> None:
    model, other = _model(), _model(cfg=PSP)
    optimizer = _sgd(model)
    _step(model, optimizer)
    saved = optimizer_state(model, optimizer)
    with pytest.raises(UserError, match=r"a\.pth: the optimizer has groups of \[8, 8, 12"):
        load_optimizer(other, _sgd(other), saved, where="a.pth")
    saved["state"][0]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(
        UserError, match=r"a\.pth: momentum_buffer of down1\.conv1.* is \(2,\), expected \(4, 3, 3, 3\)"
    ):
        load_optimizer(model, optimizer, saved, where="a.pth")


def test_adam_of_the_classifier_has_one_group(tmp_path: Path) -> None:
    model = build(ModelConfig(arch="resnet18", classes=3, width=4)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.losses(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))[1].backward()
    optimizer.step()
    saved = optimizer_state(model, optimizer)
    assert len(saved["param_groups"]) == 1
    again = torch.optim.Adam(model.parameters(), 0.5)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.01
    assert load_optimizer(model, torch.optim.Adam(model.parameters(), 0.5), saved, where="a.pth") == ()
