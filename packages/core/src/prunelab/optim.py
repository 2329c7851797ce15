"""Called in the open by a loop: a guarded step, schedules as functions, optimizer state across surgery."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch.optim import Optimizer

from prunelab import dist
from prunelab.errors import UserError

Clip: TypeAlias = float | tuple[Literal["value"], float] | Callable[[list[torch.Tensor]], Any] | None
"""A number: the joint 2-norm is clipped to it. ``("value", x)``: every element to [-x, x]. A function: it
receives the parameters that have a gradient and changes the gradients in place. None: nothing."""


class NonFiniteError(UserError):
    """A gradient is infinite or not a number; the weights and the optimizer's state were not touched."""


@dataclass(frozen=True, kw_only=True)
class GuardedStep:
    """What `guarded_step` did; true if the optimizer made its step."""

    done: bool
    """Whether the optimizer made its step."""
    norm: float
    """Joint 2-norm of the (averaged) gradients before clipping."""

    def __bool__(self) -> bool:
        return self.done


def guarded_step(
    optimizer: Optimizer,
    params: Iterable[torch.Tensor],
    clip: Clip = None,
    on_nonfinite: Literal["stop", "skip"] = "stop",
) -> GuardedStep:
    """Average the gradients over the ranks, check that they are finite, clip them, make one optimizer step.

    All ranks decide alike without a message: a value that is not finite on any rank is not finite in the
    mean, and the mean has the same bits everywhere. Gradients are left as they are, so the caller clears them
    as ever; with a scaled loss (float16) it undoes the scale first.

    Args:
        optimizer: makes the step.
        params: the parameters whose gradients are averaged, checked and clipped; all those that ``optimizer``
            holds.
        clip: see `Clip`.
        on_nonfinite: what to do about a value that is not finite: ``"stop"`` raises, ``"skip"`` leaves this
            step out.

    Returns:
        True in a condition if the step was made; ``norm`` is the gradients' 2-norm.

    Raises:
        NonFiniteError: a gradient is not finite and ``on_nonfinite`` is ``"stop"``. A run that ends by it
            keeps the batch for a look.
    """
    params = list(params)
    dist.average_gradients(params)
    with_gradient = [param for param in params if param.grad is not None]
    gradients = [param.grad for param in with_gradient if param.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)
    # A finite norm proves that all values are finite, at a tenth of the price of looking at each of them. An
    # infinite one may be the square of a large value alone, so only then each value is looked at.
    if not math.isfinite(norm):
        broken = [g for g in gradients if not bool(torch.isfinite(g).all())]
        if broken:
            return _refuse(broken, len(gradients), norm, on_nonfinite)
    _clip(with_gradient, clip, total)
    optimizer.step()
    return GuardedStep(done=True, norm=norm)


def _refuse(broken: list[torch.Tensor], total: int, norm: float, on_nonfinite: str) -> GuardedStep:
    if on_nonfinite == "skip":
        return GuardedStep(done=False, norm=norm)
    worst = "nan" if any(bool(torch.isnan(g).any()) for g in broken) else "inf"
    raise NonFiniteError(
        f"gradient is {worst} in {len(broken)} of {total} parameters (first shape {tuple(broken[0].shape)}); "
        "expected finite values; weights and optimizer state are as they were before this step"
    )


def _clip(params: list[torch.Tensor], clip: Clip, norm: torch.Tensor) -> None:
    if clip is None or not params:
        return
    if callable(clip):
        clip(params)
    elif isinstance(clip, tuple):
        torch.nn.utils.clip_grad_value_(params, clip[1])
    else:
        torch.nn.utils.clip_grads_with_norm_(params, clip, norm)


def noam(s: int, *, d_model: int, factor: float = 1.0, warmup: int = 10000) -> float:
    """Learning rate at update ``s`` = 1, 2, ...: ``factor * d_model**-0.5 * min(s**-0.5, s * warmup**-1.5)``.

    The schedule of "Attention Is All You Need" (Vaswani et al., 2017), eq. (3), with a factor.
    """
    return factor * d_model**-0.5 * min(s**-0.5, s * warmup**-1.5)


def cosine(s: int, *, base: float, minimum: float, total: int) -> float:
    """Learning rate at update ``s``: half a cosine from ``base`` at 0 to ``minimum`` at ``total``."""
    return (base - minimum) * (1 + math.cos(math.pi * min(1.0, s / total))) / 2 + minimum


