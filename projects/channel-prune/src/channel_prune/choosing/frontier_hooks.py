"""The slow way through a network that cannot be traced: from its beginning to each layer, by hooks.

# B pictures
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune.choosing.recalibrate import Statistics, norms
from channel_prune.choosing.shortcut import Branch
from channel_prune.choosing.workers import Workers


class _Stop(BaseException):
    """Ends a forward pass at a layer; no handler for errors in a network's own code catches it."""


class Hooked:
    """Runs the network from its beginning for every layer, and breaks off there.

    Nothing makes up for the error of a shortcut here: that needs the graph.

    Args:
        model: the network.
        batches: pictures (B, 3, H, W) each.
        names: the convolutions that `visit` shows.
        measured_after: see `channel_prune.choosing.frontier.frontier`.
        measured_on: see `channel_prune.choosing.frontier.frontier`.
        workers: see `channel_prune.choosing.frontier.frontier`; mini-batches come in turn here.
    """

    branches: Mapping[str, Branch]
    normed: frozenset[str] = frozenset()

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        names: Sequence[str],
        measured_after: str | None = None,
        measured_on: int | None = None,
        *,
        workers: Workers | None = None,
    ) -> None:
        self.branches = {}
        self._model = model
        self._batches = batches
        self._workers = Workers() if workers is None else workers
        self._names = names
        self._modules = dict(model.named_modules())
        self._measured_on = len(batches) if measured_on is None else measured_on
        order = self._order()
        begin = len(order) if measured_after is None else order.index(measured_after)
        self._unmeasured = [name for name in order[begin:] if name in norms(model)]

    def to(self, name: str) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """See `channel_prune.choosing.frontier.Frontier`."""
        order = self._order()
        before = set(order[: order.index(name)])
        self._pass([norm for norm in self._unmeasured if norm in before])
        for number, x in enumerate(self._inputs(name)):
            yield number, x, None

    def finish(self) -> None:
        """See `channel_prune.choosing.frontier.Frontier`."""
        self._pass(self._unmeasured)

    def _pass(self, passed: Sequence[str]) -> None:
        """Measure these batch normalisations, one after the other."""
        for norm in passed:
            seen = Statistics()
            for x in islice(self._inputs(norm), self._measured_on):
                seen.add(Statistics.of(x))
            seen.give(self._modules[norm])
        self._unmeasured = [norm for norm in self._unmeasured if norm not in passed]

    @torch.no_grad()
    def _inputs(self, name: str) -> Iterator[Tensor]:
        """What arrives at a layer, of each mini-batch."""
        seen: list[Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])
            raise _Stop

        for images in self._batches:
            handle = self._modules[name].register_forward_pre_hook(stop)
            try:
                with contextlib.suppress(_Stop), self._workers.wide():
                    self._model(images)
            finally:
                handle.remove()
            yield seen.pop()

    @torch.no_grad()
    def _order(self) -> list[str]:
        """Layers in the order in which they run."""
        ran: list[str] = []
        watched = [name for name in self._modules if name in self._names or name in norms(self._model)]
        with _hooked(self._modules, watched, lambda name, _, __: ran.append(name)):
            self._model(self._batches[0][:2])
        return ran

    def visit(self, look: Callable[[int, str, Tensor, Tensor, Tensor | None], None]) -> None:
        """See `channel_prune.choosing.frontier.Frontier`."""

        def run(number: int) -> None:
            with _hooked(self._modules, self._names, lambda name, x, y: look(number, name, x, y, None)):
                self._model(self._batches[number])

        self._workers.each(run, range(len(self._batches)), in_turn=True)


class _hooked:
    """While it is open, a function sees name, input and output of each of these layers."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        names: Sequence[str],
        look: Callable[[str, Tensor, Tensor], None],
    ) -> None:
        def hook(name: str) -> Callable[..., None]:
            return lambda _, inputs, output: look(name, inputs[0], output)

        self._handles: list[Any] = [modules[name].register_forward_hook(hook(name)) for name in names]

    def __enter__(self) -> None:
        """Everything is set up already."""

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
