"""Tokens of a batch as the rows of one matrix, where pictures keep different numbers of them.

What treats every token alike (linear maps, norms, MLPs) works on the matrix; attention alone must know where
a picture begins. Rows come picture by picture, each picture's in their order, the classification token first:

form       rows R                        attention
rectangle  B M, all pictures keep M      one call
padded     B M, M the longest picture's  one call with a mask of keys; rows too many are computed for nothing
packed     all tokens that are kept      one call a picture

# B pictures, N tokens of an unpruned picture, M rows of a picture, D width, H heads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LAYOUTS = ("auto", "packed", "padded")
"""Forms of batches whose pictures differ in length; auto: packed on a processor, else padded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Which token of which picture each row is."""

    places: Tensor
    """Row to token of the unpruned batch, picture by picture: (R,) int64 of 0 to B N - 1, no number twice."""
    pictures: int
    """B."""
    tokens: int
    """N."""
    lengths: tuple[int, ...] = ()
    """Rows of each picture, of the packed form alone."""
    valid: Tensor | None = None
    """Rows that are tokens, (B, M) bool, of the padded form alone."""

    @classmethod
    def all(cls, pictures: int, tokens: int, device: torch.device) -> Rows:
        """Those of an unpruned batch."""
        return cls(places=torch.arange(pictures * tokens, device=device), pictures=pictures, tokens=tokens)

    def first(self, x: Tensor) -> Tensor:
        """Of rows (R, D) those of the classification tokens, (B, D)."""
        if self.lengths:
            return torch.stack([part[0] for part in x.split(self.lengths)])
        return self._boxed(x)[:, 0]

    def per_row(self, each: Tensor) -> Tensor:
        """Numbers of pictures (B,) to those of their rows, (R,)."""
        if self.lengths:
            return torch.cat([one.expand(n) for one, n in zip(each, self.lengths, strict=True)])
        return each[:, None].expand(-1, len(self.places) // self.pictures).flatten()

    def dot(self, x: Tensor, directions: Tensor) -> Tensor:
        """Product of each row (R, D) with the direction (B, D) of its picture, (R,)."""
        if self.lengths:
            return torch.cat([a @ b for a, b in zip(x.split(self.lengths), directions, strict=True)])
        return (self._boxed(x) @ directions[:, :, None]).flatten()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Attention of rows to the rows of their picture.

        Args:
            query: (R, D), or (B, D) where only the classification tokens ask.
            key: (R, D).
            value: (R, D).
            heads: H.

        Returns:
            As many rows as ask.
        """
        if self.lengths:
            asks = self.lengths if len(query) == len(key) else (1,) * self.pictures
            parts = zip(query.split(asks), key.split(self.lengths), value.split(self.lengths), strict=True)
            return torch.cat([_attend(q[None], k[None], v[None], heads)[0] for q, k, v in parts])
        mask = None if self.valid is None else self.valid[:, None, None]  # (B, 1, 1, M)
        query, key, value = (self._boxed(each) for each in (query, key, value))
        found = _attend(query, key, value, heads, mask)
        return found.view(-1, found.shape[-1])  # (B M, D)

    def seen(self, first: Tensor, key: Tensor, heads: int) -> Tensor:
        """What the classification tokens' queries (B, D) see of rows' keys (R, D), mean of heads: (R,)."""
        if self.lengths:
            parts = zip(first, key.split(self.lengths), strict=True)
            return torch.cat([_seen(q[None], k[None], heads)[0] for q, k in parts])
        return _seen(first, self._boxed(key), heads, self.valid).flatten()

    def spread(self, each: Tensor) -> Tensor:
        """Numbers of rows (R,) to (B, N); tokens that are no rows get 0."""
        spread = each.new_zeros(self.pictures * self.tokens).scatter(0, self.places, each)
        return spread.view(self.pictures, self.tokens)

    def take(self, x: Tensor, places: Tensor) -> Tensor:
        """Of rows (R, D) those of other places (R',), (R', D); where there is no such row, the first one."""
        numbers = torch.arange(len(self.places), device=x.device)
        row_of = torch.zeros(self.pictures * self.tokens, dtype=torch.int64, device=x.device)
        return x.index_select(0, row_of.scatter(0, self.places, numbers)[places])

    def _boxed(self, x: Tensor) -> Tensor:
        """(B M, D) to (B, M, D)."""
        return x.view(self.pictures, -1, x.shape[-1])


def rows_of(keep: Tensor, layout: str = "auto", length: int | None = None) -> Rows:
    """Rows of the tokens that are kept, a rectangle where all pictures keep as many.

    Args:
        keep: (B, N) bool.
        layout: one of `LAYOUTS`, for pictures that differ in length.
        length: how many each picture keeps, where it is known; nothing is read from the device then.
    """
    pictures, tokens = keep.shape
    lengths: Sequence[int] = () if length is not None else keep.sum(1).tolist()
    longest = length if length is not None else max(lengths)
    ragged = bool(lengths) and min(lengths) < longest
    if layout == "auto":
        layout = "packed" if keep.device.type == "cpu" else "padded"
    if ragged and layout == "packed":
        places = keep.flatten().nonzero()[:, 0]
        return Rows(places=places, pictures=pictures, tokens=tokens, lengths=tuple(lengths))
    # Stable: kept tokens come first, in their order.
    order = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    starts = tokens * torch.arange(pictures, device=keep.device)
    places = (order + starts[:, None]).flatten()
    valid = keep.gather(1, order) if ragged else None
    return Rows(places=places, pictures=pictures, tokens=tokens, valid=valid)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Rows (B, M, D) that ask to (B, M, D)."""
    pictures, _, width = query.shape
    query, key, value = (
        each.view(pictures, -1, heads, width // heads).transpose(1, 2) for each in (query, key, value)
    )
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, H, M, D/H)
    return found.transpose(1, 2).reshape(pictures, -1, width)


def _seen(first: Tensor, key: Tensor, heads: int, valid: Tensor | None = None) -> Tensor:
    """Queries (B, D) and keys (B, M, D) to probabilities, mean of the heads, (B, M)."""
    query = first.unflatten(-1, (heads, 1, -1))  # (B, H, 1, D/H)
    scores = query @ key.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1) / query.shape[-1] ** 0.5
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
    return scores.softmax(-1).mean(1)[:, 0]
