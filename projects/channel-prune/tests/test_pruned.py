"""Pruning from Python, for networks of other packages."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from channel_prune.pruned import prune
from prunelab.errors import UserError

MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision's MobileNet": lambda: mobilenet_v3_small(num_classes=7),
    "timm's ResNet": lambda: timm.create_model("test_resnet"),
    "timm's EfficientNet": lambda: timm.create_model("test_efficientnet"),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_classifier_gets_smaller_and_stays_itself(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    before = copy.deepcopy(model.state_dict())
    batches = list(torch.randn(12, 3, 48, 48).split(6))
    pruned = prune(model, batches[0][:1], batches, ratio=0.5, nb_crops_per_smpl=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    small = pruned.slim()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small, model)]
    assert sizes[0] < 0.85 * sizes[1]
    with torch.no_grad():
        torch.testing.assert_close(small(batches[0]), pruned.model(batches[0]), rtol=1e-3, atol=1e-3)


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match=r"prune has no option 'selecton'.*selection"):
        prune(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 32, 32), [torch.zeros(2, 3, 32, 32)], selecton="l1")
