"""The original's way to choose channels, written down plainly: what the fast one is measured against.

For every layer and every mini-batch both whole networks run; patches are kept as lists of double precision
arrays, one a channel; the selection is found by up to thirty runs of 100 steps; the reconstruction by 100
steps over all patches.

# B pictures of a mini-batch, N rows, K kernel positions, C input channels, O outputs
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.choosing.draws import Draws
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PlainLayer:
    """What was found for one layer."""

    name: str
    kept: list[int]
    weight: Tensor
    """(O, C, h, w), zero where a channel is not kept."""
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """The original's flags."""

    crops: int = 10
    samples: int = 1000
    ista_rate: float = 0.01
    ista_steps: int = 100
    adam_rate: float = 1e-3
    adam_steps: int = 100
    decay: float = 2e-4


def choose_plainly(
    model: nn.Module,
    batches: Sequence[Tensor],
    names: Sequence[str],
    ratios: Sequence[float],
    draws: Draws,
    settings: PlainSettings,
) -> list[PlainLayer]:
    """Prune the input channels of convolutions one after the other.

    Args:
        model: the network; it stays as it is.
        batches: pictures (B, 3, H, W).
        names: paths of the convolutions in the order in which they are treated.
        ratios: how much of each layer's input channels goes.
        draws: the random numbers.
        settings: the original's flags.
    """
    full, pruned = _training_copy(model), _training_copy(model)
    found = []
    for index, (name, ratio) in enumerate(zip(names, ratios, strict=True)):
        draws.begin(index)
        conv = pruned.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        patches, outputs = _sample(full, pruned, name, batches, draws, settings.crops)
        wanted = settings.crops * settings.samples
        rows = draws.choice(len(outputs), wanted)
        patches = [one[rows] for one in patches]  # C of (N, K)
        outputs = outputs[rows]  # (N, O)
        kept = _select(conv.weight.detach(), patches, outputs, ratio, draws, settings)
        weight, before, after = _reconstruct(conv.weight.detach(), patches, outputs, kept, settings)
        with torch.no_grad():
            conv.weight.copy_(weight)
        found.append(PlainLayer(name=name, kept=kept, weight=weight, loss_before=before, loss_after=after))
    return found


def _training_copy(model: nn.Module) -> nn.Module:
    """A copy in training mode that leaves its running statistics alone."""
    made = copy.deepcopy(model).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return made


