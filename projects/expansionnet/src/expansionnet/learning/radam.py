"""The paper's variant of RAdam (Liu et al., 2020): no update at all while the variance is intractable."""

# Functions over lists of tensors are those of torch's own optimizers; they have no name without underscore.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunelab.doors import check_above, check_at_least, check_share

PERIOD = 10
"""Steps whose factors a group remembers."""
TRACTABLE = 5.0
"""From this rho_t on the adaptive step is made."""
CHUNK = {"cpu": 2**16}
"""Values that are updated together, by kind of device: on the CPU so few that they stay in a core's cache."""
LARGE_CHUNK = 2**24
"""Elsewhere: many values share a kernel, and roots of few are in memory at a time."""

Moments: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Weights, their gradient and both moments, flat."""


class RAdam(Optimizer):
    """RAdam as the paper trained with it.

    With g the gradient, v and m its second and first moments, t the step, rho_inf = 2 / (1 - b2) - 1 and
    rho_t = rho_inf - 2 t b2^t / (1 - b2^t): where rho_t >= 5, w falls by
    ``lr * factor * m / (sqrt(v) + eps)`` (sqrt(v) is not corrected), else nothing happens, not even weight
    decay. `torch.optim.RAdam` differs: it demands more than 5, makes plain steps before, and adds eps to the
    corrected root.

    A group's ``buffer`` holds [t, rho_t, factor] of the last ten steps, where factor -1 is no update; the
    original stores it in checkpoints, and it changes no number.

    Args:
        params: as for every optimizer of torch.
        lr: learning rate.
        betas: b1 and b2.
        eps: epsilon of the denominator.
        weight_decay: w falls by ``weight_decay * lr * w`` before an update.
        degenerated_to_sgd: where rho_t < 5, w falls by ``lr * m / (1 - b1^t)``.

    Raises:
        UserError: a number outside its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        degenerated_to_sgd: bool = False,
    ) -> None:
        check_at_least("lr", lr, 0)
        check_above("eps", eps, 0)
        check_at_least("weight_decay", weight_decay, 0)
        for place, beta in enumerate(betas, 1):
            check_share(f"beta {place}", beta)
        self.degenerated_to_sgd = degenerated_to_sgd
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see `torch.optim.Optimizer.add_param_group`."""
        # Each group has a buffer of its own: among the defaults all would share one list.
        param_group.setdefault("buffer", [[None, None, None] for _ in range(PERIOD)])
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss again, with gradients.

        Returns:
            What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            held = [param for param in group["params"] if param.grad is not None]
            for param in held:
                self._count(param)
            # All have made equally many steps, unless gradients were missing at times.
            for step, params in groupby(sorted(held, key=self._steps_of), key=self._steps_of):
                self._update(list(params), group, step)
        return loss

    def _steps_of(self, param: Tensor) -> int:
        return self.state[param]["step"]

    def _count(self, param: Tensor) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1

    def _factor(self, group: dict[str, Any], step: int) -> tuple[float, float]:
        """rho_t and the factor of step t, -1 for none; remembered in the group."""
        kept = group["buffer"][step % PERIOD]
        if kept[0] == step:
            return kept[1], kept[2]
        beta1, beta2 = group["betas"]
        rho_inf = 2 / (1 - beta2) - 1
        power = beta2**step
        rho = rho_inf - 2 * step * power / (1 - power)
        if rho >= TRACTABLE:
            shrink = (rho - 4) / (rho_inf - 4) * (rho - 2) / rho * rho_inf / (rho_inf - 2)
            factor = math.sqrt((1 - power) * shrink) / (1 - beta1**step)
        else:
            factor = 1 / (1 - beta1**step) if self.degenerated_to_sgd else -1
        group["buffer"][step % PERIOD] = [step, rho, factor]
        return rho, factor

    def _update(self, params: list[Tensor], group: dict[str, Any], step: int) -> None:
        rho, factor = self._factor(group, step)
        beta1, beta2 = group["betas"]
        rate, decay = group["lr"], group["weight_decay"]
        size = CHUNK.get(params[0].device.type, LARGE_CHUNK)
        pieces = (piece for param in params for piece in self._pieces(param, size))
        for some in _bundles(pieces, size):
            weights, gradients, first, second = (list(part) for part in zip(*some, strict=True))
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, gradients, alpha=1 - beta1)
            if factor < 0:
                continue
            if decay:
                torch._foreach_add_(weights, weights, alpha=-decay * rate)
            if rho >= TRACTABLE:
                denominators = torch._foreach_sqrt(second)
                torch._foreach_add_(denominators, group["eps"])
                torch._foreach_addcdiv_(weights, first, denominators, value=-factor * rate)
            else:
                torch._foreach_add_(weights, first, alpha=-factor * rate)

    def _pieces(self, param: Tensor, size: int) -> Iterator[Moments]:
        """Weights, gradient and moments; a large parameter in pieces of ``size`` values."""
        state, gradient = self.state[param], param.grad
        assert gradient is not None
        whole = (param, gradient, state["exp_avg"], state["exp_avg_sq"])
        if param.numel() <= size or not all(part.is_contiguous() for part in whole):
            yield whole
            return
        yield from zip(*(part.view(-1).split(size) for part in whole), strict=True)


def _bundles(pieces: Iterable[Moments], size: int) -> Iterator[list[Moments]]:
    """Join small pieces, so that each bundle has about ``size`` values."""
    bundle: list[Moments] = []
    held = 0
    for moments in pieces:
        bundle.append(moments)
        held += moments[0].numel()
        if held >= size:
            yield bundle
            bundle, held = [], 0
    if bundle:
        yield bundle
