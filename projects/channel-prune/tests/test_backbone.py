"""A detector begins with a backbone's weights, by the original's rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from channel_prune.backbone import load_backbone
from channel_prune.config import DetectConfig, NetConfig
from channel_prune.model import build
from channel_prune.model.names import to_original
from prunelab.errors import UserError

NET = NetConfig(name="ssd_vgg16", nb_classes=4, image_size=64, width_divisor=32)


def backbone(folder: Path, *without: str) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a classifier's file: other names, no additional layers, a last layer of its own."""
    torch.manual_seed(7)
    arrays = {}
    for name, array in to_original(build(NET)).items():
        if not any(part in name for part in ("additional", "multibox", "scale")):
            there = name.replace("ssd300", "vgg_16").replace("kernel", "weights").replace("/bias", "/biases")
            arrays[there] = array + 1
    arrays["vgg_16/fc8/weights"] = np.zeros((1, 1, 8, 1000), np.float32)
    for name in without:
        del arrays[name]
    np.savez(folder / "vgg.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "vgg.npz", arrays


@pytest.mark.parametrize("as_folder", [True, False])
def test_layers_of_the_backbone_are_taken_and_all_others_stay_random(as_folder: bool, tmp_path: Path) -> None:
    file, arrays = backbone(tmp_path)
    torch.manual_seed(0)
    model = build(NET)
    before = to_original(model)
    place = str(tmp_path if as_folder else file)
    assert load_backbone(model, DetectConfig(backbone_ckpt_dir=place)) == []
    taken = 0
    for name, array in to_original(model).items():
        there = name.replace("ssd300", "vgg_16").replace("kernel", "weights").replace("/bias", "/biases")
        assert np.array_equal(array, arrays.get(there, before[name])), name
        taken += there in arrays
    assert taken == 30  # kernels and biases of 13 convolutions, fc6 and fc7


def test_scopes_may_be_left_out_and_weights_may_be_missing(tmp_path: Path) -> None:
    file, _ = backbone(tmp_path, "vgg_16/fc7/biases")
    detect = DetectConfig(backbone_ckpt_dir=str(file))
    assert load_backbone(build(NET), detect) == ["vgg_16/fc7/biases"]
    with pytest.raises(UserError, match=r"vgg.npz: lacks vgg_16/fc7/biases, ...; it has vgg_16/conv1"):
        load_backbone(build(NET), replace(detect, ignore_missing_vars=False))
    excluded = (*detect.warm_start_excl_scopes, "ssd300/fc7")
    detect = replace(detect, ignore_missing_vars=False, warm_start_excl_scopes=excluded)
    assert load_backbone(build(NET), detect) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone_ckpt_dir '.*nowhere': no weights there.*VGG-16"):
        load_backbone(build(NET), DetectConfig(backbone_ckpt_dir=str(tmp_path / "nowhere")))
    file, arrays = backbone(tmp_path)
    with pytest.raises(UserError, match=r"vgg\.npz: lacks resnet/conv1/conv1_1/weights"):
        load_backbone(build(NET), DetectConfig(backbone_ckpt_dir=str(file), backbone_model_scope="resnet"))
    arrays["vgg_16/fc7/biases"] = np.zeros(3, np.float32)
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"vgg.npz: weights of another model: .*fc7.bias 3 in the file"):
        load_backbone(build(NET), DetectConfig(backbone_ckpt_dir=str(file)))
