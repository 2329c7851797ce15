"""Rows of the soft masks: what they add to a training step of the dense network, in time and in memory."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acosp.pruner import SoftTopKPruner
from acosp.soft_topk import SigmoidSoftTopK
from acosp_seg.benches.mask_reference import PlainSoftMask, mask_plainly
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from prunelab.bench import Figure, Result, Row, compare
from prunelab.bench.memory import MEBI, in_fresh_process, peak_above

SPARSITY = 0.5
SIDES = ("ours", "reference", "dense")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained."""

    height: int = 360
    width: int = 480
    batch: int = 2
    classes: int = 11
    planes: int = 64
    """Base width of the network."""
    dtype: torch.dtype = torch.float32

    @property
    def words(self) -> str:
        """For a row's name."""
        return f"SegNet {self.height}x{self.width} batch {self.batch}"


def make_model(side: str, size: Size) -> Network:
    """The network of a side, the same weights and logits in all of them."""
    torch.manual_seed(0)
    model = build(ModelConfig(arch="segnet", classes=size.classes, width=size.planes))
    if side == "dense":
        return model
    plain = mask_plainly(copy.deepcopy(model), sparsity=SPARSITY)
    if side == "reference":
        assert isinstance(plain, Network)
        return plain
    SoftTopKPruner(SPARSITY, ending_epoch=1).configure_model(model)
    with torch.no_grad():
        for mine, theirs in zip(logits_of(model), logits_of(plain), strict=True):
            mine.copy_(theirs)
    return model


def logits_of(model: nn.Module) -> list[Tensor]:
    """The mask logits of a side, layer by layer."""
    return [m.weight for m in model.modules() if isinstance(m, SigmoidSoftTopK | PlainSoftMask)]


def make_step(side: str, size: Size) -> Callable[[], dict[str, Any]]:
    """A function that makes one training step: losses, backward, SGD with momentum."""
    model = make_model(side, size).to(size.dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size.batch, 3, size.height, size.width, generator=generator).to(size.dtype)
    y = torch.randint(0, size.classes, (size.batch, size.height, size.width), generator=generator)

    def step() -> dict[str, Any]:
        optimizer.zero_grad(set_to_none=True)
        _, loss, _ = model.losses(x, y)
        loss.backward()
        optimizer.step()
        return {"side": side, "loss": loss.item(), "model": model}

    return step


def agree(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether the loss, and in double precision the gradients, are the reference's.

    In single precision two ways to round lead the poolings of so deep a network to other places here and
    there, which moves the gradients of a large noisy picture by many per cent. A dense step has another loss.
    """
    if found["side"] == "dense":
        return True
    exact = next(found["model"].parameters()).dtype == torch.float64
    if abs(found["loss"] - expected["loss"]) > (1e-10 if exact else 1e-3):
        return False
    pairs = zip(_gradients(found["model"]), _gradients(expected["model"]), strict=True)
    return not exact or all((ours - theirs).norm() <= 1e-9 * theirs.norm() for ours, theirs in pairs)


def _gradients(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Gradients of all convolutions' weights, and of all mask logits, as two vectors."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    parts = ([w.grad.flatten() for w in some if w.grad is not None] for some in (weights, logits_of(model)))
    weight, logits = (torch.cat(part) for part in parts)
    return weight, logits


def step_time(size: Size | None = None) -> list[Result]:
    """A soft-masked step beside the plain way and the dense one, and what each adds to the dense one."""
    size = size or Size()
    exact = Size(height=48, width=64, planes=16, dtype=torch.float64)
    if not agree(make_step("ours", exact)(), make_step("reference", exact)()):
        raise AssertionError("in double precision, the soft-masked step differs from the plain one")
    steps = {side: make_step(side, size) for side in SIDES}
    note = f"float32, sparsity {SPARSITY:g}, SGD included; the plain way masks activations, layer by layer"
    row = compare(
        f"soft-masked training step, {size.words}",
        steps["ours"],
        steps["reference"],
        agree,
        extra={"dense": steps["dense"]},
        work=size.batch,
        unit="pictures",
        note=note,
    )
    dense = row.extra[0].seconds
    figure = Figure(
        name="soft-masked step / dense step",
        ours=_median_ratio(row.ours.seconds, dense),
        reference=_median_ratio(row.reference.seconds, dense),
        unit="x",
        at_most=1.08,
        note="median over the rounds of the ratio within a round",
    )
    return [row, figure]


def _median_ratio(some: tuple[float, ...], others: tuple[float, ...]) -> float:
    return statistics.median(one / other for one, other in zip(some, others, strict=True))


def peak_of(side: str, size: Size, threads: int) -> int:
    """Bytes that this process needed at its peak for two steps, beyond what it had before the model."""
    torch.set_num_threads(threads)
    make_step("dense", Size(height=32, width=32, planes=8))()  # what libraries set up once

    def twice() -> None:
        step = make_step(side, size)
        for _ in range(2):  # in the second, momentum is there from the start
            step()

    return peak_above(twice)


def step_memory(size: Size | None = None) -> list[Result]:
    """Peak memory of a training step, a fresh process a side."""
    size = size or Size()
    peaks = {side: in_fresh_process(peak_of, side, size, torch.get_num_threads()) for side in SIDES}
    figure = Figure(
        name=f"peak memory of a soft-masked step / dense, {size.words}",
        ours=peaks["ours"] / peaks["dense"],
        reference=peaks["reference"] / peaks["dense"],
        unit="x",
        at_most=1.05,
        note="resident memory of a fresh process at its peak, less what it had before the model: "
        + ", ".join(f"{side} {peak / MEBI:,.0f} MiB" for side, peak in peaks.items()),
    )
    return [figure]


ROWS: dict[str, Callable[[], Row | Figure | list[Result]]] = {
    "soft-mask-step": step_time,
    "soft-mask-memory": step_memory,
}
