"""Layers whose weights are multiplied by masks: Linear, Embedding, LSTMCell, Conv2d.

Each takes the arguments of torch's layer of the same name and ``mask=MaskSpec(...)``. A masked weight
``X`` has its mask in the parameter ``X_pruning_mask``, registered after all of torch's own parameters.
Weights are drawn by torch's layer itself, so that a masked and a plain layer built from one seed hold
equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.errors import UserError
from prunelab.mask.supermask import MASK_SUFFIX, MaskSpec, masked_weight, round_mask, sample_mask
from prunelab.util import human_names

# V vocabulary, D embedding width, I inputs, H hidden units, N rows of a batch


@dataclass
class _Held:
    """What a context manager makes a layer hold on to: samples, and products that are still valid."""

    samples: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, tuple[tuple[object, ...], Tensor]] = field(default_factory=dict)
    rows: tuple[Tensor, Tensor] | None = None
    """Of an embedding: which rows (V,) were drawn, and their sample (V, D); other rows hold anything."""


class Masked(nn.Module):
    """What masked layers have in common; a mix-in that stands before torch's layer in the list of bases."""

    masked_names: ClassVar[tuple[str, ...]] = ("weight",)
    """Names of the weights that have masks."""

    mask_spec: MaskSpec
    _held: _Held | None = None
    _never_sampled: frozenset[str] = frozenset()

    def add_masks(self, spec: MaskSpec) -> None:
        """Register the mask parameters; called once, after torch's parameters are there."""
        self.mask_spec = spec
        for name in self.masked_names:
            first = torch.full_like(self.get_parameter(name), spec.first_value, requires_grad=False)
            mask = nn.Parameter(first, requires_grad=spec.asks_gradient)
            self.register_parameter(name + MASK_SUFFIX, mask)

    def mask_of(self, name: str) -> nn.Parameter:
        """The mask parameter of the weight ``name``."""
        return self.get_parameter(name + MASK_SUFFIX)

    def is_sampled(self, name: str) -> bool:
        """Whether a call made now draws the mask of ``name`` at random (else it is rounded or fixed)."""
        return self.training and self.mask_spec.kind == "supermask" and name not in self._never_sampled

    @property
    def is_held(self) -> bool:
        """Whether `draw_once` or `use_samples` makes the calls made now share one sample of each mask."""
        return self._held is not None

    def redraws(self, name: str) -> bool:
        """Whether each call made now draws a mask of its own for the weight ``name``."""
        return self._held is None and self.is_sampled(name)

    def binary_mask(self, name: str) -> Tensor:
        """The 0/1 mask (bool) that a call made now applies to the weight ``name``; for a supermask only."""
        logits = self.mask_of(name)
        if not self.is_sampled(name):
            return round_mask(logits)
        if self._held is None:
            return sample_mask(logits)
        if name not in self._held.samples:
            self._held.samples[name] = sample_mask(logits)
        return self._held.samples[name]

    def effective(self, name: str) -> Tensor:
        """The masked weight ``name`` as a call made now uses it.

        Inside `draw_once` and `use_samples` one product is shared by all calls until it is out of date
        (a backward pass went through it, or weight, mask or mode changed): gradients of T calls then
        meet in one addition.
        """
        held = self._held
        if held is None:
            return self._product(name)
        key = self._product_key(name)
        known = held.products.get(name)
        if known is not None and known[0] == key:
            return known[1]
        product = self._product(name)
        held.products[name] = (key, product)
        if product.requires_grad:
            # After backward the graph behind the product is freed: the next call needs a new one.
            product.register_hook(lambda _grad: _forget(held, name))
        return product

    def _product(self, name: str) -> Tensor:
        weight, mask = self.get_parameter(name), self.mask_of(name)
        if self.mask_spec.kind == "fixed":
            return weight * mask
        return masked_weight(
            weight, mask, self.binary_mask(name), bypass_sigmoid_grad=self.mask_spec.bypass_sigmoid_grad
        )

    def _product_key(self, name: str) -> tuple[object, ...]:
        weight, mask = self.get_parameter(name), self.mask_of(name)
        return (
            self.is_sampled(name),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            *(x for p in (weight, mask) for x in (id(p), p.data_ptr(), p._version, p.requires_grad)),
        )

    def extra_repr(self) -> str:
        """Torch's line and the mask's kind."""
        return f"{super().extra_repr()}, mask={self.mask_spec.kind}"


def _forget(held: _Held, name: str) -> None:
    held.products.pop(name, None)


