"""Choose the channels of a network, layer by layer, and refit every layer to what the full network does.

For each convolution in turn: rows are sampled (what it reads in the pruned network, what it puts out in the
full one), input channels are selected, and the kernel is fitted again to the full network's outputs. So a
layer also repairs what the layers before it have spoiled, and one whose ratio is 0 is refitted as well.

# B pictures, C input channels, O outputs, N rows
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune.choosing.draws import Draws, SeededDraws
from channel_prune.choosing.fit import fit, least_channels, untouched
from channel_prune.choosing.gram import on_one
from channel_prune.choosing.masks import pruned_shares
from channel_prune.choosing.prunable import Layer, prunable, ratios
from channel_prune.choosing.recalibrate import norms, recalibrate
from channel_prune.choosing.rows import Rows, few, sampling_mode
from channel_prune.choosing.workers import Workers
from channel_prune.config import PruneConfig
from prunelab import dist
from prunelab.errors import UserError

LARGE = 1024
"""From so many weights of an output on, solving for them is shared out to all threads."""
Once = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """What was done to one layer; plain data."""

    name: str
    """The convolution's path."""
    channels: int
    """Input channels that it has."""
    ratio: float
    """How much of them was to go."""
    target: int
    """How many were to stay."""
    kept: list[int]
    """Those that stayed, ascending."""
    gamma: float | None
    """Weight of the penalty; None where the selection has none."""
    trace: list[tuple[float, int]]
    """Penalties and how many channels each leaves, in the order in which they were looked at."""
    norm: float
    """Frobenius norm that the selection's problem was divided by."""
    rows: int
    """Samples that the layer was refitted to."""
    loss_before: float
    """||X W - Y||^2 / (2 N) with the kernel as it was, pruned."""
    loss_after: float
    """The same with the new kernel."""
    pr_trn: float
    """Share of all trainable numbers that is zero after this layer."""
    pr_krn: float
    """Share of the kernels' numbers."""
    seconds: float
    """That it took."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen."""

    records: list[LayerRecord]
    """Of all layers in order."""

    @property
    def kept(self) -> dict[str, list[int]]:
        """The input channels that every convolution keeps, by its path."""
        return {record.name: record.kept for record in self.records}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Choice:
        """The inverse of `as_dict`, also after a JSON file made lists of pairs."""
        return cls(records=[_record(one) for one in data["records"]])


