"""Rows of the choice: a whole ResNet-20 and the original's way, in time and in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from channel_prune.benches.choose_reference import PlainSettings, choose_plainly
from channel_prune.choosing.choose import choose
from channel_prune.choosing.draws import SeededDraws
from channel_prune.choosing.prunable import prunable, ratios
from channel_prune.choosing.recalibrate import norms, recalibrate
from channel_prune.config import NetConfig, PruneConfig
from channel_prune.model import build
from prunelab.bench import Result, compare
from prunelab.bench.memory import peak_above, peak_figure

RATIO, CROPS, DECAY = 0.5, 10, 2e-4
CLOSE = 2e-3
"""Most difference of a kernel to the reference's at equal random numbers, after 100 steps of 1e-3: Adam's
first steps are as long for a gradient that is rounding alone."""
GOAL = 18.0

ORIGINAL = PruneConfig(
    prune_ratio=RATIO,
    nb_crops_per_smpl=CROPS,
    loss_w_dcy=DECAY,
    selection="ista",
    reconstruction="adam",
    sample_mode="train",
    positions="crops",
    compensate_shortcut=False,
    recalibrate=0,
)
EXACT = PruneConfig(prune_ratio=RATIO, nb_crops_per_smpl=CROPS, loss_w_dcy=DECAY)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is pruned, and on how many pictures."""

    pictures: int = 1000
    batch: int = 125
    depth: int = 20
    width_divisor: int = 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a side made of the network."""

    weights: dict[str, Tensor]
    kept: dict[str, list[int]]
    norms: dict[str, dict[str, Tensor]]
    """Batch normalisations; without any, they are to be measured."""
    way: PruneConfig | None
    """Ours; None for the reference."""


def problem(size: Size) -> tuple[nn.Module, list[Tensor]]:
    """A network with the statistics of these pictures, and the pictures: smooth ones with fine noise."""
    torch.manual_seed(0)
    net = NetConfig(name="resnet_v1", resnet_size=size.depth, width_divisor=size.width_divisor)
    coarse = torch.randn(size.pictures, 3, 8, 8)
    images = nn.functional.interpolate(coarse, 32, mode="bicubic") + 0.1 * torch.randn(
        size.pictures, 3, 32, 32
    )
    model, batches = build(net).eval(), list(images.split(size.batch))
    recalibrate(model, batches)
    return model, batches


def ours(model: nn.Module, batches: Sequence[Tensor], cfg: PruneConfig) -> Found:
    """Our way, on a copy."""
    model = copy.deepcopy(model)
    choice = choose(model, batches, cfg)
    weights = {name: _weight(model, name) for name in choice.kept}
    states = {name: norm.state_dict() for name, norm in norms(model).items()} if cfg.recalibrate else {}
    return Found(weights=weights, kept=choice.kept, norms=states, way=cfg)


def theirs(model: nn.Module, batches: Sequence[Tensor]) -> Found:
    """The original's way."""
    layers = prunable(model, batches[0][:1])
    names = [layer.name for layer in layers]
    settings = PlainSettings(crops=CROPS, samples=sum(map(len, batches)), decay=DECAY)
    found = choose_plainly(model, batches, names, ratios(layers, ORIGINAL), SeededDraws(0), settings)
    weights = {one.name: one.weight for one in found}
    return Found(weights=weights, kept={one.name: one.kept for one in found}, norms={}, way=None)


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).get_parameter("weight").detach()


def same(found: Found, expected: Found) -> bool:
    """Equal random numbers leave equal channels, and equal kernels but for rounding."""
    pairs = ((found.weights[name], weight) for name, weight in expected.weights.items())
    return found.kept == expected.kept and all(bool(((a - b).abs() <= CLOSE).all()) for a, b in pairs)


def error(model: nn.Module, batches: Sequence[Tensor], found: Found) -> float:
    """How far convolutions' outputs are from the full network's: share of their variance, mean of all."""
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in found.weights.items():
            pruned.get_submodule(name).get_parameter("weight").copy_(weight)
    for name, state in found.norms.items():
        pruned.get_submodule(name).load_state_dict(state)
    if not found.norms:
        recalibrate(pruned, batches)
    with torch.no_grad():
        pairs = zip(_outputs(pruned, batches[0]), _outputs(model, batches[0]), strict=True)
        shares = [(a - b).square().mean() / b.var((0, 2, 3)).mean() for a, b in pairs]
    return float(torch.stack(shares).mean())


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What every convolution makes of these pictures, in order."""
    seen: list[Tensor] = []
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]

    def look(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    handles = [conv.register_forward_hook(look) for conv in convs]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def whole(size: Size | None = None) -> Result:
    """Choose and reconstruct all layers, end to end."""
    size = size or Size()
    model, batches = problem(size)

    def check(found: Found, expected: Found) -> bool:
        if found.way is ORIGINAL:
            return same(found, expected)
        return error(model, batches, found) <= error(model, batches, expected)

    return compare(
        f"choose and reconstruct ResNet-{size.depth}, {size.pictures:,} images x {CROPS} crops",
        partial(ours, model, batches, EXACT),
        partial(theirs, model, batches),
        check,
        extra={"original's steps": partial(ours, model, batches, ORIGINAL)},
        work=size.pictures,
        unit="images",
        goal=GOAL,
        note=f"v1 form, ratio {RATIO:g}, batch {size.batch}, float32, {torch.get_num_threads()} threads; "
        "ours: exact LASSO and least squares, batch norms measured again, layers' outputs nearer to the "
        "full network's; the original's steps at equal random numbers: equal channels, kernels within "
        f"{CLOSE:g}",
    )


def peak_of(side: str, size: Size, threads: int) -> int:
    """Bytes that this process needed at its peak, beyond what it had before the choice."""
    torch.set_num_threads(threads)
    small = problem(Size(pictures=16, batch=8, depth=8, width_divisor=4))
    ours(*small, EXACT)  # what libraries set up once
    model, batches = problem(size)
    return peak_above(lambda: ours(model, batches, EXACT) if side == "ours" else theirs(model, batches))


def memory(size: Size | None = None) -> Result:
    """Peak memory of the choice, a fresh process a side."""
    size = size or Size()
    return peak_figure(
        f"peak memory of choosing, ResNet-{size.depth}, {size.pictures:,} images",
        peak_of,
        size,
        note="resident memory of a fresh process at its peak, less what it had with network and pictures",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "choose": whole,
    "choose-memory": memory,
    "choose-small": lambda: whole(Size(pictures=256, batch=128, depth=8)),
}
"""What ``bench`` measures."""
