"""The original's way to train, written down plainly: what the benchmark's rows of training compare with.

Cross entropy builds the smoothed targets as a matrix. Self-critical training reads every sentence from its
start at every step and keeps the gradients of all steps; its reward counts the n-grams of every reference
again for each sample. The optimiser goes through the parameters one by one.

# B pictures, K samples, N = B * K, L words, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from expansionnet.benches.decode_reference import decode_plain, encode_plain
from expansionnet.model import ExpansionNet
from prunelab.bench.reference_caption import cider_d

BETAS, EPSILON = (0.9, 0.98), 1e-9


def xe_loss_plain(model: ExpansionNet, x: Tensor, tokens: Tensor, *, pad: int, smoothing: float) -> Tensor:
    """Smoothed cross entropy of captions (B, T), divided by the number of words."""
    pads = (tokens == pad).sum(dim=1).tolist()
    none = [0] * len(x)
    log_probs = decode_plain(model, encode_plain(model, x, none), none, tokens[:, :-1], pads)
    targets = tokens[:, 1:]
    q = torch.full_like(log_probs, smoothing / (log_probs.shape[-1] - 1))
    q.scatter_(2, targets.unsqueeze(2), 1 - smoothing)
    q.masked_fill_((targets == pad).unsqueeze(2), 0.0)
    each = F.kl_div(log_probs, q, reduction="none").sum(dim=-1)
    return each.masked_fill(targets == pad, 0.0).sum() / (targets != pad).sum()


def scst_loss_plain(
    model: ExpansionNet,
    x: Tensor,
    *,
    samples: int,
    max_len: int,
    sos: int,
    eos: int,
    words: Sequence[str],
    references: Sequence[Sequence[str]],
    frequency: Mapping[tuple[str, ...], float],
    images: int,
    draw: Callable[[Tensor], Tensor],
) -> Tensor:
    """Self-critical loss with the average baseline.

    Args:
        model: in the mode in which samples are drawn.
        x: features of B pictures.
        samples: K.
        max_len: most words of a sample, the end included.
        sos: id of the start.
        eos: id of the end.
        words: of the ids.
        references: captions of each of the B pictures, with the end as a word.
        frequency: in how many training pictures an n-gram occurs.
        images: number of training pictures.
        draw: from probabilities (N, V) to tokens (N,).
    """
    none = [0] * (len(x) * samples)
    encoded = encode_plain(model, x, [0] * len(x)).repeat_interleave(samples, dim=0)
    tokens = torch.full((len(encoded), 1), sos)
    steps: list[Tensor] = []
    ended = torch.zeros(len(encoded), dtype=torch.bool)
    while len(steps) < max_len and not bool(ended.all()):
        log_probs = decode_plain(model, encoded, none, tokens, none)[:, -1]
        chosen = draw(log_probs.detach().exp())
        steps.append(log_probs.gather(1, chosen.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0))
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
        ended = ended | (chosen == eos)
    rewards = []
    written: list[list[int]] = tokens[:, 1:].tolist()
    for row, ids in enumerate(written):
        kept = ids[: ids.index(eos) + 1] if eos in ids else ids
        caption = " ".join(words[token] for token in kept)
        rewards.append(cider_d(caption, references[row // samples], frequency, images))
    r = torch.tensor(rewards, dtype=torch.float64).view(-1, samples)
    b = (r.sum(dim=1, keepdim=True) - r) / (samples - 1)
    summed = torch.stack(steps, dim=1).sum(dim=1).view(-1, samples)
    return ((r - b) * -summed).mean()


class PlainRAdam:
    """The optimiser, one parameter after the other."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        self.params = list(params)
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]
        self.lr, self.steps = lr, 0

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters and clear their gradients."""
        self.steps += 1
        t, (b1, b2) = self.steps, BETAS
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        for param, (first, second) in zip(self.params, self.moments, strict=True):
            assert param.grad is not None
            second.mul_(b2).addcmul_(param.grad, param.grad, value=1 - b2)
            first.mul_(b1).add_(param.grad, alpha=1 - b1)
            if rho >= 5:
                shrink = (rho - 4) / (rho_inf - 4) * (rho - 2) / rho * rho_inf / (rho_inf - 2)
                factor = math.sqrt((1 - b2**t) * shrink) / (1 - b1**t)
                param.addcdiv_(first, second.sqrt().add_(EPSILON), value=-factor * self.lr)
            param.grad = None
