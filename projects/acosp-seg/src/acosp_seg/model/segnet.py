"""SegNet: an encoder like VGG16 whose poolings' places guide the decoder (Badrinarayanan et al., 2017).

# B batch, H height, W width, C channels, K classes
"""

from __future__ import annotations

from torch import Tensor, nn

from acosp_seg.config import ModelConfig
from acosp_seg.model.network import Groups, Network, unprunable
from prunelab.errors import UserError

# Output channels of each convolution, in multiples of the base width, from the picture inwards.
_ENCODER = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
# ... and from the inside outwards; the last one's are the classes.
_DECODER = {5: (8, 8, 8), 4: (8, 8, 4), 3: (4, 4, 2), 2: (2, 1), 1: (1, None)}

SMALLEST = 2 ** len(_ENCODER)
"""Pixels of a side that five poolings leave something of."""


class Unit(nn.Module):
    """A 3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, inplanes: int, planes: int, *, prunable: bool = True) -> None:
        super().__init__()
        conv = nn.Conv2d(inplanes, planes, 3, padding=1)
        self.cbr_unit = nn.Sequential(
            conv if prunable else unprunable(conv), nn.BatchNorm2d(planes), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inplanes, H, W) to (B, planes, H, W)."""
        return self.cbr_unit(x)


class Down(nn.Module):
    """Units ``conv1``, ``conv2``, ..., then pooling that remembers where its maxima were."""

    def __init__(self, inplanes: int, planes: tuple[int, ...]) -> None:
        super().__init__()
        for place, (before, after) in enumerate(zip((inplanes, *planes), planes, strict=False), start=1):
            self.add_module(f"conv{place}", Unit(before, after))
        self.maxpool_with_argmax = nn.MaxPool2d(2, 2, return_indices=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """(B, C, H, W) to values and places (B, C', H // 2, W // 2), and the shape before pooling."""
        for name, unit in self.named_children():
            if name.startswith("conv"):
                x = unit(x)
        shape = x.shape
        pooled = self.maxpool_with_argmax(x)
        return pooled[0], pooled[1], shape


class Up(nn.Module):
    """Values put back to their places, then units."""

    def __init__(self, inplanes: int, planes: tuple[int, ...], *, last: bool = False) -> None:
        super().__init__()
        self.unpool = nn.MaxUnpool2d(2, 2)
        channels = zip((inplanes, *planes), planes, strict=False)
        # Batch norm and ReLU follow even the convolution of the logits, which are never negative.
        self.convs = nn.Sequential(
            *(
                Unit(before, after, prunable=not (last and place == len(planes)))
                for place, (before, after) in enumerate(channels, start=1)
            )
        )

    def forward(self, x: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(B, C, H // 2, W // 2) to (B, C', H, W); ``shape`` restores odd sizes exactly."""
        return self.convs(self.unpool(x, places, output_size=shape))


class SegNet(Network):
    """Logits of every pixel, at the input's size.

    Args:
        cfg: classes and base width; layers, bins, dropout and zoom factor have no meaning here.
        criterion_ignore: label that does not count in the loss.
    """

    def __init__(self, cfg: ModelConfig, criterion_ignore: int = 255) -> None:
        super().__init__(cfg, criterion_ignore)
        channels = 3
        for place, factors in enumerate(_ENCODER, start=1):
            planes = tuple(factor * cfg.width for factor in factors)
            self.add_module(f"down{place}", Down(channels, planes))
            channels = planes[-1]
        for place, factors in _DECODER.items():  # registered from 5 to 1: the order of stored weights
            planes = tuple(cfg.classes if factor is None else factor * cfg.width for factor in factors)
            self.add_module(f"up{place}", Up(channels, planes, last=place == 1))
            channels = planes[-1]

    def check_input(self, x: Tensor) -> None:
        """Refuse pictures that five poolings leave nothing of.

        Raises:
            UserError: a side is shorter than 32 pixels.
        """
        for name, size in zip(("height", "width"), x.shape[2:], strict=True):
            if size < SMALLEST:
                raise UserError(f"input {name} is {size}, expected at least {SMALLEST} for SegNet")

    def groups(self) -> Groups:
        """Encoder and decoder, both from the picture inwards; stored weights list the decoder outwards."""
        numbers = range(1, len(_ENCODER) + 1)
        return tuple(f"down{i}" for i in numbers), tuple(f"up{i}" for i in numbers)

    def encoder_convs(self) -> list[str]:
        """Names of the encoder's convolutions, from the picture inwards, as in a network without masks."""
        return [
            f"down{block}.conv{place}.cbr_unit.0"
            for block, factors in enumerate(_ENCODER, start=1)
            for place in range(1, len(factors) + 1)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to logits (B, K, H, W)."""
        kept = []
        for place in range(1, len(_ENCODER) + 1):
            x, places, shape = self.get_submodule(f"down{place}")(x)
            kept.append((places, shape))
        for place in _DECODER:
            x = self.get_submodule(f"up{place}")(x, *kept[place - 1])
        return x
