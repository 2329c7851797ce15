"""Layers that multiply channels by a mask: fixed ones, and soft ones that are learned.

# B images, C channels, H x W pixels
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from acosp.soft_masks import SoftMask, attach, soft_masks

CLOSE = 0.01
"""A mask value this near to 1 counts as chosen, this near to 0 as pruned."""


def kept_channels(channels: int, sparsity: float, min_remaining: int = 8) -> int:
    """How many channels of a layer stay: ``max(ceil((1 - sparsity) * channels), min_remaining)``.

    Computed in double precision with its rounding: of 10 channels at sparsity 0.7, 4 stay. Never more than
    there are.
    """
    return min(max(math.ceil((1 - sparsity) * channels), min_remaining), channels)


def temperature_at(
    epoch: int, *, starting_epoch: int, ending_epoch: int, initial: float, final: float
) -> float:
    """The temperature of an epoch: it falls exponentially between the starting and the ending epoch.

    Raises:
        ValueError: ``epoch`` lies beyond the ending epoch, where masks are no longer soft.
    """
    if epoch <= starting_epoch:
        return initial
    if epoch > ending_epoch:
        raise ValueError(
            f"epoch is {epoch}, but soft masks end at epoch {ending_epoch}: make them hard first"
        )
    share = min((epoch - starting_epoch) / (ending_epoch - starting_epoch), 1)
    return math.exp(math.log(initial) - share * (math.log(initial) - math.log(final)))


def mask_dtype(conv: nn.Conv2d | nn.ConvTranspose2d) -> torch.dtype:
    """The dtype of a convolution's mask: the weights', or single precision for shorter ones."""
    dtype = conv.weight.dtype
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def scale_channels(x: Tensor, mask: Tensor) -> Tensor:
    """Multiply the channels of x (B, C, H, W) or (C, H, W) by mask (C,); keeps x's dtype."""
    if isinstance(x, Tensor) and x.dtype != mask.dtype:
        mask = mask.to(x.dtype)
    return x * mask.view(-1, 1, 1)


class ChannelMaskLayer(nn.Module):
    """Multiplies channels by a mask that does not change.

    Args:
        mask: One number a channel (C,).
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mask)

    def current_mask(self) -> Tensor:
        """The mask of this forward (C,)."""
        return self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Mask x (B, C, H, W)."""
        return scale_channels(x, self.current_mask())

    def get_logs(self) -> dict[str, float]:
        """Shares of channels that are chosen, pruned and undecided."""
        chosen, pruned = _shares(self.mask)
        return {"chosen": chosen, "pruned": pruned, "undecided": 1 - chosen - pruned}

    def extra_repr(self) -> str:
        """The width."""
        return f"{self.channels}"


def _shares(mask: Tensor) -> tuple[float, float]:
    near = torch.stack([(mask - 1).abs() < CLOSE, mask.abs() < CLOSE]).double()
    chosen, pruned = near.mean(dim=1).tolist()
    return chosen, pruned


class SoftTopK(ChannelMaskLayer):
    """A mask that is learned; a subclass says how (`soft_mask`).

    In training mode every forward computes the mask anew and stores it. In eval mode the stored mask is used:
    that of the last training forward, whatever happened to the logits since; ones before the first.

    Args:
        channels: C.
        k: How many channels are to stay, 1 to C.
        initial_temperature: In force until the first call of `on_epoch_end`.
        final_temperature: At ``max_step``.
        min_step: The temperature falls from this epoch on.
        max_step: The epoch at which masks become hard.
    """

    def __init__(
        self,
        channels: int,
        k: int,
        *,
        initial_temperature: float = 1,
        final_temperature: float = 0.001,
        min_step: int = 0,
        max_step: int = 1,
    ) -> None:
        if not 1 <= k <= channels:
            raise ValueError(f"k is {k}, expected 1 to {channels}, the number of channels")
        super().__init__(torch.ones(channels))
        self.k = k
        self.initial_temperature = initial_temperature
        self.final_temperature = final_temperature
        self.current_temperature = initial_temperature
        self.min_step = min_step
        self.max_step = max_step

    def soft_mask(self) -> Tensor:
        """The mask (C,) of the present parameters and temperature."""
        raise NotImplementedError

    def current_mask(self) -> Tensor:
        """The mask of this forward (C,); in training mode it is computed and stored."""
        if not self.training:
            return self.mask
        mask = self.soft_mask()
        with torch.no_grad():  # not the graph's own tensor: a layer can be copied after a forward
            self.mask.copy_(mask)
        return mask

    def ranking(self) -> Tensor:
        """Numbers (C,) whose k largest name the channels that stay."""
        raise NotImplementedError

    def hard_mask(self, *, stored: bool = False) -> Tensor:
        """Zeros and ones (C,): which channels stay.

        Args:
            stored: Keep what the stored mask has at or above its own ``1 - k / C`` quantile, however many
                those are: with equal values more than k, and all channels if no training forward came before.
                Else exactly k channels stay: the largest of the stored mask, or of the logits if the stored
                mask is still all ones; of equals the one with the larger logit, then the first.
        """
        mask = self.mask.detach()
        if stored:
            threshold = torch.quantile(mask, 1 - self.k / self.channels).item()
            return (mask >= threshold).to(mask.dtype)
        order = self.ranking().detach().sort(descending=True, stable=True).indices
        order = order[mask[order].sort(descending=True, stable=True).indices]
        return torch.zeros_like(mask).index_fill_(0, order[: self.k], 1)

    def on_epoch_end(self, epoch: int) -> None:
        """Take the temperature of ``epoch``.

        Raises:
            ValueError: ``epoch`` lies beyond ``max_step``.
        """
        self.current_temperature = temperature_at(
            epoch,
            starting_epoch=self.min_step,
            ending_epoch=self.max_step,
            initial=self.initial_temperature,
            final=self.final_temperature,
        )

    def get_logs(self) -> dict[str, float]:
        """The temperature in use, and the shares of channels."""
        return {"temperature": self.current_temperature, **super().get_logs()}

    def extra_repr(self) -> str:
        """Width, channels that stay, temperature."""
        return f"{self.channels}, k={self.k}, temperature={self.current_temperature:g}"


