"""The streams of a training step, which share what they have in common; the numbers are single passes'.

Where rewards see no dropout, stream 2 is stream 0 up to its clip layer; without any dropout stream 1 is
stream 0 too, until the batch's first token is pruned. So up to three batches go through the blocks side by
side:

many       stream 1, with gradients, without the tokens that were pruned; stream 0 too while it is the same
plain      stream 0 on its own
tried      stream 2 of all clip layers so far, each without its token

The last two have no gradients (``plain`` has them where it is learnt from). The last block is run for the
classification token alone.

# B pictures, N tokens with the classification token first, R rows of tokens, D width, C classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from apt_vit.config import Config
from apt_vit.learning.actions import Source, choose
from apt_vit.learning.partial import ahead, cls_through, through, without
from apt_vit.learning.streams import (
    Streams,
    at_least_single,
    difference,
    direction,
    logits_at,
    single_precision,
)
from apt_vit.model import Block, VisionTransformer
from apt_vit.tokens.folded import prune_probability
from apt_vit.tokens.packed import Rows, rows_of
from apt_vit.tokens.passes import Single
from apt_vit.tokens.rules import Rule
from prunelab.modes import evaluating


def by_sharing(
    model: VisionTransformer, x: Tensor, cfg: Config, source: Source, generator: torch.Generator
) -> Streams:
    """All streams of a micro-batch whose rewards see no dropout.

    Args:
        model: the network, in training mode.
        x: pictures (B, 3, H, W).
        cfg: which streams there are.
        source: of actions.
        generator: for pruning at random.
    """
    if cfg.prune.method == "plain":
        return Streams(trained=_plain(model, x))
    acts = cfg.prune.trains_agents
    quiet = max(model.cfg.dropout_rate, model.cfg.attention_dropout_rate) == 0
    many = _Many(model, cfg, model.embed(x), generator)
    if not acts:
        for number, block in enumerate(model.blocks):
            many.advance(number, block)
            if number in many.layers:
                many.visit(number, block)
        trained = _plain(model, x) if cfg.prune.plain_loss > 0 else None
        return Streams(pruned=many.logits(), trained=trained, kept=many.kept)
    rewards = _Rewards(model, cfg, source)
    if not quiet:
        with torch.no_grad(), evaluating(model.transformer.embeddings):
            rewards.plain = model.embed(x)
    for number, block in enumerate(model.blocks):
        many.advance(number, block)
        rewards.advance(number, block)
        if number in many.layers:
            plain = many.tokens if rewards.plain is None else rewards.plain
            score = rewards.visit(number, plain)
            many.visit(number, block, score if quiet else None)
            if many.lost and rewards.plain is None:
                rewards.plain = plain if rewards.learns else plain.detach()
    pruned = many.logits()
    plain = pruned if rewards.plain is None else rewards.plain_logits()
    trained = None
    if cfg.prune.plain_loss > 0:
        trained = plain if quiet else _plain(model, x)
    return Streams(
        plain=plain,
        trained=trained,
        pruned=pruned,
        singles=rewards.singles(),
        kept=many.kept,
        keep_probability=many.keep_probability,
    )


def _plain(model: VisionTransformer, x: Tensor) -> Tensor:
    """Stream 0 of pictures (B, 3, H, W), in the network's mode: (B, C)."""
    x = model.embed(x)
    for block in model.blocks[:-1]:
        x = block(x)
    return model.classify(cls_through(model.blocks[-1], x))


