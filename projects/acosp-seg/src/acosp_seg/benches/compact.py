"""Rows of the compact networks: a prediction, and a training step of the slim network, beside the others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from acosp.inject import soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp_seg.compact import slim_for_training
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from prunelab.bench import Figure, Result, compare
from prunelab.surgery import Program, compact

RATIO = 16
SLIM_RATIO = 8
LOSS_CLOSE = 1e-3
"""Most difference of the first step's losses, in single precision."""
CLOSE = 1e-4
"""Most difference to the masked network, relative to its largest output ..."""
MOVED = 1e-5
"""... but for this share of the outputs: where two values are nearly equal, unpooling may take the other."""


def masked(arch: str, classes: int, ratio: int, *, width: int = 64) -> Network:
    """A network with random hard masks and statistics of batch norm as after a training."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = 50 if arch == "psp" else None
    model = build(ModelConfig(arch=arch, layers=layers, classes=classes, width=width))
    SoftTopKPruner(1 - 1 / ratio, ending_epoch=1).configure_model(model)
    soft_to_hard_k(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return model.eval()


def prediction(
    arch: str, classes: int, size: tuple[int, int], goal: float, *, width: int = 64
) -> list[Result]:
    """One picture through the compact, the dense and the masked network, and their parameters.

    The dense network is of another training, so only compact and masked outputs are compared.
    """
    model = masked(arch, classes, RATIO, width=width)
    dense = build(model.cfg).eval()
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    small = compact(model, x)
    found = _sides({"ours": small, "reference": dense, "masked": model}, x)
    assert_equal(small, model, x)
    title = f"{arch} compact {RATIO}x"
    counts = [sum(p.numel() for p in net.parameters()) for net in (small, dense)]
    return [
        compare(
            f"{title} against dense",
            found["ours"],
            found["reference"],
            lambda one, other: one.shape == other.shape,
            extra={"masked": found["masked"]},
            goal=goal,
            note=f"batch 1, {size[0]}x{size[1]}, float32, {torch.get_num_threads()} threads",
        ),
        Figure(
            name=f"{title}: parameters",
            ours=counts[0],
            reference=counts[1],
            unit="parameters",
            note="random masks; the dense network with its auxiliary head",
        ),
    ]


def parameters(
    arch: str, classes: int, ratios: tuple[int, ...] = (2, 4, 8), *, width: int = 64
) -> list[Result]:
    """How many parameters compact networks have; those of `RATIO` stand beside their speed."""
    found: list[Result] = []
    for ratio in ratios:
        model = masked(arch, classes, ratio, width=width)
        small = compact(model, torch.zeros(1, 3, 57, 57))
        counts = [sum(p.numel() for p in net.parameters()) for net in (small, model)]
        title = f"{arch} compact {ratio}x: parameters"
        found.append(Figure(name=title, ours=counts[0], reference=counts[1], unit="parameters"))
    return found


def _sides(networks: dict[str, nn.Module], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    def side(network: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode():
                return network(x)

        return run

    return {name: side(network) for name, network in networks.items()}


def assert_equal(small: Program, model: nn.Module, x: Tensor) -> None:
    """Hold the compact network against the masked one.

    Raises:
        AssertionError: they differ.
    """
    with torch.inference_mode():
        found, expected = small(x), model(x)
    wrong = (found - expected).abs() > CLOSE * expected.abs().max()
    if not wrong.double().mean() <= MOVED:
        raise AssertionError(f"compact and masked network differ at {int(wrong.sum())} outputs")


def slim_step(arch: str, classes: int, size: tuple[int, int], *, batch: int = 2, width: int = 64) -> Result:
    """A training step of the slim network beside one with hard masks and one of the dense network.

    Both train from the same weights on the same pictures, and drop equal channels: losses are compared.
    """
    x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    y = torch.randint(0, classes, (batch, *size), generator=torch.Generator().manual_seed(2))
    model = masked(arch, classes, SLIM_RATIO, width=width)
    networks = {
        "ours": slim_for_training(copy.deepcopy(model)),
        "reference": model,
        "dense": build(model.cfg),
    }

    def step(side: str) -> Callable[[], tuple[str, float]]:
        network = networks[side].train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

        def run() -> tuple[str, float]:
            torch.manual_seed(0)
            _, main, auxiliary = network.losses(x, y)
            optimizer.zero_grad(set_to_none=True)
            (main + 0.4 * auxiliary).backward()
            optimizer.step()
            return side, main.item()

        return run

    return compare(
        f"{arch} slim {SLIM_RATIO}x training step",
        step("ours"),
        step("reference"),
        lambda one, other: one[0] == "dense" or abs(one[1] - other[1]) <= LOSS_CLOSE,
        extra={"dense": step("dense")},
        note=f"batch {batch}, {size[0]}x{size[1]}, float32, SGD, {torch.get_num_threads()} threads",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "segnet-compact": lambda: prediction("segnet", 11, (360, 480), 15.0),
    "psp-compact": lambda: prediction("psp", 19, (473, 473), 8.0),
    "segnet-parameters": lambda: parameters("segnet", 11),
    "psp-parameters": lambda: parameters("psp", 19),
    "segnet-slim-step": lambda: slim_step("segnet", 11, (180, 240)),
    "psp-slim-step": lambda: slim_step("psp", 19, (233, 233)),
}
"""What ``bench`` measures."""
