"""The pruner that a training loop talks to."""

from __future__ import annotations

import logging
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from acosp.inject import inject_masks, soft_to_hard_k
from acosp.soft_topk import ChannelMaskLayer, SigmoidSoftTopK, SoftTopK, group, kept_channels, mask_dtype

log = logging.getLogger("acosp")


class MetricLogger(Protocol):
    """What `SoftTopKPruner.collect_logs` writes to."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> object:
        """Take values by name."""
        ...


class SoftTopKPruner:
    """Prunes the channels of a convolutional network while it trains.

    ::

        pruner = SoftTopKPruner(final_sparsity=0.5, ending_epoch=100)
        pruner.configure_model(model)            # before the optimiser is made
        for epoch in range(epochs):
            if epoch == pruner.ending_epoch:
                acosp.inject.soft_to_hard_k(model)
            ...                                  # train one epoch
            pruner.update_mask_layers(model, epoch)

    Args:
        final_sparsity: Share of the output channels to remove in every masked layer, in [0, 1).
        ending_epoch: At its start masks are to become hard.
        starting_epoch: Until it the temperature is constant.
        active: False: `configure_model`, `update_mask_layers` and `on_pruning_end` do nothing.
        min_remaining_elements: At least so many channels stay in a layer, if it has as many.
        initial_temp: Temperature at first.
        final_temp: Temperature at ``ending_epoch``.
        learnable_weights: False: which channels stay is random; only the masks' hardening remains.
        temperature_lag: True, as published: a call with epoch e, after that epoch, sets the temperature of e,
            so each epoch trains with that of the one before. False: it sets that of e + 1.
        stored_mask: How `on_pruning_end` makes masks hard; see `acosp.inject.soft_to_hard_k`.

    Raises:
        ValueError: a value out of range.
    """

    initial_sparsity = 0

    def __init__(
        self,
        final_sparsity: float,
        ending_epoch: int,
        *,
        starting_epoch: int = 0,
        active: bool = True,
        min_remaining_elements: int = 8,
        initial_temp: float = 1,
        final_temp: float = 0.001,
        learnable_weights: bool = True,
        temperature_lag: bool = True,
        stored_mask: bool = False,
    ) -> None:
        if not 0 <= final_sparsity < 1:
            raise ValueError(f"final_sparsity is {final_sparsity}, expected a number from 0 to below 1")
        if min_remaining_elements < 1:
            raise ValueError(f"min_remaining_elements is {min_remaining_elements}, expected 1 or more")
        if initial_temp <= 0 or final_temp <= 0:
            raise ValueError(f"temperatures are {initial_temp} and {final_temp}, expected numbers above 0")
        self.final_sparsity = final_sparsity
        self.ending_epoch = ending_epoch
        self.starting_epoch = starting_epoch
        self.active = active
        self.min_remaining_elements = min_remaining_elements
        self.initial_temp = initial_temp
        self.final_temp = final_temp
        self.learnable_weights = learnable_weights
        self.temperature_lag = temperature_lag
        self.stored_mask = stored_mask

    def configure_model(self, model: nn.Module, **kwargs: Any) -> None:
        """Put a soft mask behind every prunable convolution; call it before the optimiser is made.

        Logits are drawn from torch's global random state, one draw a layer in the order of registration.

        Args:
            model: Changed in place.
            **kwargs: Further arguments of `SigmoidSoftTopK`.
        """
        if not self.active:
            return
        floored: list[str] = []

        def make(name: str, conv: nn.Module) -> SigmoidSoftTopK:
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            channels = conv.out_channels
            k = kept_channels(channels, self.final_sparsity, self.min_remaining_elements)
            if k > kept_channels(channels, self.final_sparsity, 1):
                floored.append(f"{name}: {k} of {channels}")
            arguments: dict[str, Any] = {
                "initial_temperature": self.initial_temp,
                "final_temperature": self.final_temp,
                "min_step": self.starting_epoch,
                "max_step": self.ending_epoch,
                "learnable_weights": self.learnable_weights,
            }
            layer = SigmoidSoftTopK(channels, k, **(arguments | kwargs))
            return layer.to(conv.weight.device, mask_dtype(conv))

        inject_masks(model, make)
        group(model)
        if floored:
            log.warning(
                "%d layers keep more channels than a sparsity of %g leaves, because at least %d stay (%s%s)",
                len(floored),
                self.final_sparsity,
                self.min_remaining_elements,
                ", ".join(floored[:3]),
                ", ..." if len(floored) > 3 else "",
            )

    def update_mask_layers(self, model: nn.Module, epoch: int) -> None:
        """Give every soft mask the temperature that follows epoch ``epoch``; call it after that epoch.

        Raises:
            ValueError: the masks are still soft after ``ending_epoch``.
        """
        if not self.active:
            return
        if not self.temperature_lag and epoch < self.ending_epoch:
            epoch += 1
        for module in model.modules():
            if isinstance(module, SoftTopK):
                module.on_epoch_end(epoch)

    def on_pruning_end(self, model: nn.Module) -> None:
        """Make soft masks hard and end pruning."""
        if not self.active:
            return
        soft_to_hard_k(model, stored_mask=self.stored_mask)
        self.active = False

    def collect_logs(self, logger: MetricLogger, model: nn.Module, step: int) -> None:
        """Hand over what every mask layer says of itself, then mean, variance and range over the layers.

        Names are ``pruning/<layer>/<value>`` and ``pruning/mean_<value>``, ``var_`` (unbiased; 0 for one
        layer), ``min_``, ``max_``.
        """
        values: dict[str, list[float]] = defaultdict(list)
        for name, module in model.named_modules():
            if isinstance(module, ChannelMaskLayer):
                for key, value in module.get_logs().items():
                    logger.log_metrics({f"pruning/{name}/{key}": value}, step=step)
                    values[key].append(value)
        for key, found in values.items():
            summary = {
                f"pruning/mean_{key}": statistics.fmean(found),
                f"pruning/var_{key}": statistics.variance(found) if len(found) > 1 else 0.0,
                f"pruning/min_{key}": min(found),
                f"pruning/max_{key}": max(found),
            }
            logger.log_metrics(summary, step)

    def state_dict(self) -> dict[str, Any]:
        """What a run changes: whether pruning goes on. `acosp.structure.structure` has the temperatures."""
        return {"active": self.active}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.active = bool(state["active"])