def step(epoch: int, *, base: float, start: int = 0, every: int = 3, rate: float = 0.8) -> float:
    """Learning rate in ``epoch`` = 0, 1, ...: a fall by ``rate`` after every ``every`` epochs.

    ``base * rate ** ((epoch - start) // every)`` from the first epoch after ``start`` on, ``base`` before it.
    A negative ``start`` keeps ``base`` for good.
    """
    return base * rate ** ((epoch - start) // every) if epoch > start >= 0 else base


def poly(s: int, *, base: float, total: int, power: float = 0.9) -> float:
    """Learning rate at ``s``: ``base * (1 - s / total) ** power``, zero from ``total`` on."""
    return base * (1 - min(1.0, s / total)) ** power


def piecewise(s: int, *, bounds: Sequence[float], values: Sequence[float]) -> float:
    """Piecewise constant as TensorFlow has it: ``values[k]`` for ``bounds[k - 1] < s <= bounds[k]``.

    Args:
        s: the count.
        bounds: rising; the count that equals a bound still belongs to the piece before it.
        values: one more than bounds.

    Raises:
        ValueError: the numbers of bounds and values do not fit.
    """
    if len(values) != len(bounds) + 1:
        raise ValueError(f"{len(bounds)} bounds and {len(values)} values; expected one value more")
    return values[bisect_left(bounds, s)]


def staircase(s: int, *, base: float, rate: float, every: int) -> float:
    """Exponential decay in steps: ``base * rate ** (s // every)``."""
    return base * rate ** (s // every)


class Schedule:
    """Sets the learning rate of an optimizer's groups from a function of a count.

    It counts its own calls 1, 2, ... and has a ``state_dict``, so a resumed run goes on where it was. Call it
    before the optimizer's step.

    Args:
        optimizer: whose groups are set.
        rate: from the count (or what `step` is given) to a learning rate.
        skip_key: groups that hold this key keep their own learning rate.
    """

    def __init__(
        self, optimizer: Optimizer, rate: Callable[[int], float], *, skip_key: str | None = None
    ) -> None:
        self.optimizer = optimizer
        self.rate = rate
        self.skip_key = skip_key
        self.count = 0
        self.lr: float | None = None

    def step(self, at: int | None = None) -> float:
        """Count one call, set the groups' learning rate and return it.

        Args:
            at: evaluate the rate here (an epoch, say) instead of at the number of calls.
        """
        self.count += 1
        self.lr = self.rate(self.count if at is None else at)
        for group in self.optimizer.param_groups:
            if self.skip_key is None or self.skip_key not in group:
                group["lr"] = self.lr
        return self.lr

    def state_dict(self) -> dict[str, Any]:
        """The count and the last learning rate."""
        return {"count": self.count, "lr": self.lr}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; the groups' rates belong to the optimizer's own state."""
        self.count, self.lr = int(state["count"]), state["lr"]


def carry_state(
    old: Optimizer,
    new: Optimizer,
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    cut: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
) -> list[str]:
    """Give the parameters of a rebuilt optimizer the state (momentum) that they had, found by name.

    Args:
        old: the optimizer before surgery.
        new: the one made after it, with the new model's parameters.
        before: parameters by name before surgery (``dict(model.named_parameters())``).
        after: parameters by name after it; a name that is gone loses its state.
        cut: from (name, state tensor of the old parameter's shape) to one of the new parameter's shape;
            needed where surgery changed shapes. Tensors of another shape than the parameter's (step counts)
            are copied as they are.

    Returns:
        The names whose state was carried.

    Raises:
        ValueError: a state tensor does not fit its new parameter.
    """
    held = {id(param) for group in new.param_groups for param in group["params"]}
    carried = []
    for name, param in after.items():
        source = before.get(name)
        if source is None or id(param) not in held or source not in old.state:
            continue
        state = {}
        for key, value in old.state[source].items():
            if isinstance(value, torch.Tensor):
                like = value.shape == source.shape and value.dim() > 0
                value = cut(name, value) if like and cut is not None else value
                if like and value.shape != param.shape:
                    raise ValueError(
                        f"state {key!r} of {name!r} has shape {tuple(value.shape)}; "
                        f"expected {tuple(param.shape)}"
                    )
                value = value.detach().clone()
            state[key] = value
        new.state[param] = state
        carried.append(name)
    return carried
