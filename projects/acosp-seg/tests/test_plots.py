"""Figures of masks and of networks side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from acosp.inject import soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp_seg.config import Config, DataConfig, ModelConfig, TestConfig
from acosp_seg.plots import (
    compare_networks,
    history_figure,
    layer_masks,
    mask_figure,
    save,
)
from acosp_seg.segmenter import Segmenter
from prunelab.errors import UserError


@pytest.fixture
def masked() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))
    pruner = SoftTopKPruner(0.5, 10)
    pruner.configure_model(model)
    pruner.update_mask_layers(model, 5)
    model.train()(torch.randn(1, 3, 9, 9))
    return model


def test_masks_are_listed_layer_by_layer_the_largest_values_first(masked: nn.Module) -> None:
    first, second = layer_masks(masked)
    assert (first.name, second.name) == ("0", "2")
    assert (first.kept, second.kept) == (8, 16)
    assert first.temperature == pytest.approx(10**-1.5)
    assert (np.diff(first.values) <= 0).all()
    assert first.values[7] > 0.5 > first.values[8]
    soft_to_hard_k(masked)
    assert [(m.kept, m.temperature) for m in layer_masks(masked)] == [(8, None), (16, None)]


def test_figures_of_soft_and_hard_masks_are_drawn_and_written(masked: nn.Module, tmp_path: Path) -> None:
    save(mask_figure(masked, title="soft"), tmp_path / "new" / "soft.png")
    soft_to_hard_k(masked)
    save(mask_figure(masked), tmp_path / "new" / "hard.png")
    with Image.open(tmp_path / "new" / "soft.png") as soft, Image.open(tmp_path / "new" / "hard.png") as hard:
        assert soft.size == hard.size
        assert soft.tobytes() != hard.tobytes()
    with pytest.raises(UserError, match="needs a network with masks"):
        mask_figure(nn.Conv2d(3, 3, 1))


def test_the_history_of_a_run_is_drawn_from_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = []
    for epoch in range(4):
        values = {"temperature": 10.0**-epoch, "chosen": epoch / 4, "pruned": epoch / 5}
        record = {f"pruning/{layer}/{name}": v for layer in ("a.1", "b.1") for name, v in values.items()}
        record |= {f"pruning/mean_{name}": v for name, v in values.items()}
        lines += [{"step": epoch, "epoch": epoch, "loss": 1.0}, {"step": epoch, "epoch": epoch, **record}]
    file.write_text("\n".join(map(json.dumps, lines)))
    left, right = history_figure(file).axes
    assert [len(axes.lines) for axes in (left, right)] == [2, 6]
    assert list(left.lines[0].get_ydata()) == [1.0, 0.1, 0.01, 0.001]
    file.write_text('{"step": 1}')
    with pytest.raises(UserError, match=r"metrics.jsonl: no figures of masks in it"):
        history_figure(file)
    with pytest.raises(UserError, match="cannot be read as figures of a run"):
        history_figure(tmp_path / "nowhere.jsonl")


def test_networks_are_shown_side_by_side_below_picture_and_truth() -> None:
    loudest = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.eye_(loudest.weight.data[:, :, 0, 0])
    cfg = Config(
        model=ModelConfig(arch="segnet", layers=None, classes=3),
        data=DataConfig(dataset="folder", names_path="", colors_path=""),
        test=TestConfig(base_size=32, test_h=16, test_w=16),
    )
    m = Segmenter(
        model=loudest, config=cfg, names=("red", "green", "blue"), colors=np.eye(3, dtype=np.uint8) * 255
    )
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15, 0] = image[:, 15:, 2] = 255
    truth = np.full((20, 30), 1, np.uint8)
    sheet = np.asarray(
        compare_networks({"dense": m, "ACoSP-2": m}, [(image, truth), (image, None)], height=100)
    )
    margin = sheet.shape[1] - 2 * (150 + 3)
    assert sheet[50, margin + 10].tolist() == [255, 0, 0]
    assert sheet[150, margin + 10].tolist() == [0, 255, 0]
    for row in (2, 3):
        assert sheet[50 + 103 * row, margin + 10].tolist() == [255, 0, 0]
        assert sheet[50 + 103 * row, margin + 140].tolist() == [0, 0, 255]
    with pytest.raises(UserError, match="at least one network"):
        compare_networks({}, [(image, None)])
