"""PSPNet: sizes, zooms, its trunk's depth and stem, first weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50, resnet101, resnet152

from acosp_seg.config import ModelConfig
from acosp_seg.model.pspnet import PSPNet, fitting_sizes
from acosp_seg.model.resnet import trunk
from prunelab.errors import UserError

TINY = ModelConfig(arch="psp", classes=3, width=4, dropout=0.0)


def _parameters(parts: tuple[nn.Sequential, ...]) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize(
    ("size", "fitting"), [(57, (57,)), (60, (57, 65)), (64, (57, 65)), (5, (9, 17)), (9, (9,))]
)
def test_fitting_sizes_are_8n_plus_1(size: int, fitting: tuple[int, ...]) -> None:
    assert fitting_sizes(size) == fitting


def test_other_sizes_are_refused_with_the_nearest_ones() -> None:
    model = PSPNet(TINY).eval()
    with pytest.raises(UserError, match=r"input width is 40, expected 8n \+ 1 .*the nearest are 33 and 41"):
        model(torch.zeros(1, 3, 33, 40))
    with pytest.raises(UserError, match="input height is 36"):
        model.losses(torch.zeros(2, 3, 36, 33), torch.zeros(2, 36, 33, dtype=torch.long))


def test_training_on_one_picture_is_refused_where_a_bin_is_one_pixel() -> None:
    x, y = torch.zeros(1, 3, 33, 33), torch.zeros(1, 33, 33, dtype=torch.long)
    with pytest.raises(UserError, match="batch size is 1, expected at least 2"):
        PSPNet(TINY).train().losses(x, y)
    assert PSPNet(TINY).eval()(x).shape == (1, 3, 33, 33)
    assert PSPNet(replace(TINY, bins=(2, 3))).train()(x).shape == (1, 3, 33, 33)


def test_batch_norm_over_processes_takes_one_picture_each() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(PSPNet(TINY)).train()
    model.check_input(torch.zeros(1, 3, 33, 33))
    assert model.training


@pytest.mark.parametrize("zoom", [1, 2, 4])
def test_labels_at_a_smaller_zoom_are_those_of_the_originals_resizing(zoom: int) -> None:
    torch.manual_seed(0)
    model = PSPNet(replace(TINY, zoom_factor=zoom)).train()
    x, y = torch.randn(2, 3, 41, 57), torch.randint(0, 3, (2, 41, 57))
    y[torch.rand(y.shape) < 0.2] = 255
    prediction, main, _ = model.losses(x, y)
    size = (5 * zoom + 1, 7 * zoom + 1)
    assert prediction.shape == (2, *size)
    resized = F.interpolate(y[:, None].float(), size, mode="bilinear", align_corners=True)[:, 0].long()
    torch.testing.assert_close(main, model.criterion(model(x), resized))


def test_dilated_stages_keep_an_eighth_of_the_size() -> None:
    model = PSPNet(TINY)
    for stage, dilation in (("layer3", 2), ("layer4", 4)):
        convs = {
            name: module
            for name, module in model.get_submodule(stage).named_modules()
            if isinstance(module, nn.Conv2d)
        }
        assert {module.stride for module in convs.values()} == {(1, 1)}
        wide = {m.dilation for name, m in convs.items() if name.endswith("conv2")}
        assert wide == {(dilation, dilation)}
    assert model.get_submodule("layer2.0.conv2").stride == (2, 2)  # type: ignore[comparison-overlap]


def test_trunk_comes_in_three_depths_and_with_two_stems() -> None:
    with torch.device("meta"):
        for layers, published in ((50, resnet50()), (101, resnet101()), (152, resnet152())):
            published.fc = nn.Identity()
            plain = _parameters(trunk(layers, deep_base=False))
            assert plain == sum(p.numel() for p in published.parameters())
            assert _parameters(trunk(layers)) > plain


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(UserError, match="layers is 34, expected one of 50, 101, 152"):
        trunk(34)


def test_first_weights_follow_the_two_rules() -> None:
    torch.manual_seed(0)
    model = PSPNet(replace(TINY, width=16))
    conv = model.get_submodule("layer4.1.conv2")
    assert isinstance(conv, nn.Conv2d)
    fan_out = conv.out_channels * 9
    assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    head = model.cls[0]
    assert isinstance(head, nn.Conv2d)
    bound = (1 / (head.in_channels * 9)) ** 0.5  # torch's own: uniform
    assert head.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
