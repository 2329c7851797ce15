"""Rows of slim networks: how much of what they save in multiply-adds they save in time.

A network and its slim form are timed alike, as `prunelab.surgery.compact` makes them for prediction: batch
norms folded, channels last, large batches in parts. Beside them stand both as they are written, and what the
original exports, whose convolutions pick their inputs from channels that are all computed.

# B pictures of a batch, S their side
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from channel_prune.choosing.prunable import prunable
from channel_prune.config import NetConfig
from channel_prune.export import picked
from channel_prune.model import build
from channel_prune.slim import masked, slim
from prunelab.bench import Figure, Result, Skip, compare
from prunelab.flops import count
from prunelab.surgery import compact

RATIO = 0.5
GOAL = 0.75
"""Share of the gain in multiply-adds that is wanted in time."""
CLOSE = 1e-4
"""Most difference of a slim network to the masked one, as a share of the largest output."""
RESNET_18 = NetConfig(dataset_form="ilsvrc12", resnet_size=18, nb_classes=1001, image_size=224)
RESNET_20 = NetConfig(resnet_size=20)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A network and its pruned forms."""

    dense: nn.Module
    slim: nn.Module
    picked: nn.Module
    """All channels computed, inputs picked."""
    gain: float
    """How many times fewer multiply-adds the slim one needs."""


def largest_kernels(model: nn.Module, example: Tensor, ratio: float = RATIO) -> dict[str, list[int]]:
    """The input channels with the largest L1 norm of all convolutions but the first."""
    kept = {}
    for layer in prunable(model, example)[1:]:
        norms = layer.conv.weight.detach().abs().sum((0, 2, 3))  # (C,)
        number = max(1, int(len(norms) * (1 - ratio)))
        kept[layer.name] = sorted(norms.topk(number).indices.tolist())
    return kept


def made(cfg: NetConfig) -> nn.Module:
    """A network with weights and statistics that are those of no fresh one."""
    torch.manual_seed(0)
    model = build(cfg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def pair_of(cfg: NetConfig, *, round_to: int = 1) -> Pair:
    """A network, its slim form, and what the original exports; both were held against the masked network.

    Raises:
        AssertionError: they answer otherwise.
    """
    model = made(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)
    kept = largest_kernels(model, example)
    small = slim(model, kept, example, round_to=round_to).model
    gathered = picked(model, kept)
    x = torch.randn(2, 3, cfg.image_size, cfg.image_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = masked(model, kept)(x)
        for network in (small, gathered, compact(small, x)):
            apart = float((network(x) - expected).abs().max() / expected.abs().max())
            if not apart <= CLOSE:
                raise AssertionError(f"a slim network differs from the masked one by {apart:.2g}")
    gain = count(model, example).macs / count(small, example).macs
    return Pair(dense=model, slim=small, picked=gathered, gain=gain)


def _side(network: nn.Module, x: Tensor, *, channels_last: bool = False) -> Callable[[], Tensor]:
    if channels_last:
        network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = x.contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.inference_mode():
            return network(x)

    return run


def _same_shape(one: Tensor, other: Tensor) -> bool:
    """All that a pruned and a full network have in common; `pair_of` compares the rest."""
    return one.shape == other.shape


def slim_rows(
    name: str, cfg: NetConfig, batch: int, *, round_to: int = 1, goal: float | None = GOAL
) -> list[Result]:
    """A slim network beside the full one: seconds of a batch, and what was saved in multiply-adds.

    Args:
        name: of the network.
        cfg: it.
        batch: B.
        round_to: numbers of channels are rounded up to multiples of it.
        goal: share of the gain in multiply-adds that is wanted in time; None: none is.
    """
    found = pair_of(cfg, round_to=round_to)
    side = cfg.image_size
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(2))
    what = f"{name} slim" + (f", channels in {round_to}s" if round_to > 1 else "")
    return [
        compare(
            f"{what}, batch {batch}",
            _side(compact(found.slim, x[:1]), x),
            _side(compact(found.dense, x[:1]), x),
            _same_shape,
            extra={
                "full, as written": _side(found.dense, x),
                "full, channels last": _side(found.dense, x, channels_last=True),
                "inputs picked": _side(found.picked, x),
                "slim, as written": _side(found.slim, x),
                "slim, channels last": _side(found.slim, x, channels_last=True),
            },
            work=batch,
            unit="pictures",
            goal=None if goal is None else goal * found.gain,
            note=f"{side}x{side}, r = {RATIO}, float32, {torch.get_num_threads()} threads; ours and the "
            f"reference both folded; a goal is {GOAL:.0%} of the gain in multiply-adds",
        ),
        _gain(f"{what}: gain in multiply-adds", found.gain),
    ]


def _gain(name: str, gain: float) -> Figure:
    return Figure(name=name, ours=gain, reference=1.0, unit="times fewer")


def torch_pruning_rows(name: str, cfg: NetConfig, batch: int) -> list[Result]:
    """Torch-Pruning's L1 norm at as many multiply-adds, timed as ours is."""
    model = made(cfg)
    side = cfg.image_size
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(2))
    small = by_torch_pruning(model, x[:1], 1 / pair_of(cfg).gain)
    gain = count(model, x[:1]).macs / count(small, x[:1]).macs
    return [
        compare(
            f"{name} by torch-pruning, batch {batch}",
            _side(compact(small, x[:1]), x),
            _side(compact(model, x[:1]), x),
            _same_shape,
            extra={
                "full, as written": _side(model, x),
                "pruned, as written": _side(small, x),
                "pruned, channels last": _side(small, x, channels_last=True),
            },
            work=batch,
            unit="pictures",
            note=f"{side}x{side}, float32, {torch.get_num_threads()} threads; its channels, our prediction",
        ),
        _gain(f"{name} by torch-pruning: gain in multiply-adds", gain),
    ]


def by_torch_pruning(model: nn.Module, example: Tensor, share: float) -> nn.Module:
    """Torch-Pruning's network with at most this share of the multiply-adds.

    Raises:
        Skip: the package is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise Skip("torch-pruning is not installed") from error
    dense = count(model, example).macs

    def pruned(ratio: float) -> nn.Module:
        twin = copy.deepcopy(model)
        classifiers: list[nn.Module] = [m for m in twin.modules() if isinstance(m, nn.Linear)]
        torch_pruning.pruner.MagnitudePruner(
            twin,
            example,
            torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=classifiers,
        ).step()
        return twin

    low, high = 0.0, 0.9
    for _ in range(10):
        middle = (low + high) / 2
        above = count(pruned(middle), example).macs > share * dense
        low, high = (middle, high) if above else (low, middle)
    return pruned(high)


def _slim_18(batch: int, round_to: int = 1) -> Callable[[], list[Result]]:
    return lambda: slim_rows("ResNet-18", RESNET_18, batch, round_to=round_to)


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "slim-resnet18": _slim_18(64),
    "slim-resnet18-in-16s": _slim_18(64, round_to=16),
    "slim-resnet18-one": _slim_18(1),
    "slim-resnet20": lambda: slim_rows("ResNet-20", RESNET_20, 128, goal=None),
    "slim-resnet20-one": lambda: slim_rows("ResNet-20", RESNET_20, 1, goal=None),
    "slim-torch-pruning": lambda: torch_pruning_rows("ResNet-18", RESNET_18, 64),
    "slim-torch-pruning-one": lambda: torch_pruning_rows("ResNet-18", RESNET_18, 1),
}
"""What ``bench`` measures."""
