"""Train on in a network that computes only the kept channels, exactly as masked training would.

`slim` cuts the rows of pruned filters off their convolutions. All else stays: the columns that read pruned
channels, and their batch norms, because both go on learning; the network's code and the names of its weights
stay too. What pruned channels are is carried beside the computed ones (`prunelab.surgery.partial`).

Not exact, because there is nothing left to be exact about: weights of pruned filters, which decay in masked
training without any effect, are gone.

# O outputs of a convolution, K of them kept
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError
from prunelab.surgery.partial import Partial, constant_norm


class SlimConv2d(nn.Conv2d):
    """A convolution whose pruned outputs are zeros that nobody computes; its weight is (K, I, h, w)."""

    width: int
    """O."""
    kept: tuple[int, ...]
    """The outputs that are computed, ascending (K)."""

    def forward(self, input: Any) -> Any:
        """A tensor or `Partial` (B, I, H, W) to a `Partial` (B, O, H', W')."""
        return Partial.of(super().forward(input), self.width, self.kept)

    def extra_repr(self) -> str:
        """As usual, and how many outputs there would be."""
        return f"{super().extra_repr()}, of {self.width}"


class _PartNorm(_BatchNorm):
    """Put before a batch norm that takes its moments in its own way, over all processes, say.

    It sees the computed channels alone. Numbers are everywhere the same, so they need no moments.
    """

    def forward(self, input: Any) -> Any:
        """A tensor or `Partial`, to the same."""
        if not isinstance(input, Partial) or input.rest.dim() != 1 or self.weight is None:
            return super().forward(input.dense() if isinstance(input, Partial) else input)
        kept, rest = input.indices()
        part = copy.copy(self)
        part.__dict__["_parameters"] = {
            name: p[kept] for name, p in self._parameters.items() if p is not None
        }
        part.__dict__["_buffers"] = {
            name: b if b is None or b.dim() == 0 else b[kept] for name, b in self._buffers.items()
        }
        data = super(_PartNorm, part).forward(input.data)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / int(self.num_batches_tracked) if self.num_batches_tracked is not None else 1.0
        training = self.training or self.running_mean is None
        number = constant_norm(
            input.rest,
            rest,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
        )
        if training and self.running_mean is not None and self.running_var is not None:
            for whole, found in (
                (self.running_mean, part.running_mean),
                (self.running_var, part.running_var),
            ):
                assert found is not None
                whole[kept] = found
        return input.like(data, number)


def slim(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Cut pruned filters off their convolutions, in place; parameters of other layers stay the same objects.

    Batch norms that are to be synchronised (`prunelab.syncnorm.convert`) must be so before.

    Args:
        model: A network whose convolutions have no masks (their weights are as they were).
        kept: For the path of each masked convolution the outputs that stay, at least one.

    Returns:
        The same network. It takes tensors and gives tensors, in training and in evaluation mode.

    Raises:
        UserError: A path is not that of a 2-D convolution with one group, or an output is not there.
    """
    modules = dict(model.named_modules())
    for path, channels in kept.items():
        module = modules.get(path)
        if not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
            raise UserError(
                f"{path}: {type(module).__name__}, expected a convolution to train on without masks"
            )
        chosen = tuple(sorted(set(channels)))
        if module.groups != 1 or not chosen or chosen[0] < 0 or chosen[-1] >= module.out_channels:
            raise UserError(
                f"{path}: keeps {list(chosen)[:4]} of {module.out_channels} outputs in {module.groups} "
                "groups, expected some of them, and one group"
            )
        _cut(module, chosen)
    for module in modules.values():
        if isinstance(module, _BatchNorm) and type(module).forward is not _BatchNorm.forward:
            own = type(module)
            if not issubclass(own, _PartNorm):
                module.__class__ = type(f"Part{own.__name__}", (_PartNorm, own), {})
    return model


def _cut(conv: nn.Conv2d, kept: tuple[int, ...]) -> None:
    width = conv.out_channels
    for name in ("weight", "bias"):
        old = getattr(conv, name)
        if old is not None:
            rows = torch.tensor(kept, device=old.device)
            setattr(conv, name, nn.Parameter(old.detach()[rows], requires_grad=old.requires_grad))
    conv.out_channels = len(kept)
    conv.__class__ = SlimConv2d
    assert isinstance(conv, SlimConv2d)
    conv.width, conv.kept = width, kept


def slim_layers(model: nn.Module) -> dict[str, SlimConv2d]:
    """The convolutions that were cut, by path; empty for another network."""
    return {path: m for path, m in model.named_modules() if isinstance(m, SlimConv2d)}


def slim_structure(model: nn.Module) -> dict[str, list[int]]:
    """What `slim` needs to give a freshly built network the same shapes, as plain data."""
    return {path: list(layer.kept) for path, layer in slim_layers(model).items()}


def cut_of(model: nn.Module) -> Callable[[str, Tensor], Tensor]:
    """How tensors of a parameter's shape before `slim` (momentum, say) become those of its shape now.

    For `prunelab.optim.carry_state`.
    """
    rows = {
        f"{path}.{name}": layer.kept
        for path, layer in slim_layers(model).items()
        for name in ("weight", "bias")
    }

    def cut(name: str, value: Tensor) -> Tensor:
        return value[torch.tensor(rows[name], device=value.device)] if name in rows else value

    return cut


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the network before `slim`; pruned filters are zeros."""
    state = dict(model.state_dict())
    for path, layer in slim_layers(model).items():
        for name in ("weight", "bias"):
            value = state.get(f"{path}.{name}")
            if value is not None:
                whole = value.new_zeros((layer.width, *value.shape[1:]))
                state[f"{path}.{name}"] = whole.index_copy(
                    0, torch.tensor(layer.kept, device=value.device), value
                )
    return state
