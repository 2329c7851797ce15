"""A detector's first weights: those of slim's and of torchvision's VGG-16, or a line that says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from channel_prune.backbone import warm_start
from channel_prune.bundle import write_bundle
from channel_prune.config import DetectConfig, NetConfig
from channel_prune.model import build
from channel_prune.model.names import original_names, to_original
from prunelab.errors import UserError
from prunelab.transforms.classify import IMAGENET

DIVISOR = 32
NET = NetConfig(name="ssd_vgg16", nb_classes=4, image_size=64, width_divisor=DIVISOR)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(NET)


def slim_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The backbone of a detector under the names of slim's VGG-16."""
    arrays = {}
    for name, array in to_original(model).items():
        if not name.startswith(DetectConfig().warm_start_excl_scopes):
            name = name.replace("ssd300", "vgg_16").replace("kernel", "weights").replace("bias", "biases")
            arrays[name] = array
    return arrays


def test_slims_backbone_is_taken_and_excluded_scopes_keep_their_first_values(tmp_path: Path) -> None:
    source, model, before = network(1), network(), network().state_dict()
    write_bundle(tmp_path / "vgg.ckpt", slim_arrays(source) | {"global_step": np.array(3)})
    loaded = warm_start(model, DetectConfig(backbone_ckpt_dir=str(tmp_path)))
    assert (loaded.missing, loaded.unused) == ((), ())
    for key, name in original_names(model).items():
        excluded = name.startswith(DetectConfig().warm_start_excl_scopes)
        expected = before if excluded else source.state_dict()
        assert torch.equal(model.state_dict()[key], expected[key]), key


def torchvision_state() -> dict[str, torch.Tensor]:
    """Weights of a thin VGG-16 under torchvision's names."""
    torch.manual_seed(2)
    state, inputs, place = {}, 3, 0
    for number, width in enumerate(WIDTHS):
        outputs = width // DIVISOR
        state[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3)
        state[f"features.{place}.bias"] = torch.randn(outputs)
        inputs, place = outputs, place + (3 if number in (1, 3, 6, 9) else 2)
    wide = 4096 // DIVISOR
    for name, columns in (("classifier.0", inputs * 49), ("classifier.3", wide), ("classifier.6", wide)):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(wide, columns), torch.randn(wide)
    return state


def test_torchvisions_backbone_sees_the_same_picture_and_its_dense_layers_are_thinned(tmp_path: Path) -> None:
    state = torchvision_state()
    torch.save(state, tmp_path / "vgg16.pth")
    model = network()
    loaded = warm_start(model, DetectConfig(backbone_ckpt_dir=str(tmp_path / "vgg16.pth")))
    assert not loaded.missing
    own = model.state_dict()
    picture = torch.rand(1, 3, 8, 8)  # red, green, blue
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    theirs = F.conv2d((picture - mean) / std, state["features.0.weight"], state["features.0.bias"])
    ours = F.conv2d((255 * (picture - mean)).flip(1), own["conv1.conv1_1.weight"], own["conv1.conv1_1.bias"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(own["conv5.conv5_3.weight"], state["features.28.weight"])
    first = state["classifier.0.weight"].view(128, 16, 7, 7)
    assert torch.equal(own["fc6.weight"][1, :, 2, 1], first[4, :, 6, 3])
    assert torch.equal(own["fc7.weight"][3, :, 0, 0], state["classifier.3.weight"][12, ::4])


def test_what_is_missing_is_told_or_forbidden(tmp_path: Path) -> None:
    arrays = slim_arrays(network(1))
    del arrays["vgg_16/fc6/weights"]
    np.savez(tmp_path / "vgg.npz", **arrays)  # type: ignore[arg-type]
    cfg = DetectConfig(backbone_ckpt_dir=str(tmp_path))
    assert warm_start(network(), cfg).missing == ("fc6.weight",)
    with pytest.raises(UserError, match=r"fc6\.weight missing, which ignore_missing_vars forbids"):
        warm_start(network(), replace(cfg, ignore_missing_vars=False))


def test_other_weights_and_none_are_told(tmp_path: Path) -> None:
    cfg = DetectConfig(backbone_ckpt_dir=str(tmp_path))
    with pytest.raises(UserError, match="no weights there, expected one file of VGG-16's"):
        warm_start(network(), cfg)
    torch.save({"features.0.weight": torch.zeros(3), "b": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="expected those of slim's or torchvision's VGG-16"):
        warm_start(network(), cfg)
