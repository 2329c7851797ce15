"""Beam search in its two published scorings, and diverse beams.

A `_Group` is one beam search over a batch of images. Plain search runs one group; diverse beam search
(Vijayakumar et al. 2018) runs several, each one step behind the group before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from prunelab.decode.options import DecodeOptions
from prunelab.decode.protocol import Decoded, State, StepFunction
from prunelab.decode.topk import top_candidates
from prunelab.errors import UserError

# B images, K beams of a group, M beams alive (1 at the first step, then K), V vocabulary, L longest
# caption, t tokens so far

ENDED_LOSES = 1000.0
"""What the original takes off the sum of a beam that has ended, so that it survives without ever winning."""


class _Finished:
    """The K best finished beams of each image, best first; of equal ones the earlier."""

    def __init__(self, images: int, options: DecodeOptions, beams: int, like: Tensor) -> None:
        self.options = options
        shape = (images, beams)
        self.scores = torch.full(shape, -torch.inf, dtype=torch.float64, device=like.device)
        self.tokens = torch.full((*shape, 0), options.pad, dtype=torch.int64, device=like.device)
        self.log_probs = like.new_zeros((*shape, 0))

    def add(self, scores: Tensor, tokens: Tensor, log_probs: Tensor) -> None:
        """Take in beams: scores (B, K) with -inf where there is none, tokens and log-probs (B, K, t)."""
        longer = tokens.shape[2] - self.tokens.shape[2]
        old_tokens = F.pad(self.tokens, (0, longer), value=self.options.pad)
        old_log_probs = F.pad(self.log_probs, (0, longer))
        keep = self.scores.shape[1]
        merged = torch.cat([self.scores, scores], dim=1)
        # Stable, and the old ones come first: of equal scores the beam that finished earlier wins.
        merged, order = merged.sort(dim=1, descending=True, stable=True)
        self.scores, order = merged[:, :keep], order[:, :keep].unsqueeze(2)
        order = order.expand(-1, -1, tokens.shape[2])
        self.tokens = torch.cat([old_tokens, tokens], dim=1).gather(1, order)
        self.log_probs = torch.cat([old_log_probs, log_probs], dim=1).gather(1, order)

    def select(self, index: Tensor) -> None:
        """Keep images ``index``."""
        self.scores, self.tokens, self.log_probs = (
            x.index_select(0, index) for x in (self.scores, self.tokens, self.log_probs)
        )


class _Group:
    """One beam search in progress."""

    def __init__(self, step: StepFunction, options: DecodeOptions, beams: int) -> None:
        self.step = step
        self.options = options
        self.beams = beams
        self.time = 0

    def start(self, log_probs: Tensor, state: State) -> None:
        """Begin from the log-probabilities (B, V) after bos and the state that goes with them."""
        images, device = log_probs.shape[0], log_probs.device
        self.log_probs = log_probs.unsqueeze(1)  # (B, M, V)
        self.state = state
        self.sums = log_probs.detach().new_zeros(images, 1)  # (B, M)
        self.tokens = torch.empty(images, 1, 0, dtype=torch.int64, device=device)  # (B, M, t)
        self.history = log_probs.new_empty(images, 1, 0)  # (B, M, t): log-probability of each token
        self.ended = torch.zeros(images, 1, dtype=torch.bool, device=device)  # (B, M)
        self.parent = torch.zeros(images, self.beams, dtype=torch.int64, device=device)
        self.finished = _Finished(images, self.options, self.beams, self.history)
        self.origin = torch.arange(images, device=device)  # place of each image in `log_probs` and `state`

    @property
    def active(self) -> bool:
        """Whether there are steps left."""
        return self.time < self.options.max_length

    def advance(self, diminish: Tensor | None = None) -> None:
        """Choose the next token of every beam.

        Args:
            diminish: (B, V), taken off the log-probabilities for ranking and not for what is recorded.
        """
        options, log_probs = self.options, self.log_probs
        if options.constraint and self.time > 0:
            log_probs = log_probs.scatter(2, self.tokens[:, :, -1:], -torch.inf)
        ranked = log_probs.detach() if diminish is None else log_probs.detach() - diminish.unsqueeze(1)
        candidates = self.sums.unsqueeze(2) + ranked  # (B, M, V)
        staying = options.ranking == "mean" and bool(self.ended.any())
        if staying:
            # A finished beam has one continuation: itself.
            candidates = candidates.masked_fill(self.ended.unsqueeze(2), -torch.inf)
            stays = torch.where(self.ended, self.sums, candidates[:, :, options.pad])
            candidates[:, :, options.pad] = stays
        self.sums, flat = top_candidates(candidates, self.beams)  # (B, K)
        self.parent = flat // candidates.shape[2]
        token = flat % candidates.shape[2]
        chosen = log_probs.flatten(1).gather(1, flat)
        was_ended = self.ended.gather(1, self.parent)
        past = self.parent.unsqueeze(2).expand(-1, -1, self.time)
        self.time += 1
        if staying:
            chosen = torch.where(was_ended, 0.0, chosen)
        self.tokens = torch.cat([self.tokens.gather(1, past), token.unsqueeze(2)], dim=2)
        self.history = torch.cat([self.history.gather(1, past), chosen.unsqueeze(2)], dim=2)
        self.ended = was_ended | (token == options.eos)
        if options.ranking == "sum":
            self._store(token == options.eos, was_ended)

    def _store(self, ends: Tensor, was_ended: Tensor) -> None:
        """Put beams that end now with the finished ones, and take them out of the race."""
        options = self.options
        stored = ends | (not self.active)
        if not options.restore_ended:
            stored = stored & ~was_ended
        if bool(stored.any()):
            scores = self.sums.double() / options.penalty.divisor(self.time)
            self.finished.add(torch.where(stored, scores, -torch.inf), self.tokens, self.history)
        if options.restore_ended:
            self.sums = torch.where(ends, self.sums - ENDED_LOSES, self.sums)
        else:
            self.sums = torch.where(self.ended, -torch.inf, self.sums)

    def settled(self) -> Tensor:
        """Images (B,) that no further step can change."""
        if not self.active:
            return torch.ones_like(self.ended[:, 0])
        if self.options.ranking == "mean":
            return self.ended.all(dim=1)
        # Sums only fall, from 0: divided by the penalty of the next or of the last length, whichever is
        # greater, they bound whatever these beams can still score.
        penalty, sums = self.options.penalty, self.sums.double()
        bound = sums / max(penalty.divisor(self.time + 1), penalty.divisor(self.options.max_length))
        return self.finished.scores[:, -1] >= bound.amax(dim=1)

    def keep(self, index: Tensor) -> None:
        """Let all images but ``index`` leave, between `advance` and `proceed`."""
        for name in ("sums", "tokens", "history", "ended", "parent", "origin"):
            setattr(self, name, getattr(self, name).index_select(0, index))
        self.finished.select(index)
        self.state = self.state.select_images(index)

    def proceed(self) -> None:
        """Reorder the state by the beams chosen and compute the log-probabilities of their next tokens."""
        images, beams = self.parent.shape
        rows = self.origin.unsqueeze(1) * self.log_probs.shape[1] + self.parent
        state = self.state.select_rows(rows.flatten())
        log_probs, self.state = self.step(self.tokens[:, :, -1].flatten(), state)
        if self.options.temperature != 1.0:
            log_probs = (log_probs / self.options.temperature).log_softmax(dim=-1)
        self.log_probs = log_probs.view(images, beams, -1)
        self.origin = torch.arange(images, device=self.origin.device)

    def result(self, index: Tensor) -> Decoded:
        """The ranked beams of images ``index``, padded to the longest length."""
        scores, tokens, log_probs = self.finished.scores, self.finished.tokens, self.finished.log_probs
        if self.options.ranking == "mean":
            ends = self.tokens == self.options.eos
            length = torch.where(ends.any(dim=2), ends.int().argmax(dim=2) + 1, self.time)
            means = self.sums.double() / (length + 1)  # bos counts
            scores, order = means.sort(dim=1, descending=True, stable=True)
            order = order.unsqueeze(2).expand_as(self.tokens)
            tokens, log_probs = self.tokens.gather(1, order), self.history.gather(1, order)
        missing = self.options.max_length - tokens.shape[2]
        return Decoded(
            tokens=F.pad(tokens[index], (0, missing), value=self.options.pad),
            log_probs=F.pad(log_probs[index], (0, missing)),
            scores=scores[index],
        )


def _crowding(groups: Sequence[_Group], place: int, vocabulary: int) -> Tensor:
    """How many beams of these groups hold each token at a place, (B, V).

    Beams are read as they stand now, ahead of the group that asks; one that has ended counts up to its eos.
    """
    first = groups[0]
    counts = first.sums.new_zeros(first.tokens.shape[0], vocabulary)
    for group in groups:
        over = (group.tokens[:, :, :place] == group.options.eos).any(dim=2)
        counts.scatter_add_(1, group.tokens[:, :, place], (~over).to(counts.dtype))
    return counts


def beam_search(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    """Keep the best ``beam_size`` captions of each image at every step.

    With ``ranking="sum"`` a beam that reaches eos (or the length limit) is put aside with its sum of
    log-probabilities over the length penalty, and the beam goes on with others. With ``ranking="mean"`` it
    stays in the beam, and the beams are ranked by mean log-probability at the end. A temperature acts from
    the second token on.

    With ``group_size`` G above 1 the beams form G groups that run one step behind each other; a token loses
    ``diversity_lambda`` for each beam of an earlier group that holds it at the same place. The result lists
    group 0's beams, then group 1's.

    Args:
        step: the model's step function; its log-probabilities must not be above 0.
        state: one row an image.
        options: the search.

    Returns:
        ``beam_size`` captions an image, best first (within each group).

    Raises:
        UserError: more beams than the vocabulary has tokens.
    """
    with torch.set_grad_enabled(options.gradients and torch.is_grad_enabled()):
        return _search(step, state, options)


def _search(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    images, device = state.size
    bos = torch.full((images,), options.bos, dtype=torch.int64, device=device)
    first, state = step(bos, state)
    vocabulary = first.shape[1]
    if options.beam_size > vocabulary:
        raise UserError(
            f"beam_size {options.beam_size} is too large: expected at most {vocabulary} (vocabulary)"
        )
    groups = [
        _Group(step, options, options.beam_size // options.group_size) for _ in range(options.group_size)
    ]
    for group in groups:
        group.start(first, state)
    # What a group has done is read by later ones, so an image leaves only when all its groups are settled.
    # A negative lambda lifts log-probabilities above 0: no bound holds.
    may_leave = options.early_stop and (len(groups) == 1 or options.diversity_lambda >= 0)
    present = torch.arange(images, device=device)
    leaving: list[Tensor] = []
    results: list[list[Decoded]] = []
    for time in range(options.max_length + len(groups) - 1):
        moving = [group for place, group in enumerate(groups) if place <= time and group.active]
        for group in moving:
            earlier = groups[: groups.index(group)]
            diminish = None
            if earlier:
                diminish = options.diversity_lambda * _crowding(earlier, group.time, vocabulary)
            group.advance(diminish)
        done = torch.zeros_like(present, dtype=torch.bool)
        if not groups[-1].active or (may_leave and groups[-1].time > 0):
            done = reduce(torch.logical_and, [group.settled() for group in groups])
        if bool(done.any()):
            gone, stay = done.nonzero().flatten(), (~done).nonzero().flatten()
            leaving.append(present[gone])
            results.append([group.result(gone) for group in groups])
            if not stay.numel():
                break
            present = present[stay]
            for group in groups:
                group.keep(stay)
        for group in moving:
            if group.active:
                group.proceed()
    order = torch.cat(leaving).argsort()
    tokens, log_probs, scores = (
        torch.cat([torch.cat([getattr(found, name) for found in batch], dim=1) for batch in results])[order]
        for name in ("tokens", "log_probs", "scores")
    )
    return Decoded(tokens=tokens, log_probs=log_probs, scores=scores)
