"""ResNet-18 for the 32x32 pictures of CIFAR-10: torchvision's blocks behind a 3x3 first convolution.

# B batch, H height, W width, K classes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acosp_seg.config import ModelConfig
from acosp_seg.model.network import Groups, Network
from prunelab.errors import UserError

STRIDE = 16
"""Input pixels in one pixel of the last stage; the first convolution has stride 1."""


def _stage(inplanes: int, planes: int, stride: int) -> nn.Sequential:
    """Two blocks; the first has a projection on its shortcut where the shape changes."""
    # Slow to import: half the start of every command, and this network alone needs it.
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
    return nn.Sequential(BasicBlock(inplanes, planes, stride, shortcut), BasicBlock(planes, planes))


class ResNet18(Network):
    """Logits of a picture.

    Args:
        cfg: classes and base width; layers, bins, dropout and zoom factor have no meaning here.
        criterion_ignore: label that does not count in the loss.
    """

    def __init__(self, cfg: ModelConfig, criterion_ignore: int = 255) -> None:
        super().__init__(cfg, criterion_ignore)
        width = cfg.width
        self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, cfg.classes)
        for module in self.modules():
            # The original puts its first convolution in afterwards, with torch's own first values.
            if isinstance(module, nn.Conv2d) and module is not self.conv1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def check_input(self, x: Tensor) -> None:
        """Refuse a training batch of one picture so small that its last stage is one pixel.

        Raises:
            UserError: with the batch size that is needed.
        """
        if self.training and x.shape[0] == 1 and max(x.shape[2:]) <= STRIDE:
            raise UserError(
                f"batch size is 1, expected at least 2 to train ResNet-18 on sides up to {STRIDE} pixels"
            )

    def groups(self) -> Groups:
        """One rate for all blocks."""
        return ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"), ()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to logits (B, K)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))