class SigmoidSoftTopK(SoftTopK):
    """Sigmoid of the standardised logits around the level that leaves k above it; see `acosp.soft_masks`.

    The logits ``weight`` (C,) are drawn from a normal distribution. Layers that `group` has joined compute
    their masks together, once a forward of the model.

    Args:
        channels: C.
        k: How many channels are to stay.
        learnable_weights: False: the logits are a buffer, so a random choice of channels is annealed.
        drawn: False: the logits are zeros, to be loaded; no random numbers are used.
        **schedule: Arguments of `SoftTopK`.
    """

    weight: Tensor

    def __init__(
        self,
        channels: int,
        k: int,
        *,
        learnable_weights: bool = True,
        drawn: bool = True,
        **schedule: Any,
    ) -> None:
        super().__init__(channels, k, **schedule)
        logits = torch.empty(channels).normal_(0, 1) if drawn else torch.zeros(channels)
        if learnable_weights:
            self.weight = nn.Parameter(logits)
        else:
            self.register_buffer("weight", logits)
        self.x_0 = torch.zeros(1)
        self._group: MaskGroup | None = None
        self._ready: _Ready | None = None

    @property
    def learnable(self) -> bool:
        """Whether the logits are parameters."""
        return isinstance(self.weight, nn.Parameter)

    def soft_mask(self) -> Tensor:
        """The mask (C,) of the present logits and temperature; ones without a gradient if all stay."""
        if self.k == self.channels:
            return torch.ones_like(self.mask)
        soft = self._take()
        self.x_0 = soft.split
        return attach(self.weight, soft)

    def _take(self) -> SoftMask:
        """The mask that the group has ready, if it fits; else a new one, for the whole group."""
        if not torch.compiler.is_compiling():
            ready, self._ready = self._ready, None
            if ready is not None and ready.fits(self):
                return ready.soft
            if self._group is not None:
                self._group.compute()
                ready, self._ready = self._ready, None
                if ready is not None:
                    return ready.soft
        return soft_masks([self.weight], self.k, self.current_temperature)[0]

    def ranking(self) -> Tensor:
        """The logits."""
        return self.weight

    def train(self, mode: bool = True) -> SigmoidSoftTopK:
        """Set the mode; a mask that was computed ahead is dropped."""
        self._ready = None
        return super().train(mode)

    def get_logs(self) -> dict[str, float]:
        """The split level, the temperature, and the shares of channels."""
        return {"x_0": self.x_0.item(), **super().get_logs()}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": None}


class _Ready:
    """A mask that was computed ahead, and for what."""

    def __init__(self, layer: SigmoidSoftTopK, soft: SoftMask) -> None:
        self.soft = soft
        self.weight = layer.weight
        self.version = _version(layer.weight)
        self.temperature = layer.current_temperature

    def fits(self, layer: SigmoidSoftTopK) -> bool:
        """Whether logits and temperature are those that the mask was computed for."""
        return (
            self.weight is layer.weight
            and self.version == _version(layer.weight)
            and self.temperature == layer.current_temperature
        )


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return -1 if tensor.is_inference() else tensor._version


class MaskGroup:
    """Layers of one model whose masks are computed together: one sort for all of equal width and k.

    A layer that needs a mask has all of them computed, takes its own and leaves the others where their
    layers find them. Each is used once, and only if logits and temperature are still the same.
    """

    def __init__(self, layers: Iterable[SigmoidSoftTopK]) -> None:
        self.layers = list(layers)
        for layer in self.layers:
            layer._group = self

    def compute(self) -> None:
        """Compute the mask of every layer that is in training mode."""
        alike: dict[tuple[Any, ...], list[SigmoidSoftTopK]] = defaultdict(list)
        for layer in self.layers:
            if layer.training and layer.k < layer.channels:
                weight = layer.weight
                key = (layer.channels, layer.k, layer.current_temperature, weight.dtype, weight.device)
                alike[key].append(layer)
        for (_, k, temperature, *_), layers in alike.items():
            softs = soft_masks([layer.weight for layer in layers], k, temperature)
            for layer, soft in zip(layers, softs, strict=True):
                layer._ready = _Ready(layer, soft)


def group(model: nn.Module) -> None:
    """Let all soft masks of a model be computed together, once a forward."""
    MaskGroup(module for module in model.modules() if isinstance(module, SigmoidSoftTopK))
