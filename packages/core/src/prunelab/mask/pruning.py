"""Every pruning method on any `torch.nn.Module`, in three lines around a training loop of one's own.

```python
from prunelab.mask import Pruning

pruning = Pruning.gradual(model, 0.9, steps=1000, leave_out=["fc"])  # 1: masks
for batch in batches:
    loss = task_loss(model, batch) + pruning.loss()
    ...  # backward, optimizer step
    pruning.step()  # 2: after each optimizer step
model = pruning.finish()  # 3: the plain model with zeros; pruning.report() says how many
```

| method | when weights are pruned | source |
|---|---|---|
| `Pruning.supermask` | all the time: mask logits are trained with the weights | Tan et al. 2021 |
| `Pruning.gradual` | now and then in the first half of training, more each time | Zhu and Gupta 2017 |
| `Pruning.magnitude` | once, now: the model holds trained weights | See et al. 2016; Han et al. 2015 |
| `Pruning.lottery` | once, now; then the weights go back to their first values | Frankle and Carbin 2019 |
| `Pruning.snip` | once, now: before training, by gradients of a few batches | Lee et al. 2019 |
| `Pruning.keep` | never: the zeros (or masks) that are there stay | |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunelab import dist
from prunelab.errors import UserError
from prunelab.mask.convert import LeaveOut, assign, convert, strip
from prunelab.mask.criteria import Scheme, check_target, magnitude, snip
from prunelab.mask.layers import draw_once, freeze, masked_layers, masks, weights_of
from prunelab.mask.sparsity import (
    GradualSchedule,
    SparsityLoss,
    SparsityReport,
    active,
    report,
    sparsity_loss,
)
from prunelab.mask.supermask import MASK_SUFFIX, MaskKind, MaskSpec

Batch = TypeVar("Batch")
LARGEST_MOVE = 1.0
"""Learning rate of mask logits: as far as an Adam moves one in a step, however large its gradient."""
PULL = 800.0
"""How far the sparsity loss can pull logits in a run, see `Supermask.mask_epsilon`; the published captioners
have 430 to 1300 (sparsity 95 %, weights 40 to 120)."""


class Pruning:
    """A model with masks in training; by itself the masks stay what they are.

    Args:
        model: a module with masks (see `prunelab.mask.convert`), all of one kind.
        scope: prefixes of mask names that are left alone: they count in `report`, but never change.
        sample_frozen: draw supermasks in ``scope`` at random in training all the same.

    Attributes:
        model: the model.
        kind: the kind of its masks.
        masks: all mask parameters by name.
        active: those outside of ``scope``.
        steps: optimizer steps done.

    Raises:
        UserError: no masks, masks of both kinds, or a scope that fits none or all of them.
    """

    def __init__(self, model: nn.Module, *, scope: tuple[str, ...] = (), sample_frozen: bool = False) -> None:
        kinds: set[MaskKind] = {layer.mask_spec.kind for _, layer in masked_layers(model)}
        if len(kinds) != 1:
            raise UserError(
                f"model {type(model).__name__} has masks of {len(kinds)} kinds: expected one "
                "(prunelab.mask.convert gives a model masks)"
            )
        self.model = model
        self.kind: MaskKind = kinds.pop()
        freeze(model, scope, sampled=sample_frozen)
        self.masks = masks(model)
        self.active = {name: self.masks[name] for name in active(self.masks, scope)}
        if not self.active:
            raise UserError(f"scope {','.join(scope)!r} freezes every mask: expected one that leaves some")
        self.steps = 0
        self._final: SparsityReport | None = None

    # --- one way to begin for each method ---

    @staticmethod
    def supermask(
        model: nn.Module,
        sparsity: float,
        *,
        steps: int,
        weight: float | None = None,
        init: float = 5.0,
        leave_out: LeaveOut = (),
    ) -> Supermask:
        """Train mask logits together with the weights, pulled to the wanted sparsity by `loss`.

        Args:
            model: any module, fresh or trained.
            sparsity: share of the masked weights that shall be zero in the end, in [0, 1).
            steps: optimizer steps of the whole run; the pull grows over them.
            weight: of the sparsity loss; None: ``max(10, 2.5 / (1 - sparsity))``. More of it where the
                sparsity stays too low.
            init: first value of every logit; 5 keeps 99.3 % of the weights.
            leave_out: layers without masks.
        """
        _give_masks(model, MaskSpec(kind="supermask", init=init), leave_out)
        weight = max(10.0, 2.5 / (1 - check_target(sparsity))) if weight is None else weight
        return Supermask(model, target=sparsity, weight=weight, max_step=steps)

    @staticmethod
    def gradual(
        model: nn.Module,
        sparsity: float,
        *,
        steps: int,
        scheme: Scheme = "uniform",
        schedule: GradualSchedule | None = None,
        leave_out: LeaveOut = (),
    ) -> Gradual:
        """Prune the smallest weights in small portions during training; a pruned weight may come back.

        Args:
            model: any module, fresh or trained.
            sparsity: share of the masked weights that shall be zero in the end, in [0, 1).
            steps: optimizer steps of the whole run, at least 4.
            scheme: how weights are compared, see `prunelab.mask.magnitude`.
            schedule: when and how much; None: up to 50 times between a tenth and half of the steps.
            leave_out: layers without masks.
        """
        _give_masks(model, MaskSpec(kind="fixed"), leave_out)
        if schedule is None:
            start = max(1, steps // 10)
            frequency = max(1, (steps // 2 - start) // 50)
            intervals = (steps // 2 - start) // frequency
            schedule = GradualSchedule(target=sparsity, start=start, intervals=intervals, frequency=frequency)
        return Gradual(model, schedule=schedule, scheme=scheme)

    @staticmethod
    def magnitude(
        model: nn.Module, sparsity: float, *, scheme: Scheme = "uniform", leave_out: LeaveOut = ()
    ) -> Pruning:
        """Prune the smallest weights now; train on to win back what that costs.

        Args:
            model: a trained module.
            sparsity: share of the masked weights to prune, in [0, 1).
            scheme: how weights are compared, see `prunelab.mask.magnitude`.
            leave_out: layers without masks.
        """
        pruning = Pruning(_give_masks(model, MaskSpec(kind="fixed"), leave_out))
        pruning.prune_by_magnitude(sparsity, scheme)
        return pruning

    @staticmethod
    def lottery(
        model: nn.Module,
        sparsity: float,
        *,
        initial: Mapping[str, Tensor],
        scheme: Scheme = "uniform",
        leave_out: LeaveOut = (),
    ) -> Pruning:
        """Prune the smallest weights now, put all weights back to their first values, and train again.

        Args:
            model: a trained module; with masks already (of an earlier pruning), these are pruned anew.
            sparsity: share of the masked weights to prune, in [0, 1).
            initial: the state dict from before training, a copy.
            scheme: how weights are compared, see `prunelab.mask.magnitude`.
            leave_out: layers without masks.
        """
        pruning = Pruning.magnitude(model, sparsity, scheme=scheme, leave_out=leave_out)
        pruning.rewind(initial)
        return pruning

    @staticmethod
    def snip(
        model: nn.Module,
        sparsity: float,
        *,
        batches: Iterable[Batch],
        loss: Callable[[Batch], Tensor],
        leave_out: LeaveOut = (),
    ) -> Pruning:
        """Prune before training the weights whose loss would change the loss least.

        Args:
            model: a fresh module.
            sparsity: share of the masked weights to prune, in [0, 1).
            batches: a few of the training batches.
            loss: a batch to the training loss, a scalar.
            leave_out: layers without masks.
        """
        pruning = Pruning(_give_masks(model, MaskSpec(kind="fixed"), leave_out))
        pruning.prune_by_snip(sparsity, batches, loss)
        return pruning

    @staticmethod
    def keep(model: nn.Module, *, leave_out: LeaveOut = ()) -> Pruning:
        """Train a pruned model on with its zeros where they are.

        Args:
            model: a plain module whose weights have zeros, or one with fixed masks, which stay.
            leave_out: layers whose zeros may move.
        """
        fresh = not any(True for _ in masked_layers(model))
        pruning = Pruning(_give_masks(model, MaskSpec(kind="fixed"), leave_out))
        if fresh:
            assign(model, {name: weight != 0 for name, weight in weights_of(model).items()})
        return pruning

    # --- in training ---

    def drawing(self) -> AbstractContextManager[None]:
        """In it, masks are drawn (and masked weights made) once, for a step whose layers run many times."""
        return draw_once(self.model)

    def loss(self) -> Tensor | float:
        """What to add to the task's loss: the sparsity loss of supermasks, 0 of any other method."""
        parts = self.loss_at(self.steps)
        return 0.0 if parts is None else parts.scaled

    def step(self) -> bool:
        """To be called after each optimizer step; whether masks were pruned anew."""
        self.steps += 1
        return self.prune_at(self.steps)

    def loss_at(self, step: int) -> SparsityLoss | None:
        """The sparsity loss with its parts, after ``step`` finished ones; None where the method has none."""
        return None

    def prune_at(self, step: int) -> bool:
        """Prune as the method does after the optimizer step number ``step`` (from 1); whether it did."""
        return False

    def parameter_groups(self, **of_masks: Any) -> list[dict[str, Any]]:
        """Groups for the optimizer: all weights; then, of supermasks alone, the trained logits.

        Args:
            of_masks: options of the logits' group, see `Supermask.parameter_groups`.
        """
        named = self.model.named_parameters()
        return [{"params": [parameter for name, parameter in named if not _is_mask(name)]}]

    # --- pruning ---

    def prune_by_magnitude(self, sparsity: float, scheme: Scheme) -> None:
        """Prune the active weights of smallest size, whatever their masks were; equal on all ranks.

        Raises:
            UserError: supermasks, or see `prunelab.mask.magnitude`.
        """
        _check_kind(self, "fixed")
        weights = weights_of(self.model)
        self._assign(magnitude({name: weights[name] for name in self.active}, sparsity, scheme))

    def prune_by_snip(
        self,
        sparsity: float,
        batches: Iterable[Batch],
        loss: Callable[[Batch], Tensor],
        *,
        signed: bool = False,
    ) -> None:
        """Prune the active weights that a few batches need least; equal on all ranks.

        Args:
            sparsity: share of the active weights to prune, in [0, 1).
            batches: at least one; all are used, see `mask_gradients`.
            loss: a batch to the training loss, a scalar.
            signed: see `prunelab.mask.snip`.

        Raises:
            UserError: see `mask_gradients` and `prunelab.mask.snip`.
        """
        check_target(sparsity)
        self._assign(snip(self.mask_gradients(batches, loss), sparsity, signed=signed))

    def mask_gradients(self, batches: Iterable[Batch], loss: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
        """Gradients of the loss by the active masks, in training mode and with these masks set to 1.

        They are added up over the batches and averaged over the ranks, each of which has batches of its own.
        No gradient stays behind, neither of masks nor of weights.

        Args:
            batches: at least one.
            loss: a batch to the training loss, a scalar.

        Raises:
            UserError: supermasks, or no batch.
        """
        _check_kind(self, "fixed")
        with torch.no_grad():
            for mask in self.active.values():
                mask.fill_(1.0)
        count = 0
        with _measuring(self.model, self.active.values()):
            for count, batch in enumerate(batches, 1):  # noqa: B007
                with self.drawing():
                    loss(batch).backward()
            dist.average_gradients(self.active.values())
            found = {
                name: torch.zeros_like(mask) if mask.grad is None else mask.grad
                for name, mask in self.active.items()
            }
        if not count:
            raise UserError("mask gradients need at least one batch: got none")
        return found

    def rewind(self, initial: Mapping[str, Tensor]) -> None:
        """Put weights and buffers back to earlier values; masks stay.

        Args:
            initial: a state dict of the model, from before it got masks or after; masks in it are not read.

        Raises:
            UserError: names or shapes differ.
        """
        own = {name: value for name, value in self.model.state_dict().items() if not _is_mask(name)}
        given = {name: value for name, value in initial.items() if not _is_mask(name)}
        for name in [*own, *given]:
            if name not in own or name not in given or own[name].shape != given[name].shape:
                shapes = [tuple(state[name].shape) if name in state else "absent" for state in (given, own)]
                raise UserError(f"initial weight {name} is {shapes[0]}: expected {shapes[1]}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(given[name])

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        assign(self.model, values)
        # Ranks with equal weights find equal masks, but for ties, whose order a GPU does not promise.
        dist.broadcast_module(nn.ParameterList(self.active.values()))

    # --- afterwards ---

    def report(self) -> SparsityReport:
        """How many weights the masks keep now, or, after `finish`, in the end."""
        return self._final or report(self.masks, self.kind)

    def finish(self) -> nn.Module:
        """Prune for good: the same model with torch's own layers, whose pruned weights are 0."""
        self._final = self.report()
        return strip(self.model)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model's state dict, which holds the masks; plain data."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the saved run."""
        self.steps = int(state["steps"])


class Supermask(Pruning):
    """Masks that are trained: each weight is kept with a probability that has a gradient.

    Args:
        model: a module with supermasks.
        target: wanted sparsity of the active masks, in [0, 1).
        weight: of the sparsity loss.
        max_step: optimizer steps of the whole run.
        scope: see `Pruning`.
        sample_frozen: see `Pruning`.

    Raises:
        UserError: masks that are no supermasks, a target out of range, or see `Pruning`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        target: float,
        weight: float,
        max_step: int,
        scope: tuple[str, ...] = (),
        sample_frozen: bool = False,
    ) -> None:
        super().__init__(model, scope=scope, sample_frozen=sample_frozen)
        _check_kind(self, "supermask")
        self.target, self.weight, self.max_step = check_target(target), weight, max_step
        self.bypass_sigmoid_grad = any(
            layer.mask_spec.bypass_sigmoid_grad for _, layer in masked_layers(model)
        )

    def loss_at(self, step: int) -> SparsityLoss:
        """The sparsity loss of the step that follows ``step`` finished ones."""
        return sparsity_loss(
            self.active,
            target=self.target,
            weight=self.weight,
            step=step,
            max_step=self.max_step,
            bypass_sigmoid_grad=self.bypass_sigmoid_grad,
        )

    def parameter_groups(self, **of_masks: Any) -> list[dict[str, Any]]:
        """Groups for an Adam: all weights; then the logits, whose rate no schedule should touch.

        Args:
            of_masks: options of the logits' group that replace these: ``lr`` `LARGEST_MOVE`, ``eps``
                `mask_epsilon`, ``weight_decay`` 0. As published: ``lr=100, eps=0.01``.
        """
        own = {"lr": LARGEST_MOVE, "eps": self.mask_epsilon(), "weight_decay": 0.0, **of_masks}
        return [*super().parameter_groups(), {"params": list(self.active.values()), **own}]

    def mask_epsilon(self) -> float:
        """An epsilon of Adam for the logits that fits the network's size N and the run's length.

        Gradients of logits are mostly far below it: a step is about ``rate / eps`` times the gradient.
        A logit pulled by the sparsity loss alone then moves by ``rate / eps * weight / N * (1 - a)`` times
        ``s (1 - s)``. From 5 to 0 that takes a sum of 158 of the first factors; over a run they sum up to
        ``rate / eps * weight / N * steps / 2``, which this epsilon makes `PULL`.
        """
        size = sum(mask.numel() for mask in self.active.values())
        return LARGEST_MOVE * max(self.weight, 1e-9) * self.max_step / (2 * size * PULL)


class Gradual(Pruning):
    """Masks that grow by a schedule, each time from the weights behind the old masks.

    Args:
        model: a module with fixed masks.
        schedule: after which steps, and how much.
        scheme: how weights are compared, see `prunelab.mask.magnitude`.
        scope: see `Pruning`.

    Raises:
        UserError: supermasks, or see `Pruning`.
    """

    def __init__(
        self, model: nn.Module, *, schedule: GradualSchedule, scheme: Scheme, scope: tuple[str, ...] = ()
    ) -> None:
        super().__init__(model, scope=scope)
        _check_kind(self, "fixed")
        self.schedule = schedule
        self.scheme: Scheme = scheme

    def prune_at(self, step: int) -> bool:
        """Prune anew if the schedule says so; whether it did."""
        sparsity = self.schedule.sparsity_at(step)
        if sparsity is not None:
            self.prune_by_magnitude(sparsity, self.scheme)
        return sparsity is not None


def _is_mask(name: str) -> bool:
    return name.endswith(MASK_SUFFIX)


def _check_kind(pruning: Pruning, wanted: MaskKind) -> None:
    if pruning.kind != wanted:
        raise UserError(
            f"{type(pruning).__name__} got a model with masks of kind {pruning.kind!r}: expected {wanted!r}"
        )


def _give_masks(model: nn.Module, spec: MaskSpec, leave_out: LeaveOut) -> nn.Module:
    """Convert a plain model; one with masks must have them of this kind already."""
    has = {layer.mask_spec.kind for _, layer in masked_layers(model)}
    if not has:
        return convert(model, spec, leave_out=leave_out)
    if has != {spec.kind} or leave_out:
        raise UserError(
            f"model {type(model).__name__} has masks of kind {' and '.join(sorted(has))} already: expected "
            f"{spec.kind} and no leave_out, or a plain model (finish the earlier pruning first)"
        )
    return model


@contextmanager
def _measuring(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Training mode and gradients of these parameters for a while; then as before, without any gradient."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in parameters]
    model.train().zero_grad(set_to_none=True)
    for parameter, _ in asked:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, before in asked:
            parameter.requires_grad_(before)
        for module, mode in modes:
            module.training = mode
