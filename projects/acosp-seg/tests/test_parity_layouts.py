"""Names, shapes and order of stored weights, and the optimizer's numbers, are as in the original's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from acosp import SoftTopKPruner
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from acosp_seg.model.checkpoint import layout, load_original, masked_convs
from acosp_seg.model.original import optimizer_groups
from testing.parity import Folder, of_kind

from .filling import kind_of
from .recorded_networks import hardened

pytestmark = pytest.mark.parity

ARCHS = {"pspnet50": "psp", "segnet": "segnet", "resnet18": "resnet18"}
Entries = list[tuple[str, list[int], str]]


def _state(entries: Entries) -> dict[str, torch.Tensor]:
    """A state dict of these shapes that takes no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape, _ in entries}


def _network(name: str, state: dict[str, Any]) -> Network:
    """The network whose layout an entry of the file describes, on the meta device."""
    arch = next(arch for start, arch in ARCHS.items() if name.startswith(start))
    weights = [value for value in state.values() if value.dim() > 1]
    with torch.device("meta"):
        model = build(ModelConfig(arch=arch, layers=50, classes=weights[-1].shape[0]))
        kind = layout(state)
        if kind != "dense":
            learnable = "not_learnable" not in name
            SoftTopKPruner(0.5, 1, learnable_weights=learnable).configure_model(model)
    return hardened(model) if kind == "hard" else model


@of_kind("layouts")
def test_names_shapes_and_order_of_every_network_agree(folder: Folder) -> None:
    for name, entries in folder.json("layouts.json").items():
        state = _state(entries)
        if "trunk" in name:
            continue
        ours = [[key, list(value.shape)] for key, value in _network(name, state).state_dict().items()]
        assert ours == [[key, shape] for key, shape, _ in entries], name


@of_kind("layouts")
def test_kinds_of_entries_and_of_masks_are_told_by_names(folder: Folder) -> None:
    for name, entries in folder.json("layouts.json").items():
        state = _state(entries)
        kinds = {kind for _, _, kind in entries}
        expected = "soft" if "logits" in kinds else "hard" if "mask" in kinds else "dense"
        assert layout(state) == expected, name
        assert len(masked_convs(state)) == sum(kind == "mask" for _, _, kind in entries), name
        assert [kind_of(key, tuple(shape), state) for key, shape, _ in entries] == [k for _, _, k in entries]


@of_kind("layouts")
def test_numbers_of_the_optimizers_parameters_agree_soft_and_hard(folder: Folder) -> None:
    layouts = folder.json("layouts.json")
    for name, groups in folder.json("optimizer_groups.json").items():
        state = _state(layouts[name])
        model = _network(name, state)
        assert optimizer_groups(model) == groups, name
        if layout(state) == "soft":
            assert optimizer_groups(hardened(model)) == groups, name


@of_kind("layouts")
def test_initial_weights_of_the_trunk_find_their_places(folder: Folder, tmp_path: Path) -> None:
    trunks = {name: e for name, e in folder.json("layouts.json").items() if "trunk" in name}
    for name, entries in trunks.items():
        file = tmp_path / f"{name}.pth"
        # Every entry says in its first value where it stands in the file.
        state = {
            key: torch.full((1,) * len(shape), float(place)).expand(shape)
            for place, (key, shape, _) in enumerate(entries)
        }
        torch.save(state, file)
        with torch.device("meta"):
            model = build(ModelConfig(classes=2))
        model.to_empty(device="cpu")
        report = load_original(model, file)
        assert set(report.unused) == {key for key in state if key.startswith("fc.")}
        assert {key.split(".")[0] for key in report.missing} == {"ppm", "cls", "aux"}
        loaded = [
            float(value.flatten()[0]) for key, value in model.state_dict().items() if key in report.loaded
        ]
        assert loaded == [float(place) for place in range(len(report.loaded))], name
        assert len(report.loaded) + len(report.unused) == len(entries)