def _run(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run the whole network; the input of a convolution, padded, and its output without bias."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        sides = module._reversed_padding_repeated_twice
        bias = 0 if module.bias is None else module.bias.view(-1, 1, 1)
        seen.extend([F.pad(inputs[0], sides), output - bias])

    handle = model.get_submodule(name).register_forward_hook(look)
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return seen[0], seen[1]


def _sample(
    full: nn.Module, pruned: nn.Module, name: str, batches: Sequence[Tensor], draws: Draws, crops: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Patches of the pruned network, C of (N, K), and outputs of the full one (N, O)."""
    conv = pruned.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    patches: list[list[np.ndarray]] = [[] for _ in range(conv.in_channels)]
    outputs: list[np.ndarray] = []
    for images in batches:
        pair = [_run(net, name, images) for net in (full, pruned)]
        cut: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
        for _ in range(crops):
            oh, ow = (draws.position(size) for size in pair[0][1].shape[2:])
            for side, (x, y) in enumerate(pair):
                cut[side].append(_cut(conv, x, y, oh, ow))
        for side, net in enumerate((full, pruned)):
            _check(net.get_submodule(name), cut[side])
        for (patch, _), (_, output) in zip(cut[1], cut[0], strict=True):
            for channel in range(conv.in_channels):
                patches[channel].append(patch[:, :, channel])
            outputs.append(output)
    return [np.concatenate(parts) for parts in patches], np.concatenate(outputs)


def _cut(conv: nn.Conv2d, x: Tensor, y: Tensor, oh: int, ow: int) -> tuple[np.ndarray, np.ndarray]:
    """The patches (B, K, C) under an output position, and the outputs (B, O) there."""
    top, left = oh * conv.stride[0], ow * conv.stride[1]
    height, width = conv.kernel_size
    patch = x[:, :, top : top + height, left : left + width]
    rows = patch.permute(0, 2, 3, 1).reshape(len(x), height * width, -1)  # (B, C, h, w) to (B, K, C)
    return rows.double().numpy(), y[:, :, oh, ow].double().numpy()


def _check(conv: nn.Module, cut: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Patches times kernel must be the outputs."""
    assert isinstance(conv, nn.Conv2d)
    kernel = _rows(conv.weight.detach()).double().numpy()
    x = np.concatenate([patch for patch, _ in cut])
    y = np.concatenate([output for _, output in cut])
    error = np.mean((x.reshape(len(x), -1) @ kernel - y) ** 2)
    if not error < 1e-6:
        raise UserError(f"unable to recover output feature maps: mean squared error {error:g}")


def _rows(weight: Tensor) -> Tensor:
    """(O, C, h, w) to (K C, O)."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _select(
    weight: Tensor,
    patches: list[np.ndarray],
    outputs: np.ndarray,
    ratio: float,
    draws: Draws,
    settings: PlainSettings,
) -> list[int]:
    """The channels that the unconverged LASSO leaves."""
    channels = weight.shape[1]
    rows = draws.choice(len(outputs), math.ceil(min(len(outputs), 10 * len(outputs) / outputs.shape[1])))
    kernels = weight.permute(1, 2, 3, 0).reshape(channels, -1, weight.shape[0]).double().numpy()  # (C, K, O)
    columns = [(patches[i][rows] @ kernels[i]).reshape(-1) for i in range(channels)]
    z, y = np.stack(columns, axis=1), outputs[rows].reshape(-1)
    quadratic, linear = z.T @ z, z.T @ y
    norm = np.linalg.norm(quadratic)
    a, b = (torch.from_numpy(part / norm).float() for part in (quadratic, linear))
    start = torch.from_numpy(draws.start(channels)).float()

    def solve(gamma: float) -> Tensor:
        m, rate = start.clone(), settings.ista_rate
        for _ in range(settings.ista_steps):
            m = F.softshrink(m - rate * (a @ m - b), gamma * rate)
        return m

    target = int(channels * (1.0 - ratio))
    low, high = 0.0, 0.1
    while int(torch.count_nonzero(m := solve(high))) > target:
        high *= 2
    while (count := int(torch.count_nonzero(m))) != target and high - low > 1e-8:
        middle = (low + high) / 2
        m = solve(middle)
        count = int(torch.count_nonzero(m))
        low, high = (low, middle) if count < target else (middle, high) if count > target else (low, high)
    return torch.nonzero(m).flatten().tolist()


def _reconstruct(
    weight: Tensor,
    patches: list[np.ndarray],
    outputs: np.ndarray,
    kept: list[int],
    settings: PlainSettings,
) -> tuple[Tensor, float, float]:
    """The new kernel (O, C, h, w), and the loss on these rows before and after."""
    beta = torch.zeros(weight.shape[1])
    beta[kept] = 1
    stacked = np.stack(patches, axis=2)  # (N, K, C)
    x = (torch.from_numpy(stacked).float() * beta).reshape(len(stacked), -1)
    y = torch.from_numpy(outputs).float()
    w = _rows(weight).clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    before = _loss(x, y, w)
    for step in range(1, settings.adam_steps + 1):
        g = x.T @ (x @ w - y) / len(x) + settings.decay * w
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        rate = settings.adam_rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        w = w - rate * m / (v.sqrt() + 1e-8)
    after = _loss(x, y, w)
    outs, channels, height, width = weight.shape
    kernel = w.reshape(height, width, channels, outs) * beta[:, None]
    return kernel.permute(3, 2, 0, 1).contiguous(), before, after


def _loss(x: Tensor, y: Tensor, w: Tensor) -> float:
    return float((x @ w - y).double().square().sum() / (2 * len(x)))
