"""A segmenter in every layout: predictions, the model folder, hardening and compacting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from acosp.inject import soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp_seg.config import Config, DataConfig, ModelConfig, TestConfig
from acosp_seg.model import build
from acosp_seg.segmenter import Segmenter, as_array
from prunelab.errors import UserError

NAMES = ("sky", "road", "tree")


def configuration(arch: str = "segnet", **model: Any) -> Config:
    small = {"arch": arch, "layers": 50 if arch == "psp" else None, "classes": 3, "width": 16, **model}
    dataset = "cifar10" if arch == "resnet18" else "folder"
    data = DataConfig(dataset=dataset, train_h=33, train_w=33, names_path="", colors_path="")
    test = TestConfig(base_size=48, test_h=33, test_w=33, scales=(1.0,))
    return Config(model=ModelConfig(**small), data=data, test=test)


def segmenter(layout: str = "dense", arch: str = "segnet") -> Segmenter:
    """A network with random weights and batch statistics, in evaluation mode."""
    torch.manual_seed(3)
    cfg = configuration(arch)
    model = build(cfg.model)
    if layout in ("soft", "hard"):
        SoftTopKPruner(0.5, 10).configure_model(model)
        model.train()
        x = torch.randn(2, 3, 33, 33)
        model.losses(x, torch.zeros(2, dtype=torch.int64) if arch == "resnet18" else x[:, 0].long() * 0)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.bias.normal_(0, 0.3)
            norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
    if layout == "hard":
        soft_to_hard_k(model)
    return Segmenter(model=model.eval(), config=cfg, names=NAMES, notes={"step": 7, "scores": {"mIoU": 0.5}})


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def test_a_picture_gets_a_class_for_every_pixel_whatever_it_is_given_as(
    tmp_path: Path, picture: np.ndarray
) -> None:
    loudest = nn.Conv2d(3, 3, 1, bias=False)  # says which channel is the brightest
    nn.init.eye_(loudest.weight.data[:, :, 0, 0])
    m = Segmenter(model=loudest, config=configuration(), names=NAMES)
    Image.fromarray(picture).save(tmp_path / "p.png")
    labels = m.segment(picture)
    assert labels.shape == (40, 52)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2}
    for given in (tmp_path / "p.png", str(tmp_path / "p.png"), Image.open(tmp_path / "p.png")):
        assert np.array_equal(m.segment(given), labels)
    assert not np.array_equal(m.segment(picture, scales=(0.5, 1.5)), labels)


@pytest.mark.parametrize("layout", ["dense", "soft", "hard"])
@pytest.mark.parametrize("arch", ["segnet", "psp", "resnet18"])
def test_a_folder_gives_back_the_very_same_network(tmp_path: Path, layout: str, arch: str) -> None:
    m = segmenter(layout, arch)
    m.save_pretrained(tmp_path / "m", extra={"more": 1})
    again = Segmenter.from_pretrained(tmp_path / "m")
    assert again.layout == m.layout == layout
    assert again.config.model == m.config.model
    assert again.config.test == m.config.test
    assert again.names == NAMES
    assert np.array_equal(again.colors, m.colors)
    assert again.notes == {"step": 7, "scores": {"mIoU": 0.5}, "more": 1}
    x = torch.randn(1, 3, 33, 33)
    assert torch.equal(again.model(x), m.model(x))
    card = (tmp_path / "m" / "README.md").read_text()
    assert f"{arch}, {layout}" in card
    assert "| mIoU | 0.5 |" in card


def test_soft_masks_become_hard_in_a_copy(picture: np.ndarray) -> None:
    soft = segmenter("soft")
    hard = soft.hardened()
    assert (soft.layout, hard.layout) == ("soft", "hard")
    assert hard.hardened() is hard
    assert hard.segment(picture).shape == picture.shape[:2]


@pytest.mark.parametrize("arch", ["segnet", "psp", "resnet18"])
def test_a_compact_network_is_smaller_says_the_same_and_comes_back_from_its_folder(
    tmp_path: Path, arch: str
) -> None:
    hard = segmenter("hard", arch)
    small = hard.compact()
    assert small.layout == "compact"
    assert small.compact() is small
    size = [sum(p.numel() for p in m.model.parameters()) for m in (hard, small)]
    assert size[1] < 0.7 * size[0]
    small.save_pretrained(tmp_path / "small")
    again = Segmenter.from_pretrained(tmp_path / "small")
    assert again.layout == "compact"
    x = torch.randn(2, 3, 41, 57)
    with torch.no_grad():
        expected = hard.model(x)
        for model in (small.model, again.model):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_an_overlay_has_the_picture_and_a_legend_beside_it(picture: np.ndarray) -> None:
    m = segmenter()
    sheet = m.overlay(picture)
    factor = sheet.height // 40
    assert sheet.height == 40 * factor
    assert sheet.width > 52 * factor
    alone = np.asarray(m.overlay(picture, np.zeros((40, 52), np.uint8), opacity=1.0))
    assert (alone[:, : 52 * factor] == m.colors[0]).all()


def test_a_classifier_names_a_picture_and_segments_none(picture: np.ndarray) -> None:
    m = segmenter(arch="resnet18")
    assert m.classify(picture) in NAMES
    with pytest.raises(UserError, match="use classify"):
        m.segment(picture)
    with pytest.raises(UserError, match="use segment"):
        segmenter().classify(picture)


def test_arrays_of_another_shape_or_type_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^picture is float32 \(4, 4, 3\), expected uint8"):
        as_array(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UserError, match=r"\(4, 4\)"):
        as_array(np.zeros((4, 4), np.uint8))


def test_names_and_colours_come_from_the_files_that_the_configuration_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"sky\r\nroad\r\ntree\r\n")
    (tmp_path / "colors.txt").write_text("1 2 3\n4 5 6\n7 8 9\n")
    cfg = configuration()
    data = replace(cfg.data, names_path=str(tmp_path / "names.txt"), colors_path=str(tmp_path / "colors.txt"))
    m = Segmenter(model=build(cfg.model), config=replace(cfg, data=data))
    assert m.names == NAMES
    assert m.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    (tmp_path / "names.txt").write_text("sky\n")
    with pytest.raises(UserError, match=r"names.txt: 1 classes, expected 3, one a line"):
        Segmenter(model=build(cfg.model), config=replace(cfg, data=data))


def test_a_folder_whose_structure_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    segmenter("hard").save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(file.read_text().replace('"down1.conv1.cbr_unit.0"', '"down1.conv9"'))
    with pytest.raises(UserError, match=r"config.json: structure does not fit the model: .*down1.conv9"):
        Segmenter.from_pretrained(tmp_path / "m")
