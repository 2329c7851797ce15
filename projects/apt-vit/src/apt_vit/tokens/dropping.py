"""Inference that really drops tokens, for batches: the answers of `apt_vit.tokens.passes.dropped`, faster.

Pictures of a batch may keep different numbers of tokens (`apt_vit.tokens.packed`), agents are one matrix each
(`apt_vit.tokens.folded`), the last block computes what its classification token needs, and linear maps go to
oneDNN where that is usable.

# B pictures, N tokens of an unpruned picture, R rows (tokens that are left), D width, L layers that prune
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apt_vit.model import Block, VisionTransformer
from apt_vit.tokens.folded import Folded, prune_probability
from apt_vit.tokens.packed import LAYOUTS, Rows, rows_of
from apt_vit.tokens.rules import Rule
from prunelab import onednn
from prunelab.doors import check_one_of

PIECE = 2**22
"""Most numbers of an MLP's hidden layer that are made at once on a processor: larger ones leave the caches,
and their memory is fetched from the system anew each time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dropped:
    """What a network said of a batch, and what it said it of."""

    logits: Tensor
    """(B, C)."""
    kept: list[Tensor]
    """Tokens of the unpruned pictures that remain behind each layer that prunes, L of (B, N) bool."""
    counts: Tensor
    """How many those are, (B, L) int64."""


class Dropper:
    """A network that drops tokens by a rule, called with pictures (B, 3, H, W).

    It reads the network's own weights; agents are folded again when theirs have changed.

    Args:
        model: the network, in evaluation mode.
        rule: which tokens stay.
        layers: blocks behind which tokens are dropped; those beyond the depth never come. None: all clip
            layers.
        layout: one of `apt_vit.tokens.packed.LAYOUTS`, for pictures that keep different numbers of tokens.
        last_cls_only: the last block computes what its classification token needs; the answers are the same.
        onednn: linear maps of single precision go to oneDNN, on processors where this is faster.

    Raises:
        UserError: an unknown layout.
        ValueError: a block is listed that the network has no agent for, and the rule asks agents.
    """

    def __init__(
        self,
        model: VisionTransformer,
        rule: Rule,
        layers: Sequence[int] | None = None,
        layout: str = "auto",
        *,
        last_cls_only: bool = True,
        onednn: bool = True,
    ) -> None:
        check_one_of("layout", layout, LAYOUTS)
        self.model, self.rule, self.layout = model, rule, layout
        self.last_cls_only, self.onednn = last_cls_only, onednn
        wanted = model.cfg.clip_layers if layers is None else layers
        self.layers = [i for i in sorted(wanted) if i < model.cfg.num_layers] if rule.prunes else []
        """Blocks behind which tokens are dropped, L."""
        without = sorted({*self.layers} - model.agents.keys()) if rule.needs_agents else []
        if without:
            raise ValueError(f"clip layers {without} have no agent, expected some of {sorted(model.agents)}")
        self._folded: dict[int, Folded] = {}
        self._folded_from: tuple[tuple[int, int], ...] = ()

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Dropped:
        """Classify pictures (B, 3, H, W).

        Args:
            images: the pictures.
            generator: draws for method random, on the CPU.
        """
        self.fold()
        return self.forward(images, generator)

    def fold(self) -> None:
        """Fold the agents, if their weights are not those of the last time."""
        if not self.rule.needs_agents:
            return
        agents = {layer: self.model.agents[layer] for layer in self.layers}
        versions = tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for agent in agents.values()
            for weight in agent.parameters()
        )
        if versions != self._folded_from:
            self._folded = {layer: Folded.of(agent) for layer, agent in agents.items()}
            self._folded_from = versions

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Dropped:
        """`__call__` with the agents as they were folded, for programs that compile it; no gradients."""
        x = self.model.embed(images)
        pictures, tokens, _ = x.shape
        rows, x = Rows.all(pictures, tokens, x.device), x.flatten(0, 1)
        alive = torch.ones(pictures, tokens, dtype=torch.bool, device=x.device)
        length, last, kept = tokens, self.model.cfg.num_layers - 1, []
        for number, block in enumerate(self.model.blocks):
            if number == last and self.last_cls_only and number not in self.layers:
                return self._dropped(self._last(block, rows, x), kept, alive)
            x, seen = self._block(block, rows, x)
            if number not in self.layers:
                continue
            score = seen if seen is not None else self._score(number, rows, x, generator)
            alive = self.rule.keep(score, alive)
            kept.append(alive)
            if number == last:
                break
            fixed = self.rule.keep_rate is not None
            if fixed:
                length = self.rule.count(length)
            left = rows_of(alive, self.layout, length if fixed else None)
            rows, x = left, rows.take(x, left.places)
        return self._dropped(rows.first(x), kept, alive)

    def _dropped(self, cls: Tensor, kept: list[Tensor], alive: Tensor) -> Dropped:
        """Classification tokens (B, D) behind the last block, and what was kept, to the answer."""
        counts = [each.sum(1) for each in kept]
        empty = torch.zeros(len(alive), 0, dtype=torch.int64, device=alive.device)
        return Dropped(
            logits=self.model.classify(cls[:, None]),
            kept=kept,
            counts=torch.stack(counts, dim=1) if counts else empty,
        )

    def _block(self, block: Block, rows: Rows, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows (R, D) through a block; the scores (B, N) too where they are made of its attention."""
        attn, linear = block.attn, self._linear
        normed = block.attention_norm(x)
        query, key = linear(attn.query, normed), linear(attn.key, normed)
        x = x + linear(attn.out, rows.attend(query, key, linear(attn.value, normed), attn.heads))
        parts = 1
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            parts = -(-len(x) * self.model.cfg.mlp_dim // PIECE)
        for part in x.chunk(parts):  # views: x is new, so it may be added to where it is
            part += self._mlp(block, part)
        if self.rule.method != "cls-attention":
            return x, None
        return x, -rows.spread(rows.seen(rows.first(query), key, attn.heads))

    def _last(self, block: Block, rows: Rows, x: Tensor) -> Tensor:
        """Rows (R, D) through a block whose classification tokens (B, D) alone are asked for."""
        attn, linear = block.attn, self._linear
        normed = block.attention_norm(x)
        key, value = linear(attn.key, normed), linear(attn.value, normed)
        context = rows.attend(linear(attn.query, rows.first(normed)), key, value, attn.heads)
        cls = rows.first(x) + linear(attn.out, context)
        return cls + self._mlp(block, cls)

    def _mlp(self, block: Block, x: Tensor) -> Tensor:
        """What a block's MLP adds to rows (R, D)."""
        return self._linear(block.ffn.fc2, F.gelu(self._linear(block.ffn.fc1, block.ffn_norm(x))))

    def _linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """A linear map."""
        return onednn.linear(x, layer.weight, layer.bias) if self.onednn else layer(x)

    def _score(self, number: int, rows: Rows, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Scores of tokens behind a block, (B, N)."""
        if not self.rule.needs_agents:
            return self.rule.random_score(
                rows.pictures, rows.tokens, number, generator=generator, device=x.device
            )
        folded = self._folded[number]
        mixed = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if mixed else nullcontext():
            seen = self.model.agent_input(x).to(folded.matrix.dtype)
            directions, offsets = folded.directions(rows.first(seen))
            difference = rows.dot(seen, directions) + rows.per_row(offsets)
        return rows.spread(prune_probability(difference))
