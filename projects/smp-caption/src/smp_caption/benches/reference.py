"""The original's way to train and to decode, written plainly: what the benchmark's rows compare with.

Every call of a layer makes its masked weights anew, the whole vocabulary's included; time steps, projections
and searches are those of `smp_caption.model.reference`,
`smp_caption.model.reference_transformer` and `prunelab.decode.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from prunelab.decode import Decoded, DecodeOptions, State, StepFunction
from prunelab.mask import Masked, MaskedEmbedding, MaskedLinear, MaskedLSTMCell, masked_layers, masks
from smp_caption.model import Inputs, Network, TransformerNetwork, UpDown, reference, reference_transformer

# B images, K captions an image, N = B * K, T tokens, L longest caption


class _Gate(torch.autograd.Function):
    """Probabilities to zeros and ones, drawn or rounded; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, gates: Tensor | None, drawn: bool) -> Tensor:
        if gates is not None:
            return gates.to(keep.dtype)
        return torch.bernoulli(keep) if drawn else keep.round()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        return grads[0], None, None


def _gate(keep: Tensor, *, gates: Tensor | None = None, drawn: bool = False) -> Tensor:
    out = _Gate.apply(keep, gates, drawn)
    assert isinstance(out, Tensor)
    return out


class _Plain(Masked):
    """A masked layer that multiplies whole matrices at each call."""

    def effective(self, name: str) -> Tensor:
        """The masked weight, made anew; samples that `prunelab.mask.use_samples` gives are obeyed."""
        gates = self._held.samples.get(name) if self._held is not None else None
        keep = torch.sigmoid(self.mask_of(name))
        return _gate(keep, gates=gates, drawn=self.is_sampled(name)) * self.get_parameter(name)


class _PlainLinear(_Plain, MaskedLinear):
    pass


class _PlainLSTMCell(_Plain, MaskedLSTMCell):
    pass


class _PlainEmbedding(_Plain, MaskedEmbedding):
    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.effective("weight"))


_PLAIN: dict[type[Masked], type[_Plain]] = {
    MaskedLinear: _PlainLinear,
    MaskedLSTMCell: _PlainLSTMCell,
    MaskedEmbedding: _PlainEmbedding,
}


def make_masks_plain(model: nn.Module) -> None:
    """Turn the masked layers of a model into plain ones, in place; a dense model stays as it is."""
    for _, layer in masked_layers(model):
        layer.__class__ = _PLAIN[type(layer)]


def _teach(model: Network, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities (N, T, V), or (N, T - 1, V) of a transformer."""
    if isinstance(model, UpDown):
        features = batch["att_feats"], batch["att_masks"], batch["fc_feats"]
        return reference.teach_plain(model, *features, batch["seqs"])
    assert isinstance(model, TransformerNetwork)
    return reference_transformer.teach_plain(model, Inputs.of(batch), batch["seqs"])


def train_step_plain(
    model: Network,
    optimizer: Optimizer,
    batch: Mapping[str, Tensor],
    *,
    grad_clip: float,
    sparsity_target: float = 0.0,
    sparsity_weight: float = 0.0,
) -> float:
    """One update: teacher forcing over all columns, both losses, clipped gradients.

    Args:
        model: a captioner in training mode.
        optimizer: holds all parameters, masks too.
        batch: what the network reads of pictures, ``seqs`` (N, T) and ``masks`` (N, T).
        grad_clip: bound of each gradient value.
        sparsity_target: wanted sparsity of a pruned model.
        sparsity_weight: factor of the sparsity loss, annealing included.

    Returns:
        The loss.
    """
    optimizer.zero_grad()
    log_probs = _teach(model, batch)
    target, mask = batch["seqs"][:, 1:], batch["masks"][:, 1:]
    picked = log_probs[:, : target.shape[1]].gather(2, target.unsqueeze(2)).squeeze(2)
    loss = -(picked * mask).sum() / mask.sum()
    logits = masks(model)
    if logits:
        kept = torch.cat([_gate(torch.sigmoid(mask)).flatten() for mask in logits.values()])
        sparsity = 1 - kept.sum() / kept.numel()
        loss = loss + (sparsity_target - sparsity).abs() * sparsity_weight
    loss.backward()
    nn.utils.clip_grad_value_(model.parameters(), grad_clip)
    optimizer.step()
    return loss.item()


def greedy_plain(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    """`prunelab.decode.greedy`: all rows go on until the last one has ended."""
    images, _ = state.size
    fed = torch.full((images,), options.bos)
    tokens = torch.full((images, options.max_length), options.pad)
    values = torch.zeros(images, options.max_length)
    going = torch.ones(images, dtype=torch.bool)
    for time in range(options.max_length):
        log_probs, state = step(fed, state)
        best, fed = log_probs.max(dim=1)
        tokens[:, time] = torch.where(going, fed, options.pad)
        values[:, time] = torch.where(going, best, 0.0)
        going = going & (fed != options.eos)
        if not going.any():
            break
    scores = values.double().sum(dim=1, keepdim=True)
    return Decoded(tokens=tokens.unsqueeze(1), log_probs=values.unsqueeze(1), scores=scores)
