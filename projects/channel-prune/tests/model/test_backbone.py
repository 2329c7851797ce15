"""Detectors that start from weights of a classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from channel_prune.config import DetectConfig, NetConfig
from channel_prune.files.bundle import write_bundle
from channel_prune.files.weights import Weights
from channel_prune.model.backbone import from_torchvision, load_backbone, start_from_backbone
from channel_prune.model.ssd import BACKBONE, Ssd, ssd_vgg16
from prunelab.errors import UserError

DIVISOR = 32


def small() -> Ssd:
    cfg = NetConfig(name="ssd_vgg16", image_size=64, nb_classes=4, width_divisor=DIVISOR)
    return ssd_vgg16(cfg).eval()


def slim_file(model: Ssd) -> Weights:
    """A backbone's file as slim writes it, with everything that the detector has no use for."""
    generator = np.random.default_rng(0)
    arrays = {"vgg_16/fc8/weights": np.zeros((1, 1, 4, 10), np.float32), "global_step": np.array(3)}
    for name, value in model.original_names().items():
        if "additional" in value or "multibox" in value or "scale" in value:
            continue
        shape = tuple(model.state_dict()[name].shape)
        shape = (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape
        theirs = value.replace("ssd300", "vgg_16").replace("kernel", "weights").replace("bias", "biases")
        arrays[theirs] = generator.normal(size=shape).astype(np.float32)
    return Weights(path=Path("vgg.ckpt"), what="a TensorFlow checkpoint", arrays=arrays)


def test_a_slim_backbone_fills_what_is_not_excluded() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = slim_file(model)
    found = start_from_backbone(model, file, DetectConfig())
    assert found.missing == ()
    assert len(found.filled) == 30
    assert found.unused == ("fc8.weight",)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in found.filled)
    kernel = file.arrays["vgg_16/conv3/conv3_2/weights"]
    assert torch.equal(
        model.state_dict()["conv3.conv3_2.weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1)
    )


def test_missing_weights_are_told_or_refused_and_other_shapes_are_refused() -> None:
    file = slim_file(small())
    arrays = dict(file.arrays)
    del arrays["vgg_16/fc7/biases"]
    less = replace(file, arrays=arrays)
    assert start_from_backbone(small(), less, DetectConfig()).missing == ("fc7.bias",)
    with pytest.raises(UserError, match=r"vgg.ckpt: lacks 1 weights of the backbone, the first is fc7.bias"):
        start_from_backbone(small(), less, DetectConfig(ignore_missing_vars=False))
    arrays["vgg_16/fc6/weights"] = np.zeros((7, 7, 16, 32), np.float32)
    with pytest.raises(UserError, match=r"fc6.weight is 32x16x7x7, expected 32x16x3x3"):
        start_from_backbone(small(), less, DetectConfig())
    with pytest.raises(UserError, match="without a weight of the backbone"):
        start_from_backbone(small(), file, DetectConfig(backbone_model_scope="resnet"))


def torchvision_state(divisor: int) -> dict[str, Tensor]:
    """A narrow network with torchvision's names."""
    torch.manual_seed(0)
    state, place, inputs = {}, 0, 3
    for widths in BACKBONE:
        for width in widths:
            conv = torch.nn.Conv2d(inputs, width // divisor, 3)
            state[f"features.{place}.weight"], state[f"features.{place}.bias"] = (
                conv.weight.data,
                conv.bias.data,
            )
            inputs, place = width // divisor, place + 2
        place += 1
    wide = 4096 // divisor
    for name, columns in (("classifier.0", inputs * 49), ("classifier.3", wide)):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(wide, columns), torch.randn(wide)
    return state


def test_torchvision_names_and_shapes_are_those_that_are_read() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        state = vgg16(weights=None).state_dict()
        model = ssd_vgg16(NetConfig(name="ssd_vgg16", image_size=300, nb_classes=21))
    # The deviations cannot be on the meta device, so the first kernel is a real one.
    found = from_torchvision(state | {"features.0.weight": torch.zeros(64, 3, 3, 3)})
    assert {name: value.shape for name, value in found.items()} == {
        name: model.state_dict()[name].shape for name in found
    }
    assert len(found) == 30


def test_the_first_layer_gives_what_torchvision_gives_for_its_own_pictures() -> None:
    state = torchvision_state(DIVISOR)
    model = small()
    assert (
        start_from_backbone(model, Weights(path=Path("v"), what="", state=state), DetectConfig()).missing
        == ()
    )
    picture = torch.rand(1, 3, 8, 8)  # red, green, blue
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = F.conv2d((picture - mean) / std, state["features.0.weight"], state["features.0.bias"])
    ours = ((picture - mean) * 255).flip(1)
    conv = model.conv1.conv1_1
    torch.testing.assert_close(F.conv2d(ours, conv.weight, conv.bias), expected, atol=1e-5, rtol=1e-4)


def test_fc_layers_are_thinned_alike() -> None:
    state = torchvision_state(DIVISOR)
    found = from_torchvision(state)
    wide = state["classifier.0.weight"].view(128, 16, 7, 7)
    assert torch.equal(found["fc6.weight"][5, :, 1, 2], wide[20, :, 3, 6])
    assert found["fc7.weight"][3, 7, 0, 0] == state["classifier.3.weight"][12, 28]
    assert torch.equal(found["fc7.bias"], state["classifier.3.bias"][::4])


def test_another_network_of_that_family_is_refused() -> None:
    state = torchvision_state(DIVISOR)
    with pytest.raises(UserError, match="with 13 convolutions, with batch norms: expected vgg16"):
        from_torchvision(state | {"features.1.running_mean": torch.zeros(2)})
    del state["features.0.weight"]
    with pytest.raises(UserError, match="with 12 convolutions, without batch norms"):
        from_torchvision(state)


def test_the_file_is_found_in_its_folder_and_its_lack_is_told(tmp_path: Path) -> None:
    file = slim_file(small())
    with pytest.raises(UserError, match="no weights there, which enbl_warm_start needs"):
        load_backbone(small(), DetectConfig(backbone_ckpt_dir=str(tmp_path / "none")))
    write_bundle(tmp_path / "vgg_16.ckpt", file.arrays)
    model = small()
    assert load_backbone(model, DetectConfig(backbone_ckpt_dir=str(tmp_path))).missing == ()
    kernel = file.arrays["vgg_16/fc6/weights"]
    assert torch.equal(model.fc6.weight.data, torch.from_numpy(kernel).permute(3, 2, 0, 1))