def _record(data: dict[str, Any]) -> LayerRecord:
    return LayerRecord(**{**data, "trace": [(gamma, count) for gamma, count in data["trace"]]})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the choice stands."""

    record: LayerRecord
    """The layer that is done."""
    done: int
    """Layers that are."""
    total: int
    """Layers there are."""
    seconds_left: float
    """Until the end, by the layers so far."""


def choose(
    model: nn.Module,
    batches: Sequence[Tensor],
    cfg: PruneConfig,
    *,
    example: Tensor | None = None,
    draws: Draws | None = None,
    once: Once | None = None,
    on_layer: Callable[[Progress], None] | None = None,
) -> Choice:
    """Choose channels and refit layers, in place: kernels are zero where a channel is not kept.

    Biases of refitted layers take in what the fit leaves over; where batch normalisation is measured again,
    its statistics change, and the weights of those that end a residual branch.

    In several processes the original's way (``positions`` is ``crops``) runs on rank 0 alone; otherwise every
    process brings batches of its own, and sums are added up. All end with the same network.

    Args:
        model: the trained network.
        batches: pictures (B, 3, H, W).
        cfg: how.
        example: an input to follow the network with; None: the first picture.
        draws: random numbers of the original's way; None: seeded by the configuration.
        once: keeps a layer's result and gives it back on resume (`prunelab.run.Run.once`).
        on_layer: is told after each layer.

    Raises:
        UserError: see `channel_prune.choosing.prunable`; or patches do not give a layer's outputs.
    """
    with Workers(len(batches), next(model.parameters()).device) as workers:
        return _Choosing(model, batches, cfg, example, draws, once, workers).run(on_layer)


class _Choosing:
    """A choice on its way."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        cfg: PruneConfig,
        example: Tensor | None,
        draws: Draws | None,
        once: Once | None,
        workers: Workers,
    ) -> None:
        self.model, self.cfg, self.workers = model, cfg, workers
        device = next(model.parameters()).device
        self.batches = [one.to(device, memory_format=torch.channels_last) for one in batches]
        self.example = self.batches[0][:1] if example is None else example.to(device)
        self.layers = prunable(model, self.example)
        self.ratios = ratios(self.layers, cfg)
        self.wanted = [
            least_channels(layer.name, layer.conv.in_channels, ratio, cfg)
            for layer, ratio in zip(self.layers, self.ratios, strict=True)
        ]
        self.once = once or (lambda _, work: dist.on_main(work))
        self.draws = SeededDraws(cfg.seed) if draws is None else draws
        self.alone = cfg.positions == "crops"  # the original's rows, on rank 0
        pruned = [p for p, layer in enumerate(self.layers) if self.wanted[p] < layer.conv.in_channels]
        # The original refits every layer; an exact fit of one that nothing has changed yet is what it is.
        self.first = 0 if cfg.reconstruction == "adam" else min(pruned, default=len(self.layers))
        self.full = copy.deepcopy(model)
        self.rows: Rows | None = None
        self.added: dict[str, Tensor] = {}

    def run(self, on_layer: Callable[[Progress], None] | None) -> Choice:
        """All layers."""
        begin = time.monotonic()
        records: list[LayerRecord] = []
        with sampling_mode(self.model, self.cfg.sample_mode):
            for place, layer in enumerate(self.layers):
                found = self._keep(f"layer {place} {layer.name}", lambda place=place: self._layer(place))
                self._apply(layer, found)
                records.append(_record({**found["record"], **self._shares()}))
                if on_layer is not None:
                    done, total = place + 1, len(self.layers)
                    left = (time.monotonic() - begin) / done * (total - done)
                    on_layer(Progress(record=records[-1], done=done, total=total, seconds_left=left))
        self._measure()
        return Choice(records=records)

    def _keep(self, key: str, work: Callable[[], Any]) -> Any:
        """The result of some work, done now or before; on rank 0, or by all processes together."""
        if self.alone or dist.world_size() == 1:

            def alone() -> Any:
                with on_one():
                    return work()

            return self.once(key, alone)
        found = work()
        return self.once(key, lambda: found)

    @torch.no_grad()
    def _apply(self, layer: Layer, found: Mapping[str, Any]) -> None:
        layer.conv.weight.copy_(found["weight"])
        if found["added"] is not None:
            self.added[layer.name] = found["added"]
        if layer.conv.bias is not None:
            layer.conv.bias.copy_(found["bias"])

    def _shares(self) -> dict[str, float]:
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        found = pruned_shares(trainable, [layer.conv.weight for layer in self.layers])
        return {name: float(share) for name, share in found.items()}

    def _layer(self, place: int) -> dict[str, Any]:
        """Sample, select and refit; what is found, and nothing is changed."""
        begin = time.monotonic()
        layer, wanted = self.layers[place], self.wanted[place]
        conv = layer.conv
        record: dict[str, Any] = {
            "name": layer.name,
            "channels": conv.in_channels,
            "ratio": self.ratios[place],
            "target": wanted,
        }
        added = None
        if place < self.first:
            found = untouched(conv.weight)
        else:
            rows = self._rows(place)
            self.draws.begin(place)
            sums = rows.sums(place)
            if not sums.gram.finite:
                raise UserError(
                    f"{layer.name}: what the network computes there is not finite on these pictures; "
                    "expected a trained network, and pictures prepared as in its training"
                )
            added = sums.added
            with self.workers.wide() if len(sums.gram.g) > LARGE else nullcontext():
                found = fit(conv.weight, sums, wanted, self.cfg, self.draws, shifted=rows.shifts(place))
        kept, gamma, trace = found.selection.kept, found.selection.gamma, found.selection.trace
        record |= {"kept": kept, "gamma": gamma, "trace": trace, "norm": found.norm, "rows": found.rows}
        record |= {"loss_before": found.loss_before, "loss_after": found.loss_after}
        record["seconds"] = time.monotonic() - begin
        bias = None if conv.bias is None else conv.bias.detach() + found.shift.to(conv.bias)
        return {"record": record, "weight": found.weight, "bias": bias, "added": added}

    def _rows(self, place: int) -> Rows:
        """Where rows come from; begun at the first layer that needs some."""
        if self.rows is None:
            self.rows = Rows(
                self.model,
                self.full,
                self.batches,
                self.layers,
                self.cfg,
                self.draws,
                self.example,
                added=self.added,
                begin=place,
                changed=self.first,
                workers=self.workers,
            )
        return self.rows

    @torch.no_grad()
    def _measure(self) -> None:
        """Give batch normalisations the statistics of the pruned network, where that is wanted."""
        if not self.cfg.recalibrate or self.first == len(self.layers):
            return

        def work() -> dict[str, Any]:
            if self.cfg.sample_mode == "eval":
                with sampling_mode(self.model, "eval"):
                    self._rows(len(self.layers)).finish()
            else:
                with self.workers.wide():
                    recalibrate(self.model, self.batches[: few(self.batches, self.cfg.recalibrate)])
            return {
                name: {kind: value.detach().clone() for kind, value in norm.state_dict().items()}
                for name, norm in norms(self.model).items()
            }

        found = self._keep("statistics", work)
        for name, norm in norms(self.model).items():
            norm.load_state_dict(found[name])
