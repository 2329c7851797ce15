"""Pictures to feature maps: the backbones that `extract` can use.

B pictures, C channels, h and w the size of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.mask.files import load_state

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PRETRAINED = "pretrained"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A of He et al. 2016, section 4.2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.padding = (channels_out - channels_in) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32x32 pictures with 6n+2 layers; returns its last map at each of three resolutions."""

    def __init__(self, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(channels_in: int, channels_out: int, stride: int, blocks: int) -> nn.Sequential:
        rest = [BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(channels_in, channels_out, stride), *rest)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, h, w) to maps of 16, 32 and 64 channels and the class probabilities of each cell."""
        x = self.layer1(functional.relu(self.bn1(self.conv1(x))))
        middle = self.layer2(x)
        last = self.layer3(middle)
        # The classifier at each cell: (B, 64, h, w) -> (B, classes, h, w)
        logits = functional.conv2d(last, self.linear.weight[:, :, None, None], self.linear.bias)
        return [x, middle, last, logits.softmax(1)]


PROBE = 64
"""Side of the picture that shows which layers of a classifier end a resolution."""


class LastMaps(nn.Module):
    """Any convolutional classifier as an extractor: the last layer at each of its smallest resolutions.

    Raises:
        UserError: the network takes no picture of 64x64 pixels, or gives no feature map of it.
    """

    def __init__(self, network: nn.Module, count: int = 2) -> None:
        super().__init__()
        self.network = network.eval()
        try:
            with torch.no_grad():
                maps = self._maps(torch.zeros(1, 3, PROBE, PROBE), [n for n, m in self._leaves()])
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"backbone {type(network).__name__} refuses pictures of side {PROBE} ({error}): expected a "
                "convolutional network"
            ) from error
        last = {value.shape[-2:]: name for name, value in maps.items() if value.shape[-1] > 1}
        if not last:
            raise UserError(f"backbone {type(network).__name__} has no convolutional feature map")
        smallest = sorted(last, key=lambda size: size[0] * size[1])[:count]
        self.names = [last[size] for size in reversed(smallest)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, h, w) to the chosen layers' outputs (B, C, h', w')."""
        maps = self._maps(x, self.names)
        return [maps[name] for name in self.names]

    def _leaves(self) -> list[tuple[str, nn.Module]]:
        return [(name, m) for name, m in self.network.named_modules() if not list(m.children())]

    def _maps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The 4-D outputs of layers, in the order in which they were computed."""
        maps: dict[str, Tensor] = {}

        def keep(name: str, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps.pop(name, None)
                maps[name] = output

        wanted = dict(self._leaves())
        handles = [
            wanted[name].register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
            for name in names
        ]
        try:
            self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        return maps


def build_backbone(name: str, weights: str | Path | None) -> nn.Module:
    """Build the backbone `name` in evaluation mode; it maps (B, 3, h, w) to a list of (B, C, h', w').

    Args:
        name: ``resnet20_cifar`` (or 32, 44, 56, 110), ``timm:NAME`` or ``torchvision:NAME``.
        weights: a local file (PyTorch or safetensors), ``pretrained`` for the library's download, or None for
            random weights.

    Raises:
        UserError: unknown name, or a file that does not fit.
    """
    family, _, rest = name.partition(":")
    builders: dict[str, Callable[[str, bool], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}
    download = weights == PRETRAINED
    if family in builders and rest:
        network = builders[family](rest, download)
    elif name.startswith("resnet") and name.endswith("_cifar") and name[6:-6].isdigit():
        depth = int(name[6:-6])
        if (depth - 2) % 6 or depth < 8:
            raise UserError(f"backbone {name}: a CIFAR ResNet has 6n+2 layers (20, 32, 44, 56, 110)")
        if download:
            raise UserError(f"backbone {name} has no download: give --weights FILE")
        network = CifarResNet((depth - 2) // 6)
    else:
        raise UserError(f"backbone {name!r} is not known: use resnet20_cifar, timm:NAME or torchvision:NAME")
    if weights is not None and not download:
        load_weights(network, Path(weights))
    return network.eval()


def _timm(name: str, download: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:3]) or "timm.list_models() lists all"
        raise UserError(f"timm has no model {name!r}: {near}")
    return timm.create_model(name, pretrained=download, features_only=True)


def _torchvision(name: str, download: bool) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models():
        raise UserError(f"torchvision has no model {name!r}: torchvision.models.list_models() lists all")
    return LastMaps(torchvision.models.get_model(name, weights="DEFAULT" if download else None))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a PyTorch or safetensors file into `network`; classifier weights that it does not use are ignored.

    Raises:
        UserError: no such file, not a weights file, or a tensor of the network is missing or has another
        shape.
    """
    found, _ = load_state(path, inside=("state_dict", "model"))
    state = {key.removeprefix("module."): value for key, value in found.items()}
    target = network.network if isinstance(network, LastMaps) else network
    expected = target.state_dict()
    wrong = [
        f"{key}: file {tuple(state[key].shape) if key in state else 'nothing'}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if not key.endswith("num_batches_tracked") and (key not in state or state[key].shape != value.shape)
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit the backbone ({len(wrong)} tensors differ): {'; '.join(wrong[:3])}"
        )
    target.load_state_dict({key: state.get(key, value) for key, value in expected.items()})
