"""Where a choice's rows come from: the full network's outputs and the pruned one's inputs, at equal places.

The full network runs once, and its outputs at the drawn places are kept, of all layers; the pruned one goes
along with the choice (`channel_prune.choosing.frontier`).

# B pictures, C input channels, K kernel positions, O outputs, n rows of a mini-batch
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from channel_prune.choosing.draws import Draws
from channel_prune.choosing.fit import Sums
from channel_prune.choosing.frontier import frontier
from channel_prune.choosing.gram import Gram, add_up, processes
from channel_prune.choosing.prunable import Layer
from channel_prune.choosing.recalibrate import by_batch
from channel_prune.choosing.sampling import (
    Plan,
    View,
    at,
    check_recovered,
    chunks,
    everywhere,
    planned,
    scattered,
)
from channel_prune.choosing.shortcut import factor
from channel_prune.choosing.workers import Workers
from channel_prune.config import PruneConfig
from prunelab import dist
from prunelab.modes import evaluating

LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says what a container may take."""


@contextmanager
def sampling_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """For a while: ``eval``, or ``train``, with statistics of the batch, dropout, and nothing remembered."""
    with evaluating(model):
        if mode == "eval":
            yield
        else:
            model.train()
            with by_batch(model):
                yield


def few(batches: Sequence[Tensor], pictures: int) -> int:
    """How many mini-batches hold this process's share of so many pictures, or all there are."""
    counts = np.cumsum([len(images) for images in batches])
    share = -(-pictures // processes())
    return min(len(batches), int(np.searchsorted(counts, share)) + 1)


def _memory(cfg: PruneConfig, device: torch.device) -> float:
    """Bytes that this process may keep of its pictures' way through the network."""
    if cfg.sample_memory is not None:
        return cfg.sample_memory * 2**30
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return physical_memory() / 2 / processes()


def physical_memory() -> float:
    """Bytes of the machine's memory, or of what a container may take of it; infinite where nobody knows."""
    try:
        whole = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
    try:
        return min(whole, float(LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or "max"
        return whole


class Rows:
    """Rows of all layers.

    Args:
        model: the network that is pruned.
        full: the network as it was.
        batches: pictures (B, 3, H, W).
        layers: in the order in which they are asked for.
        cfg: how.
        draws: random numbers of the original's rows.
        example: an input to follow the networks with.
        added: what `Sums.added` of earlier layers was, by path.
        begin: place of the first layer that will be asked for.
        changed: place of the first layer that is changed.
        workers: what mini-batches are shared out to; None: the caller takes all.
    """

    def __init__(
        self,
        model: nn.Module,
        full: nn.Module,
        batches: Sequence[Tensor],
        layers: Sequence[Layer],
        cfg: PruneConfig,
        draws: Draws,
        example: Tensor,
        *,
        added: Mapping[str, Tensor],
        begin: int,
        changed: int,
        workers: Workers | None = None,
    ) -> None:
        self._layers, self._cfg, self._full = layers, cfg, full
        self._original = cfg.positions == "crops"
        self._workers = Workers() if workers is None else workers
        names = [layer.name for layer in layers]
        measures = cfg.recalibrate and cfg.sample_mode == "eval" and changed < len(names)
        self._pruned = frontier(
            model,
            example,
            names,
            batches,
            measured_after=names[changed] if measures else None,
            measured_on=few(batches, cfg.recalibrate),
            added=added,
            workers=workers,
            memory=_memory(cfg, batches[0].device),
        )
        self.views = [View(conv=layer.conv, phased=self._original) for layer in layers]
        self._plans = self._planned(model, batches, draws)
        self._normed = self._pruned.normed if measures or cfg.sample_mode == "train" else frozenset[str]()
        ends = self._pruned.branches.items() if cfg.compensate_shortcut else ()
        self._factors = {name: factor(full, end) for name, end in ends}
        self._plain: dict[str, dict[int, Tensor]] = {}  # sums of outputs (O,) before they were added to
        self._targets: dict[str, dict[int, Tensor]] = {name: {} for name in names[begin:]}
        if self._targets:
            self._run_full(full, example, batches)

    def _planned(self, model: nn.Module, batches: Sequence[Tensor], draws: Draws) -> list[Plan]:
        """The rows of every layer, in the order in which the original draws them."""
        sizes = _input_sizes(model, [layer.conv for layer in self._layers], batches)
        plans = []
        crops = self._cfg.nb_crops_per_smpl
        for place, (view, read) in enumerate(zip(self.views, sizes, strict=True)):
            if self._original:
                draws.begin(place)
                plans.append(planned(view, read, draws, crops=crops, samples=self._cfg.nb_smpls))
            elif self._cfg.positions == "all":
                plans.append(everywhere(view, read))
            else:
                sharers, seed = dist.world_size(), (self._cfg.seed, place)
                numbers = [dist.rank() + sharers * i for i in range(len(batches))]
                plans.append(scattered(view, read, crops=crops, seed=seed, numbers=numbers, sharers=sharers))
        return plans

    def _run_full(self, full: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> None:
        """Run the full network once and keep what every layer is to be refitted to."""
        places = {layer.name: place for place, layer in enumerate(self._layers)}
        modules = dict(full.named_modules())

        def look(number: int, name: str, x: Tensor, y: Tensor, other: Tensor | None) -> None:
            plan = self._plans[places[name]]
            if name not in self._targets or number >= len(plan.places):
                return
            conv = modules[name]
            assert isinstance(conv, nn.Conv2d)
            view = View(conv=conv, phased=self._original)
            targets = view.outputs(x, y, plan.places[number])
            if self._original or number == 0:
                self._check(view, name, x, targets, plan.places[number])
            if name in self._factors and other is not None:
                self._plain.setdefault(name, {})[number] = targets.double().sum(0).cpu()
                targets = targets + self._factors[name] * at(other, plan.places[number])
            self._targets[name][number] = targets

        names = [layer.name for layer in self._layers]
        with sampling_mode(full, self._cfg.sample_mode):
            frontier(full, example, names, batches, workers=self._workers).visit(look)

    def _check(self, view: View, name: str, x: Tensor, outputs: Tensor, places: Tensor) -> None:
        for part, patches in chunks(view, x, places):
            check_recovered(view.conv, name, patches, outputs[part], relative=not self._original)

    def shifts(self, place: int) -> bool:
        """Whether a constant may be added to a layer's outputs: by its bias, or by what normalises them."""
        layer = self._layers[place]
        exact = self._cfg.reconstruction == "ridge"
        return exact and (layer.conv.bias is not None or layer.name in self._normed)

    @torch.no_grad()
    def collected(self, place: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Go on to a layer: of each mini-batch its number, the layer's input, places of rows, and targets."""
        layer, plan = self._layers[place], self._plans[place]
        targets = self._targets.pop(layer.name)
        for number, x, other in self._pruned.to(layer.name):
            if number >= len(plan.places):
                continue
            places, y = plan.places[number], targets[number]
            if layer.name in self._factors and other is not None:
                y = y - self._factors[layer.name] * at(other, places)
            yield number, x, places, y

    @torch.no_grad()
    def sums(self, place: int) -> Sums:
        """Go on to a layer and sum up its rows; collective, but for the original's rows."""
        plan, view = self._plans[place], self.views[place]
        conv = view.conv
        kernel = math.prod(conv.kernel_size)
        looks = plan.looked_at is not None and self._cfg.selection == "ista"

        def empty() -> tuple[Gram, _Looked | None]:
            gram = Gram(kernel, conv.in_channels, conv.out_channels, double=self._original)
            return gram, _Looked(conv) if looks else None

        def sums_of(collected: tuple[int, Tensor, Tensor, Tensor]) -> tuple[Gram, _Looked | None]:
            number, x, places, y = collected
            gram, looked = empty()
            if self._original:
                self._check(view, self._layers[place].name, x, view.outputs(x, conv(x), places), places)
            if looked is not None and plan.looked_at is not None:
                rows = plan.looked_at[number]
                for part, patches in chunks(view, x, places[rows]):
                    looked.add(patches, y[rows][part])
            rows = slice(None) if plan.used is None else plan.used[number]
            for part, patches in chunks(view, x, places[rows]):
                gram.add(patches, y[rows][part])
            return gram, looked

        gram, looked = empty()
        for part, seen in self._workers.map(sums_of, self.collected(place)):
            gram.merge(part)
            if looked is not None and seen is not None:
                looked.merge(seen)
        if not self._original:
            gram.reduce()
        by_number = self._plain.pop(self._layers[place].name, None)
        plain = None if by_number is None else torch.stack([by_number[i] for i in sorted(by_number)]).sum(0)
        if plain is not None and not self._original:
            add_up(plain)
        return Sums(
            gram=gram,
            looked_at=None if looked is None else looked.problem,
            start=plan.start,
            added=None if plain is None else gram.means[1] - plain / gram.rows,
        )

    def finish(self) -> None:
        """Go on to the network's end, where batch normalisations on the way are measured."""
        self._pruned.finish()


class _Looked:
    """The selection's problem from rows: what each channel alone puts out.

    Args:
        conv: with the kernel as it is.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        channels = conv.in_channels
        weight = conv.weight.detach().double()
        self._kernels = weight.permute(1, 2, 3, 0).reshape(channels, -1, len(weight))  # (C, K, O)
        self._a = torch.zeros(channels, channels, dtype=torch.float64)
        self._b = torch.zeros(channels, dtype=torch.float64)

    def add(self, patches: Tensor, y: Tensor) -> None:
        """Take in patches (n, K, C) and outputs (n, O)."""
        z = torch.bmm(patches.double().permute(2, 0, 1), self._kernels).flatten(1)  # (C, n, O) to (C, n O)
        self._a += (z @ z.T).cpu()
        self._b += (z @ y.double().flatten()).cpu()

    def merge(self, other: _Looked) -> None:
        """Take in what another one holds."""
        self._a += other._a
        self._b += other._b

    @property
    def problem(self) -> tuple[np.ndarray, np.ndarray]:
        """A (C, C) and b (C,)."""
        return self._a.numpy(), self._b.numpy()


@torch.no_grad()
def _input_sizes(
    model: nn.Module, convs: Sequence[nn.Conv2d], batches: Sequence[Tensor]
) -> list[list[tuple[int, int, int]]]:
    """Of each convolution, for each mini-batch: its pictures, and height and width of what arrives."""
    seen: dict[nn.Module, tuple[int, int]] = {}
    found: list[list[tuple[int, int, int]]] = [[] for _ in convs]
    by_shape: dict[tuple[int, ...], dict[nn.Module, tuple[int, int]]] = {}
    for images in batches:
        shape = tuple(images.shape[1:])
        if shape not in by_shape:
            handles = [
                conv.register_forward_pre_hook(lambda m, x: seen.__setitem__(m, tuple(x[0].shape[2:])))
                for conv in convs
            ]
            with evaluating(model):
                model(images[:1])
            for handle in handles:
                handle.remove()
            by_shape[shape] = dict(seen)
        for place, conv in enumerate(convs):
            height, width = by_shape[shape][conv]
            found[place].append((len(images), height, width))
    return found