class MaskedLinear(Masked, nn.Linear):
    """`torch.nn.Linear` with a masked weight; parameters: weight, bias, weight_pruning_mask."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mask: MaskSpec,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.add_masks(mask)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(input, self.effective("weight"), self.bias)


class MaskedConv2d(Masked, nn.Conv2d):
    """`torch.nn.Conv2d` whose kernel is masked; all arguments of torch's layer, and ``mask``."""

    def __init__(self, *args: Any, mask: MaskSpec, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_masks(mask)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        return self._conv_forward(input, self.effective("weight"), self.bias)


class MaskedEmbedding(Masked, nn.Embedding):
    """`torch.nn.Embedding` whose table (V, D) is masked; parameters: weight, weight_pruning_mask.

    Rows are looked up before they are masked: equal values, and gradients that are exactly 0 in rows
    that do not occur, at the price of the rows in the batch and not of the table. In one call each row
    has one sample, however often its token occurs.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mask: MaskSpec,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)
        self.add_masks(mask)

    def add_masks(self, spec: MaskSpec) -> None:
        """Register the mask; options that rewrite or rescale rows at look-up do not go with it."""
        for option, off in (("max_norm", None), ("scale_grad_by_freq", False), ("sparse", False)):
            if getattr(self, option) != off:
                raise UserError(
                    f"embedding option {option}={getattr(self, option)} cannot be masked: expected {off}"
                )
        super().add_masks(spec)

    def forward(self, input: Tensor) -> Tensor:
        """Ids (...) to rows (..., D)."""
        if not self.is_sampled("weight"):
            return self._rows(input, None)
        if self._held is None:
            unique, inverse = torch.unique(input, return_inverse=True)
            return F.embedding(inverse, self._rows(unique, None))
        return self._rows(input, self._held_rows(self._held, input))

    def each(self, input: Tensor) -> Tensor:
        """C calls at once: ids (C, ...) to rows (C, ..., D), with masks as C calls would draw them."""
        if not self.redraws("weight"):
            return self(input)
        calls = torch.arange(len(input), device=input.device) * self.num_embeddings
        numbers = input + calls.view(-1, *[1] * (input.dim() - 1))
        unique, inverse = torch.unique(numbers, return_inverse=True)
        return F.embedding(inverse, self._rows(unique % self.num_embeddings, None))

    def binary_mask(self, name: str) -> Tensor:
        """The 0/1 mask of the whole table; rows that a call has drawn already stay as they are."""
        held = self._held
        if held is not None and held.rows is not None and self.is_sampled(name):
            drawn, sample = held.rows
            rest = sample_mask(self.mask_of(name))
            held.samples[name], held.rows = torch.where(drawn.unsqueeze(1), sample, rest), None
        return super().binary_mask(name)

    def _held_rows(self, held: _Held, ids: Tensor) -> Tensor:
        """Rows (..., D) of the held sample, of which those not yet asked for are drawn now."""
        if "weight" in held.samples:
            return held.samples["weight"][ids]
        logits = self.mask_of("weight").detach()
        # A later call may write to them outside of that mode, which a compiler does not know how to leave.
        with nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(mode=False):
            if held.rows is None:
                drawn = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
                held.rows = (drawn, torch.empty_like(logits, dtype=torch.bool))
            drawn, sample = held.rows
            new = ids[~drawn[ids]].unique()
            sample[new] = sample_mask(logits[new])
            drawn[new] = True
        return sample[ids]

    def _rows(self, ids: Tensor, binary: Tensor | None) -> Tensor:
        """Masked rows (..., D) of ids (...); without ``binary`` the mask comes from the looked-up logits."""
        weight = F.embedding(ids, self.weight, self.padding_idx)
        mask = F.embedding(ids, self.mask_of("weight"), self.padding_idx)
        if self.mask_spec.kind == "fixed":
            return weight * mask
        if binary is None:
            binary = sample_mask(mask) if self.is_sampled("weight") else round_mask(mask)
        return masked_weight(weight, mask, binary, bypass_sigmoid_grad=self.mask_spec.bypass_sigmoid_grad)


class MaskedLSTMCell(Masked, nn.LSTMCell):
    """`torch.nn.LSTMCell` with both matrices masked.

    Parameters: weight_ih (4H, I), weight_hh (4H, H), bias_ih, bias_hh, then the masks of weight_ih and
    weight_hh. Every call in training draws new masks, hence once a time step; inside `draw_once` a whole
    loop shares one draw and one product.
    """

    masked_names: ClassVar[tuple[str, ...]] = ("weight_ih", "weight_hh")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mask: MaskSpec,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.add_masks(mask)

    def reset_parameters(self) -> None:
        """Draw weights and biases anew; masks stay as they are."""
        bound = self.hidden_size**-0.5 if self.hidden_size > 0 else 0.0
        for name, parameter in self.named_parameters():
            if not name.endswith(MASK_SUFFIX):
                nn.init.uniform_(parameter, -bound, bound)

    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """Both masked matrices, (4H, I) and (4H, H), to be handed to several calls as ``weights``."""
        return self.effective("weight_ih"), self.effective("weight_hh")

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        weights: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step: input (N, I) or (I,), state (h, c) each (N, H) or (H,), to the next (h, c)."""
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        matrix_ih, matrix_hh = self.effective_weights() if weights is None else weights
        if input.dim() == 2:
            return torch.lstm_cell(input, hx, matrix_ih, matrix_hh, self.bias_ih, self.bias_hh)
        state = (hx[0].unsqueeze(0), hx[1].unsqueeze(0))  # (1, H)
        h, c = torch.lstm_cell(input.unsqueeze(0), state, matrix_ih, matrix_hh, self.bias_ih, self.bias_hh)
        return h.squeeze(0), c.squeeze(0)


def masked_layers(model: nn.Module) -> Iterator[tuple[str, Masked]]:
    """Every masked layer with its path, in order of registration; a shared layer comes once."""
    for path, module in model.named_modules():
        if isinstance(module, Masked):
            yield path, module


def _full_name(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def masks(model: nn.Module) -> dict[str, nn.Parameter]:
    """Mask parameters by name (``...weight_pruning_mask``), in order of registration; shared ones once."""
    return _collect(model, lambda layer, name: layer.mask_of(name))


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Masked weights by the name of their *mask*, so that keys and order are those of `masks`."""
    return _collect(model, lambda layer, name: layer.get_parameter(name))


def _collect(model: nn.Module, what: Callable[[Masked, str], nn.Parameter]) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, layer in masked_layers(model):
        for name in layer.masked_names:
            mask = layer.mask_of(name)
            if id(mask) not in seen:
                seen.add(id(mask))
                found[_full_name(path, name) + MASK_SUFFIX] = what(layer, name)
    return found


@contextmanager
def draw_once(model: nn.Module) -> Iterator[None]:
    """Sample each supermask at its first use inside the context and keep the sample until the end.

    Gradients are those of that sample, through any number of calls and backward passes. In evaluation
    mode, where masks are rounded, masked weights are computed once as well, which is what a decoding
    loop wants. Changing weights inside (an optimizer step) is seen by the next call. Contexts nest: the
    inner one has samples of its own.
    """
    with _holding(model, {}):
        yield


@contextmanager
def use_samples(model: nn.Module, samples: Mapping[str, Tensor]) -> Iterator[None]:
    """Use given 0/1 masks at every call in training mode, for masks that would be sampled.

    Args:
        model: a module with masked layers.
        samples: mask name to 0/1 tensor of the mask's shape, any dtype; masks without an entry are drawn
            once.

    Raises:
        UserError: a name that the model lacks, a wrong shape, or a value other than 0 and 1.
    """
    known = masks(model)
    for name, given in samples.items():
        if name not in known:
            raise UserError(f"sample {name!r} names no mask of the model: expected one of {', '.join(known)}")
        if given.shape != known[name].shape:
            raise UserError(
                f"sample {name!r} has shape {tuple(given.shape)}: expected {tuple(known[name].shape)}"
            )
        if not bool(((given == 0) | (given == 1)).all()):
            raise UserError(f"sample {name!r} holds values other than 0 and 1: expected a 0/1 mask")
    by_mask = {id(known[n]): s.to(device=known[n].device, dtype=torch.bool) for n, s in samples.items()}
    with _holding(model, by_mask):
        yield


@contextmanager
def _holding(model: nn.Module, given: Mapping[int, Tensor]) -> Iterator[None]:
    layers = [layer for _, layer in masked_layers(model)]
    before = [layer._held for layer in layers]
    for layer in layers:
        names = {name: id(layer.mask_of(name)) for name in layer.masked_names}
        layer._held = _Held(samples={name: given[key] for name, key in names.items() if key in given})
    try:
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer._held = previous


def parse_scope(text: str | None) -> tuple[str, ...]:
    """Comma-separated name prefixes, blanks around them dropped; an empty text freezes nothing."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def in_scope(name: str, scope: tuple[str, ...]) -> bool:
    """Whether a mask name starts with one of the prefixes."""
    return any(name.startswith(prefix) for prefix in scope)


def freeze(model: nn.Module, scope: tuple[str, ...], *, sampled: bool = False) -> list[str]:
    """Take the masks in scope out of training.

    Args:
        model: a module with masked layers.
        scope: name prefixes, see `parse_scope`.
        sampled: go on drawing these masks at random in training mode, as the original system did;
            otherwise they
            are rounded as in evaluation.

    Returns:
        The names of the frozen masks.

    Raises:
        UserError: a prefix that no mask name starts with.
    """
    names = masks(model)
    for prefix in scope:
        if not any(name.startswith(prefix) for name in names):
            raise UserError(
                f"freeze scope {prefix!r} fits no mask: expected a prefix of one of "
                f"{human_names(list(names))}"
            )
    frozen = []
    for path, layer in masked_layers(model):
        for name in layer.masked_names:
            full = _full_name(path, name) + MASK_SUFFIX
            if in_scope(full, scope):
                layer.mask_of(name).requires_grad_(False)
                if not sampled:
                    layer._never_sampled = layer._never_sampled | {name}
                frozen.append(full)
    return frozen
