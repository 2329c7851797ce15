"""The transformer captioner: what all transformers of this project share, and the plain one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from prunelab import onednn
from prunelab.decode import State
from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model import caches
from smp_caption.model.attention import Attention, bias_of
from smp_caption.model.blocks import Body, Encoded, initialise, region_embedding
from smp_caption.model.network import Inputs, Network, check_size

# B images, S regions, F feature size, K captions an image, N = B * K, T tokens, V vocabulary, D width


class TransformerNetwork(Network):
    """What the plain transformer and the relation transformer have in common.

    Args:
        cfg: sizes.
        mask: how masks behave; None builds the dense network.
    """

    caching: caches.Caching = "exact"
    """How decoding remembers earlier tokens. ``exact``: every depth has keys and values of its own, with
    which decoding equals reading the whole sentence again. ``mixed``: depths that share a layer share its
    cache, too. ``none``: nothing is remembered but the place."""

    _kept: caches.Kept | None = None

    @property
    @abstractmethod
    def body(self) -> Body:
        """The encoder and decoder."""

    @abstractmethod
    def encode(self, inputs: Inputs) -> Encoded:
        """Encode images, once whatever the number of captions.

        Raises:
            UserError: features of another size than the network's.
        """

    def forward(self, inputs: Inputs, seqs: Tensor, *, last_column: bool = False) -> Tensor:
        """See `Network.forward`; ``last_column`` is not for transformers, whose last column is never fed."""
        seqs = self.captions_of(inputs, seqs)[:, :-1]
        encoded, body = self.encode(inputs), self.body
        x = body.tgt_embed(seqs)
        bias = bias_of(visible(seqs, self.cfg.pad_token_id), x)
        for layer in body.decoder_layers:
            x = layer(x, encoded, bias)
        return body.generator(body.decoder.norm(x))

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """See `Network.prepared`; linear maps of the decoder are kept in oneDNN's order, where it is used."""
        before, self._kept = self._kept, caches.Kept()
        try:
            with super().prepared():
                yield
        finally:
            self._kept = before

    def begin(self, inputs: Inputs) -> State:
        """See `Network.begin`."""
        with onednn.OneDNN():
            return caches.begin(self.body, self.encode(inputs), self._kept, redraws=self.redraws())

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Network.step`."""
        return caches.step(self.body, tokens, state, self.caching)


def visible(seqs: Tensor, pad: int) -> Tensor:
    """Which tokens each one of seqs (N, T) sees: those up to itself that are no padding, (N, 1, T, T)."""
    length = seqs.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=seqs.device).tril()
    return before & (seqs != pad).view(-1, 1, 1, length)


class Transformer(TransformerNetwork):
    """The plain transformer: regions without places."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None = None) -> None:
        super().__init__(cfg)
        self.core = Body(cfg, Attention, mask, region_embedding(cfg, mask))
        initialise(self.core)

    @property
    def body(self) -> Body:
        """The encoder and decoder."""
        return self.core

    def encode(self, inputs: Inputs) -> Encoded:
        """See `TransformerNetwork.encode`; padded regions are embedded too, and seen by none."""
        check_size("att_feat_size", inputs.att_feats, self.cfg.att_feat_size)
        x = self.core.src_embed(inputs.att_feats)
        bias = None
        if inputs.att_masks is not None and not bool(inputs.att_masks.all()):
            bias = bias_of(inputs.att_masks[:, None, None], x)
        for layer in self.core.encoder_layers:
            x = layer(x, bias)
        return Encoded(self.core.encoder.norm(x), bias)
