"""Beam search the plain way: for tests and benchmarks to compare with.

Written from the two published procedures, with nothing spared: encoder output repeated for every beam,
full-vocabulary histories, full sorts, all steps to the length limit.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunelab.decode.options import DecodeOptions
from prunelab.decode.protocol import Decoded, State, StepFunction, map_tensors

# B images, K beams, V vocabulary, L longest caption


def _repeat(state: State, beams: int) -> State:
    """Every row with encoder output of its own."""
    expanded = state.expand(beams)
    return replace(
        expanded, per_image=map_tensors(lambda x: x.repeat_interleave(beams, dim=0), state.per_image)
    )


def _pick(state: State, rows: Tensor) -> State:
    """Rows of everything; at the first step this gives every beam its own copy of the image."""
    return state.select_rows(rows).select_images(rows)


class _Beams:
    """One group of beams: sequences, log-probability histories, sums, finished beams of each image."""

    def __init__(self, log_probs: Tensor, state: State, beams: int) -> None:
        images, vocabulary = log_probs.shape
        self.log_probs, self.state, self.beams = log_probs, state, beams
        self.sums = log_probs.new_zeros(images, 1)
        self.tokens = torch.zeros(images, 1, 0, dtype=torch.int64)
        self.history = log_probs.new_zeros(images, 1, 0, vocabulary)
        self.ended = torch.zeros(images, 1, dtype=torch.bool)
        self.finished: list[list[tuple[float, Tensor, Tensor]]] = [[] for _ in range(images)]

    def advance(self, time: int, options: DecodeOptions, taken: Tensor | None) -> Tensor:
        """Choose the next tokens (N,) and reorder everything."""
        images, vocabulary = len(self.finished), self.log_probs.shape[-1]
        before = self.log_probs.view(images, -1, vocabulary)
        if options.constraint and time > 0:
            before = before.clone().scatter_(2, self.tokens[:, :, -1:], -torch.inf)
        ranked = before if taken is None else before - taken.unsqueeze(1)
        totals = (self.sums.unsqueeze(2) + ranked).flatten(1)
        order = totals.sort(dim=1, descending=True, stable=True)
        self.sums, index = order.values[:, : self.beams], order.indices[:, : self.beams]
        parent, token = index // vocabulary, index % vocabulary
        batch = torch.arange(images).unsqueeze(1)
        self.tokens = torch.cat([self.tokens[batch, parent], token.unsqueeze(2)], dim=2)
        self.history = torch.cat([self.history[batch, parent], before[batch, parent].unsqueeze(2)], dim=2)
        self.state = _pick(self.state, (batch * before.shape[1] + parent).flatten())
        was_ended = self.ended[batch, parent]
        ends = token == options.eos
        stored = ends | (time == options.max_length - 1)
        if not options.restore_ended:
            stored &= ~was_ended
        for image, beam in stored.nonzero().tolist():
            score = float(self.sums[image, beam]) / options.penalty.divisor(time + 1)
            tokens = self.tokens[image, beam]
            log_probs = self.history[image, beam].gather(1, tokens.unsqueeze(1)).squeeze(1)
            self.finished[image].append((score, tokens, log_probs))
        loses = 1000.0 if options.restore_ended else torch.inf
        gone = ends if options.restore_ended else ends | was_ended
        self.sums = torch.where(gone, self.sums - loses, self.sums)
        self.ended = was_ended | ends
        return token.flatten()

    def result(self, options: DecodeOptions) -> Decoded:
        """The best finished beams."""
        shape = (len(self.finished), self.beams, options.max_length)
        tokens = torch.full(shape, options.pad)
        log_probs, scores = torch.zeros(shape), torch.zeros(shape[:2], dtype=torch.float64)
        for image, found in enumerate(self.finished):
            best = sorted(found, key=lambda entry: -entry[0])[: self.beams]
            for place, (score, ids, values) in enumerate(best):
                tokens[image, place, : len(ids)] = ids
                log_probs[image, place, : len(ids)] = values
                scores[image, place] = score
        return Decoded(tokens=tokens, log_probs=log_probs, scores=scores)


def _taken(earlier: list[_Beams], time: int, options: DecodeOptions, vocabulary: int) -> Tensor | None:
    """What earlier groups take off each token (B, V), beam by beam."""
    if not earlier:
        return None
    taken = torch.zeros(len(earlier[0].finished), vocabulary)
    for group in earlier:
        for image, beams in enumerate(group.tokens.tolist()):
            for ids in beams:
                if options.eos not in ids[:time]:
                    taken[image, ids[time]] += options.diversity_lambda
    return taken


def beam_search_plain(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    """`prunelab.decode.beam_search` with ``ranking="sum"``, group by group and step by step to the last."""
    images = state.size[0]
    first, state = step(torch.full((images,), options.bos), state)
    beams = options.beam_size // options.group_size
    groups = [_Beams(first, state, beams) for _ in range(options.group_size)]
    for global_time in range(options.max_length + len(groups) - 1):
        for place, group in enumerate(groups):
            time = global_time - place
            if not 0 <= time < options.max_length:
                continue
            taken = _taken(groups[:place], time, options, first.shape[1])
            tokens = group.advance(time, options, taken)
            group.log_probs, group.state = step(tokens, group.state)
            if options.temperature != 1.0:
                group.log_probs = (group.log_probs / options.temperature).log_softmax(dim=-1)
    found = [group.result(options) for group in groups]
    return Decoded(
        tokens=torch.cat([f.tokens for f in found], dim=1),
        log_probs=torch.cat([f.log_probs for f in found], dim=1),
        scores=torch.cat([f.scores for f in found], dim=1),
    )


def mean_beam_search_plain(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    """`prunelab.decode.beam_search` with ``ranking="mean"``: K candidates of each beam, K of them all."""
    images, beams = state.size[0], options.beam_size
    log_probs, state = step(torch.full((images,), options.bos), state)
    first = log_probs.sort(dim=1, descending=True, stable=True)
    tokens = first.indices[:, :beams].unsqueeze(2)  # (B, K, t)
    values = first.values[:, :beams].unsqueeze(2)
    length = torch.ones(images, beams, dtype=torch.int64)
    state = _repeat(state, beams)
    batch = torch.arange(images).unsqueeze(1)
    for _ in range(options.max_length - 1):
        ended = (tokens == options.eos).any(dim=2)
        log_probs, state = step(tokens[:, :, -1].flatten(), state)
        best = log_probs.view(images, beams, -1).sort(dim=2, descending=True, stable=True)
        candidate, index = best.values[:, :, :beams].clone(), best.indices[:, :, :beams]
        candidate[ended] = torch.tensor([0.0] + [-999.0] * (beams - 1))
        totals = (values.sum(dim=2, keepdim=True) + candidate).flatten(1)
        chosen = totals.sort(dim=1, descending=True, stable=True).indices[:, :beams]
        parent, place = chosen // beams, chosen % beams
        token = index[batch, parent, place]
        values = torch.cat([values[batch, parent], candidate[batch, parent, place].unsqueeze(2)], dim=2)
        tokens = torch.cat([tokens[batch, parent], token.unsqueeze(2)], dim=2)
        length = length[batch, parent] + (~ended[batch, parent]).long()
        state = _pick(state, (batch * beams + parent).flatten())
    means = values.double().sum(dim=2) / (length + 1)
    order = means.argsort(dim=1, descending=True, stable=True)
    tokens, values, length = tokens[batch, order], values[batch, order], length[batch, order]
    past = torch.arange(tokens.shape[2]) >= length.unsqueeze(2)
    return Decoded(
        tokens=tokens.masked_fill(past, options.pad),
        log_probs=values.masked_fill(past, 0.0),
        scores=means[batch, order],
    )