class _Many:
    """Stream 1, whose pruned tokens go.

    Args:
        model: the network.
        cfg: the rule, and whether keep probabilities are learnt from.
        x: tokens (B, N, D).
        generator: for pruning at random.
    """

    def __init__(self, model: VisionTransformer, cfg: Config, x: Tensor, generator: torch.Generator) -> None:
        self.model, self.rule, self.generator = model, Rule.of(cfg.prune), generator
        self.layers = [layer for layer in model.cfg.clip_layers if layer < model.cfg.num_layers]
        self.last = model.cfg.num_layers - 1
        self.learns = cfg.prune.keep_penalty > 0
        # Attention to rows of different lengths is cut into calls that have no dropout of their own.
        self.layout = "padded" if model.cfg.attention_dropout_rate > 0 else "auto"
        self.rows = Rows.all(len(x), x.shape[1], x.device)
        self.alive = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        self.x = x.flatten(0, 1)
        self.before = self.x
        self.length = x.shape[1]
        """Tokens of each picture, under a keep rate."""
        self.lost = False
        """Whether a token was pruned."""
        self.kept: dict[int, Tensor] = {}
        self.keep_probability: dict[int, Tensor] = {}

    @property
    def tokens(self) -> Tensor:
        """(B, N, D), of use while no token is lost."""
        return self.x.unflatten(0, (self.rows.pictures, -1))

    def advance(self, number: int, block: Block) -> None:
        """Go through a block."""
        self.before = self.x
        if number < self.last or number in self.layers:
            self.x = through(block, self.rows, self.x)
            return
        if self.rows.lengths:
            rows = rows_of(self.alive, "padded")
            self.x, self.rows = self.rows.take(self.x, rows.places), rows
        self.x = cls_through(block, self.tokens, self.rows.valid).flatten(0, 1)
        self.rows = Rows.all(self.rows.pictures, 1, self.x.device)

    def visit(self, layer: int, block: Block, score: Tensor | None = None) -> None:
        """Prune behind a clip layer.

        Args:
            layer: its number.
            block: its block.
            score: prune probabilities (B, N) of whole pictures, where they are known already.
        """
        if score is None or self.lost or self.learns:
            score = self._score(layer, block)
        self.alive = self.rule.keep(score.detach(), self.alive)
        self.kept[layer] = self.alive.sum(1)
        if layer == self.last:
            return  # nothing comes behind it
        if self.rule.keep_rate is not None:
            self.length = self.rule.count(self.length)
        least = self.length if self.rule.keep_rate is not None else int(self.kept[layer].min())
        if least == self.rows.tokens:
            return
        self.lost = True
        rows = rows_of(self.alive, self.layout, None if self.rule.keep_rate is None else self.length)
        self.x, self.rows = self.rows.take(self.x, rows.places), rows

    def logits(self) -> Tensor:
        """(B, C)."""
        return self.model.classify(self.rows.first(self.x)[:, None])

    def _score(self, layer: int, block: Block) -> Tensor:
        """(B, N)."""
        rows = self.rows
        if self.rule.method == "random":
            return self.rule.random_score(
                rows.pictures, rows.tokens, layer, generator=self.generator, device=self.x.device
            )
        if self.rule.method == "cls-attention":
            with torch.no_grad():
                h = block.attention_norm(self.before)
                query, key = block.attn.query(rows.first(h)), block.attn.key(h)
                return -rows.spread(rows.seen(query, key, block.attn.heads))
        with torch.set_grad_enabled(self.learns), single_precision(self.x):
            seen = at_least_single(self.model.agent_input(self.x))
            along, offset = direction(self.model.agents[layer], rows.first(seen))
            prune = rows.spread(prune_probability(rows.dot(seen, along) + rows.per_row(offset)))
        if self.learns:
            judged = self.alive.clone()
            judged[:, 0] = False
            self.keep_probability[layer] = 1 - prune[judged].mean()
        return prune


class _Rewards:
    """Streams 0 and 2, without dropout.

    Args:
        model: the network.
        cfg: which tokens are tried.
        source: of actions.
    """

    def __init__(self, model: VisionTransformer, cfg: Config, source: Source) -> None:
        self.model, self.cfg, self.source = model, cfg, source
        self.last = model.cfg.num_layers - 1
        self.learns = cfg.prune.plain_loss > 0
        self.plain: Tensor | None = None
        self.tried: Tensor | None = None
        """(k B, N - 1, D) of the k clip layers so far."""
        self.said: dict[int, tuple[Tensor, Tensor]] = {}
        """By clip layer: the agents' logits (B, 2) of the tokens (B,)."""

    def advance(self, number: int, block: Block) -> None:
        """Go through a block."""
        if self.plain is not None:
            with torch.set_grad_enabled(self.plain.requires_grad):
                self.plain = self._through(number, block, self.plain)
        if self.tried is not None:
            with torch.no_grad():
                self.tried = self._through(number, block, self.tried)

    def _through(self, number: int, block: Block, x: Tensor) -> Tensor:
        if number < self.last or number in self.model.agents:
            return block(x) if x.requires_grad else ahead(block, x)
        with evaluating(block):
            return cls_through(block, x)

    def visit(self, layer: int, x: Tensor) -> Tensor:
        """Try one token of each picture from a clip layer on.

        Args:
            layer: its number.
            x: stream 0's tokens (B, N, D) behind it.

        Returns:
            Prune probabilities (B, N).
        """
        x = x.detach()
        agent = self.model.agents[layer]
        with single_precision(x):
            seen = at_least_single(self.model.agent_input(x))
            with torch.no_grad():
                probability = prune_probability(difference(agent, seen))
            tokens = choose(probability, self.cfg, self.source)
            self.said[layer] = logits_at(agent, seen, tokens), tokens
        tried = without(x, tokens)
        self.tried = tried if self.tried is None else torch.cat((self.tried, tried))
        return probability

    def plain_logits(self) -> Tensor:
        """Stream 0's (B, C)."""
        assert self.plain is not None
        with torch.set_grad_enabled(self.plain.requires_grad):
            return self.model.classify(self.plain)

    def singles(self) -> dict[int, Single]:
        """Stream 2 of each clip layer."""
        if self.tried is None:
            return {}
        with torch.no_grad():
            logits = self.model.classify(self.tried).chunk(len(self.said))
        return {
            layer: Single(logits=each, clip_logits=said, tokens=tokens)
            for (layer, (said, tokens)), each in zip(self.said.items(), logits, strict=True)
        }
