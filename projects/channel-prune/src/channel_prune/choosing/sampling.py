"""Rows for one layer: patches that the pruned network's convolution reads, and where they lie.

A row is an output position of a picture: the patch (K, C) under it and the outputs (O,) there. Patches are
gathered from what arrives at the convolution itself, so only its own padding matters, whatever pads before.

The original draws positions for a whole mini-batch, looks at a dilated convolution as TensorFlow 1 computes
it (pictures cut into phases, each convolved without dilation), stops early and leaves surplus rows out;
`planned` does so from its draws, in its order. Otherwise each picture has positions of its own, or all count.

# B pictures, C channels, H, W height and width, K kernel positions, O outputs, N rows
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.choosing.draws import Draws
from channel_prune.choosing.gram import kernel_rows
from prunelab.errors import UserError

RECOVERED = 1e-6
"""Patches times kernel must give the outputs with a smaller mean squared error than this."""
ROWS_PER_WEIGHT = 10
"""Scattered rows are at least so many for each weight of an output: with few pictures, more of each."""
CHUNK = 2**22
"""Most numbers of patches that are gathered at a time."""


# --- geometry ---


def _phases(conv: nn.Conv2d) -> int:
    """The dilation d where TensorFlow 1 would cut pictures into d x d phases, else 1."""
    one = conv.stride == (1, 1) and conv.dilation[0] == conv.dilation[1]
    return conv.dilation[0] if one else 1


def phased(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a dilated convolution reads, as pictures for one without dilation or padding.

    Phase (i, j) is the rows i, i + d, ... and the columns j, j + d, ... of the padded picture, which gets a
    margin at the bottom and on the right so that phases are equally large.

    Args:
        conv: with dilation d.
        x: (B, C, H, W).

    Returns:
        (d d B, C, h, w): phase by phase, all pictures in each.
    """
    d = _phases(conv)
    x = padded(conv, x)
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    b, c, height, width = x.shape
    x = x.view(b, c, height // d, d, width // d, d).permute(3, 5, 0, 1, 2, 4)
    return x.reshape(d * d * b, c, height // d, width // d)  # (d, d, B, C, h, w) to (d d B, C, h, w)


def padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution's input with its own padding around it."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    sides = conv._reversed_padding_repeated_twice
    return F.pad(x, sides, mode=mode) if any(sides) else x


@dataclass(frozen=True, kw_only=True)
class View:
    """How rows of a convolution are seen: what it reads, and the outputs' places."""

    conv: nn.Conv2d
    phased: bool
    """A dilated convolution is cut into phases."""

    @property
    def copies(self) -> int:
        """Instances that one picture becomes."""
        return _phases(self.conv) ** 2 if self.phased else 1

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an instance's outputs, for an input of this size."""
        conv, sides = self.conv, self.conv._reversed_padding_repeated_twice
        found = []
        for axis, size in enumerate((height, width)):
            left, right = sides[2 - 2 * axis : 4 - 2 * axis]  # torch names the last axis first
            total, reach = size + left + right, conv.kernel_size[axis] - 1
            if self.phased and _phases(conv) > 1:
                found.append(math.ceil(total / _phases(conv)) - reach)
            else:
                found.append((total - conv.dilation[axis] * reach - 1) // conv.stride[axis] + 1)
        return found[0], found[1]

    def patches(self, x: Tensor, places: Tensor) -> Tensor:
        """The patches (n, K, C) at places (n, 3): instance, row and column of an output."""
        conv = self.conv
        stride, dilation, sides = conv.stride, conv.dilation, conv._reversed_padding_repeated_twice
        if self.phased and _phases(conv) > 1:
            x, dilation, sides = phased(conv, x), (1, 1), [0, 0, 0, 0]
        elif conv.padding_mode != "zeros":
            x, sides = padded(conv, x), [0, 0, 0, 0]
        _, channels, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(-1, channels)  # no copy where channels are last
        places = places.to(x.device)
        taps = [
            torch.arange(size, device=x.device) * step
            for size, step in zip(conv.kernel_size, dilation, strict=True)
        ]
        rows = places[:, 1, None] * stride[0] - sides[2] + taps[0]  # (n, h)
        columns = places[:, 2, None] * stride[1] - sides[0] + taps[1]  # (n, w)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        index = (places[:, 0, None, None] * height + rows[:, :, None]) * width + columns[:, None]
        found = flat.index_select(0, (index * inside).flatten())
        found = found.view(len(places), -1, channels)  # (n h w, C) to (n, K, C)
        return found if bool(inside.all()) else found.mul_(inside.view(len(places), -1, 1))

    def outputs(self, x: Tensor, y: Tensor, places: Tensor) -> Tensor:
        """The outputs (n, O) without bias at places, of a convolution that made ``y`` of ``x``."""
        if self.phased and _phases(self.conv) > 1:  # the margin's outputs are in no output of the layer
            y = F.conv2d(phased(self.conv, x), self.conv.weight)
        elif self.conv.bias is not None:
            y = y - self.conv.bias[:, None, None]
        return at(y, places)


def at(y: Tensor, places: Tensor) -> Tensor:
    """Values (n, O) of a tensor (B, O, H, W) at places (n, 3)."""
    _, channels, height, width = y.shape
    places = places.to(y.device)
    index = (places[:, 0] * height + places[:, 1]) * width + places[:, 2]
    return y.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, index)


def check_recovered(
    conv: nn.Conv2d, name: str, patches: Tensor, outputs: Tensor, *, relative: bool = False
) -> None:
    """Hold patches times kernel against outputs.

    Args:
        conv: of the network that both come from.
        name: its path.
        patches: (n, K, C).
        outputs: (n, O), without bias.
        relative: large outputs may differ by more, in proportion; the original's limit is absolute.

    Raises:
        UserError: they differ: the layer does something else than a convolution does.
    """
    made = patches.flatten(1) @ kernel_rows(conv.weight).to(patches)
    error = float((made - outputs).double().square().mean())
    size = float(outputs.double().square().mean()) if relative else 1.0
    if not error < RECOVERED * max(1.0, size):
        raise UserError(
            f"{name}: unable to recover output feature maps from the patches that it reads "
            f"(mean squared error {error:.3g}, expected below {RECOVERED:g})"
        )


# --- which rows ---


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows of one layer, drawn before anything runs."""

    places: list[Tensor]
    """Of each mini-batch that is used: (n, 3) instance, row and column, in the order of rows."""
    used: list[Tensor] | None = None
    """Of each mini-batch the places (in it) of the rows that count; None: all."""
    looked_at: list[Tensor] | None = None
    """Those that the original's selection looks at; None: all that count."""
    start: np.ndarray | None = None
    """Where the original's selection starts (C,)."""


def planned(
    view: View, batches: Sequence[tuple[int, int, int]], draws: Draws, *, crops: int, samples: int
) -> Plan:
    """Rows as the original draws them.

    A position holds for all pictures of a mini-batch. Mini-batches are taken while there are not more rows
    than ``crops * samples``; then so many of them are chosen, and of those the ones that the selection sees.

    Args:
        view: of the layer.
        batches: of each mini-batch its pictures and the height and width of what the layer reads.
        draws: the random numbers of this layer.
        crops: positions of a mini-batch.
        samples: pictures that are asked for.
    """
    wanted = crops * min(samples, sum(count for count, _, _ in batches))
    places: list[Tensor] = []
    rows = 0
    for count, height, width in batches:
        if rows > wanted:
            break
        instances = torch.arange(count * view.copies)
        sizes = view.sizes(height, width)
        drawn = [[draws.position(size) for size in sizes] for _ in range(crops)]
        parts = [F.pad(instances[:, None], (0, 2)) + torch.tensor([0, *place]) for place in drawn]
        places.append(torch.cat(parts))
        rows += len(places[-1])
    first = draws.choice(rows, wanted)
    second = draws.choice(wanted, math.ceil(min(wanted, 10 * wanted / view.conv.out_channels)))
    sizes = [len(part) for part in places]
    return Plan(
        places=places,
        used=_by_batch(first, sizes),
        looked_at=_by_batch(first[second], sizes),
        start=draws.start(view.conv.in_channels).reshape(-1),
    )


def _by_batch(rows: np.ndarray, sizes: Sequence[int]) -> list[Tensor]:
    """Places in each mini-batch of these rows of all of them together, in their order."""
    borders = np.cumsum([0, *sizes])
    batch = np.searchsorted(borders, rows, side="right") - 1
    return [torch.from_numpy((rows[batch == i] - borders[i]).astype(np.int64)) for i in range(len(sizes))]


def scattered(
    view: View,
    batches: Sequence[tuple[int, int, int]],
    *,
    crops: int,
    seed: Sequence[int],
    numbers: Sequence[int],
    sharers: int = 1,
) -> Plan:
    """Rows at positions that every picture draws for itself.

    Args:
        view: of the layer.
        batches: of each mini-batch its pictures and the height and width of what the layer reads.
        crops: positions of a picture; more where rows would be fewer than `ROWS_PER_WEIGHT` asks for.
        seed: of the layer.
        numbers: of the mini-batches; what is drawn depends on a mini-batch's number alone.
        sharers: processes that each have about as many pictures.
    """
    weights = view.conv.in_channels * math.prod(view.conv.kernel_size)
    pictures = sharers * sum(count for count, _, _ in batches)
    wanted = max(crops, math.ceil(ROWS_PER_WEIGHT * weights / pictures))
    places = []
    for number, (count, height, width) in zip(numbers, batches, strict=True):
        random = np.random.default_rng((*seed, number))
        sizes = view.sizes(height, width)
        each = max(crops, min(wanted, math.prod(sizes)))
        drawn = [random.integers(size, size=count * each) for size in sizes]
        instances = np.repeat(np.arange(count), each)
        places.append(torch.from_numpy(np.stack([instances, *drawn], axis=1)))
    return Plan(places=places)


def everywhere(view: View, batches: Sequence[tuple[int, int, int]]) -> Plan:
    """All output positions of all pictures."""
    places = []
    for count, height, width in batches:
        h, w = view.sizes(height, width)
        places.append(torch.cartesian_prod(torch.arange(count), torch.arange(h), torch.arange(w)))
    return Plan(places=places)


def chunks(view: View, x: Tensor, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Patches (n, K, C) at places, a part of them at a time, so that they need little memory."""
    size = max(1, CHUNK // (view.conv.in_channels * math.prod(view.conv.kernel_size)))
    for begin in range(0, len(places), size):
        part = slice(begin, begin + size)
        yield part, view.patches(x, places[part])
