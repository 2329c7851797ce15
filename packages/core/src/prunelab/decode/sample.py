"""One caption after the other, no search: greedy choice and random draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from prunelab.decode.options import DecodeOptions
from prunelab.decode.protocol import Decoded, State, StepFunction
from prunelab.errors import UserError

# B images, K captions an image, N = B * K rows, V vocabulary, L longest caption

Draw: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(probabilities (n, V), rows (n,)) -> tokens (n,)``: draws for those of the N rows that are still going.
Rows of probabilities need not sum to 1. Called once a step."""


def greedy(step: StepFunction, state: State, options: DecodeOptions) -> Decoded:
    """Choose the likeliest token at every step (the lowest id of equal ones).

    Args:
        step: the model's step function.
        state: one row an image.
        options: ``constraint`` and ``record_after_end`` count; the log-probabilities are those after the
            constraint.

    Returns:
        One caption an image.
    """
    with torch.no_grad():
        shape = (state.size[0], 1)
        return _roll_out(step, state, options, shape, lambda log_probs, rows: log_probs.argmax(dim=-1))


def sample(
    step: StepFunction,
    state: State,
    options: DecodeOptions,
    *,
    generator: torch.Generator | None = None,
    draw: Draw | None = None,
) -> Decoded:
    """Draw ``options.num_samples`` random captions for each image.

    Args:
        step: the model's step function.
        state: one row an image.
        options: ``temperature`` sharpens or flattens what is drawn from; the recorded log-probabilities are
            those of the model's own distribution.
        generator: where random numbers come from; every step uses one number for each of the N rows, ended
            or not, so that rows that leave early do not change what the others draw.
        draw: another way to draw, such as handing back recorded tokens.

    Returns:
        ``num_samples`` captions an image, in the order drawn.

    Raises:
        UserError: the model gives probabilities that are not finite.
    """
    count = options.num_samples
    images, device = state.size
    total = images * count

    def by_inverse(probabilities: Tensor, rows: Tensor) -> Tensor:
        uniform = torch.rand(total, generator=generator, device=device, dtype=torch.float64)[rows]
        cumulative = probabilities.double().cumsum(dim=-1)
        target = (uniform * cumulative[:, -1]).unsqueeze(-1)
        found = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        # A product rounded up to the total would lie behind the last token that can occur.
        last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).squeeze(-1)
        return torch.minimum(found, last)

    pick = by_inverse if draw is None else draw

    def choose(log_probs: Tensor, rows: Tensor) -> Tensor:
        scaled = log_probs.detach()
        if options.temperature != 1.0:
            scaled = scaled / options.temperature
        probabilities = scaled.exp()
        if not bool(probabilities.sum().isfinite()):
            raise UserError(
                "a caption's next words have no finite probabilities: expected finite weights and features"
            )
        return pick(probabilities, rows)

    with torch.set_grad_enabled(options.gradients and torch.is_grad_enabled()):
        return _roll_out(step, state.expand(count), options, (images, count), choose)


def multinomial_draw(rows: int, *, generator: torch.Generator | None = None) -> Draw:
    """Draw by `torch.multinomial` over the probabilities of all rows, at every step.

    Rows that have left are drawn for as well, from equal probabilities, so that the others draw what they
    would draw in a loop that no row leaves.

    Args:
        rows: the number N of rows at the start.
        generator: where random numbers come from; None: torch's default generator.
    """

    def draw(probabilities: Tensor, present: Tensor) -> Tensor:
        return draw_whole(probabilities, present, rows, 1, generator).squeeze(1)

    return draw


def draw_whole(
    probabilities: Tensor, rows: Tensor, total: int, count: int, generator: torch.Generator | None
) -> Tensor:
    """Draw ``count`` different tokens (n, count) for some rows (n,) of ``total``, as if all were there.

    Args:
        probabilities: of those rows, (n, V).
        rows: which ones they are.
        total: the number of rows of the whole matrix.
        count: tokens a row.
        generator: where random numbers come from.
    """
    whole = probabilities.new_ones(total, probabilities.shape[1]).index_copy(0, rows, probabilities)
    return torch.multinomial(whole, count, generator=generator)[rows]


def _roll_out(
    step: StepFunction, state: State, options: DecodeOptions, shape: tuple[int, int], choose: Draw
) -> Decoded:
    """Step all rows until each has ended; images whose rows have all ended leave. ``shape`` is (B, K)."""
    images, count = shape
    total, device = images * count, state.size[1]
    tokens = torch.full((total, options.max_length), options.pad, dtype=torch.int64, device=device)
    recorded: list[Tensor] = []
    rows = torch.arange(total, device=device)  # which of the N rows are still in the batch
    fed = torch.full((total,), options.bos, dtype=torch.int64, device=device)
    written = fed
    alive = torch.ones(total, dtype=torch.bool, device=device)
    running = None
    for time in range(options.max_length):
        log_probs, state = step(fed, state)
        if options.constraint and time > 0:
            # The token *written* at the place before is forbidden, which is the padding once a row has ended.
            log_probs = log_probs.scatter(1, written.unsqueeze(1), -torch.inf)
        fed = choose(log_probs, rows)
        chosen = log_probs.gather(1, fed.unsqueeze(1)).squeeze(1)
        written = torch.where(alive, fed, options.pad)
        tokens[rows, time] = written
        kept = chosen if options.record_after_end else torch.where(alive, chosen, 0.0)
        recorded.append(kept.new_zeros(total).index_copy(0, rows, kept))
        running = _add_alive(running, recorded[-1], rows, alive)
        alive = alive & (fed != options.eos)
        going = alive.view(-1, count).any(dim=1)  # (images in the batch,)
        if not bool(going.any()):
            break
        if not options.record_after_end and not bool(going.all()):
            images_kept = going.nonzero().flatten()
            row_index = (images_kept.unsqueeze(1) * count + torch.arange(count, device=device)).flatten()
            state = state.select_rows(row_index).select_images(images_kept)
            rows, fed, written, alive = (x[row_index] for x in (rows, fed, written, alive))
    log_prob_rows = torch.stack(recorded, dim=1)
    log_prob_rows = torch.nn.functional.pad(log_prob_rows, (0, options.max_length - len(recorded)))
    assert running is not None
    return Decoded(
        tokens=tokens.view(images, count, -1),
        log_probs=log_prob_rows.view(images, count, -1),
        scores=running.view(images, count),
    )


def _add_alive(running: Tensor | None, recorded: Tensor, rows: Tensor, alive: Tensor) -> Tensor:
    """Sum of the log-probabilities up to the end, (N,) float64, whatever is recorded after it."""
    was_alive = torch.zeros_like(recorded, dtype=torch.bool).index_copy(0, rows, alive)
    counted = torch.where(was_alive, recorded.detach(), 0.0).double()
    return counted if running is None else running + counted
