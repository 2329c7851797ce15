"""ResNet-20 and its kin as published for CIFAR-10: post-activation form, shortcuts without weights.

Names of weights are those of the PyTorch checkpoints that are to be had for it (``conv1``, ``layer1.0.bn2``,
``linear``), so those load by name. The original has no such network.

# B batch, C channels, H, W height and width, K classes
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import NetConfig
from prunelab.errors import UserError


class Shortcut(nn.Module):
    """Every second pixel, between channels of zeros: the shortcut where the shape changes.

    Args:
        before: channels of zeros on each side.
    """

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + 2 before, H / 2, W / 2), halves rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.before))


class Block(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm, beside a shortcut; ReLU after the sum.

    Args:
        inputs: channels that arrive.
        width: channels that it makes.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or inputs != width
        self.shortcut = Shortcut((width - inputs) // 2) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNetV1(nn.Module):
    """Logits of a picture.

    Args:
        blocks: blocks of each of the three stages.
        width: channels of the first stage; each further stage has twice as many.
        classes: outputs.
    """

    def __init__(self, blocks: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1)
        self.layer2 = _stage(blocks, width, 2 * width, 2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))

    def prune_order(self) -> list[str]:
        """Convolutions in the order in which they run."""
        return [path for path, module in self.named_modules() if isinstance(module, nn.Conv2d)]


def _stage(blocks: int, inputs: int, width: int, stride: int) -> nn.Sequential:
    first = Block(inputs, width, stride)
    return nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))


def resnet_v1(cfg: NetConfig) -> ResNetV1:
    """The network of a configuration: depth 6n + 2.

    Raises:
        UserError: the form for ImageNet, which has other shortcuts.
    """
    if cfg.dataset_form != "cifar":
        raise UserError(
            f"dataset_form is {cfg.dataset_form!r}, expected 'cifar' for resnet_v1 "
            "(for pictures of 224 pixels take torchvision:resnet18)"
        )
    return ResNetV1((cfg.resnet_size - 2) // 6, max(2, 16 // cfg.width_divisor), cfg.nb_classes)
