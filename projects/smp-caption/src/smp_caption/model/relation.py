"""The Object Relation Transformer (Herdade et al. 2019), and with shared parts ACORT (Tan et al. 2022).

The encoder's attention knows how boxes lie to each other. Names and order of parameters are the original's.
"""

from __future__ import annotations

from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model.attention import BOX_DIM, BoxAttention, bias_of, geometric_biases
from smp_caption.model.blocks import Body, Encoded, initialise, region_embedding
from smp_caption.model.layers import box_embedding, box_relations
from smp_caption.model.network import Inputs, check_size
from smp_caption.model.transformer import TransformerNetwork

# B images, S regions, F feature size, D width


class RelationTransformer(TransformerNetwork):
    """The captioner."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None = None) -> None:
        super().__init__(cfg)
        self.att_embed = region_embedding(cfg, mask)
        self.model = Body(cfg, BoxAttention, mask)
        initialise(self.model)

    @property
    def body(self) -> Body:
        """The encoder and decoder."""
        return self.model

    def embed_regions(self, inputs: Inputs) -> tuple[Inputs, bool]:
        """Cut the images to the longest real length and embed the real regions.

        Returns:
            The images, their features (B, S, D) with padded rows of 0, and whether all regions are real.

        Raises:
            UserError: features of another size than the network's.
        """
        check_size("att_feat_size", inputs.att_feats, self.cfg.att_feat_size)
        feats, masks, boxes = inputs.att_feats, inputs.att_masks, inputs.boxes
        assert boxes is not None, "the relation transformer reads boxes"
        if masks is not None:
            longest = int(masks.sum(dim=1).max())
            feats, masks, boxes = feats[:, :longest], masks[:, :longest], boxes[:, :longest]
        if masks is None or bool(masks.all()):
            return Inputs(self.att_embed(feats), masks, None, boxes), True
        real = masks.bool()
        packed = self.att_embed(feats[real])  # (real regions, D)
        embedded = packed.new_zeros(*real.shape, packed.shape[-1])
        embedded[real] = packed
        return Inputs(embedded, masks, None, boxes), False

    def encode(self, inputs: Inputs) -> Encoded:
        """See `TransformerNetwork.encode`; relations of boxes are embedded once for all layers."""
        (x, masks, _, boxes), whole = self.embed_regions(inputs)
        assert boxes is not None
        bias = None if whole or masks is None else bias_of(masks[:, None, None], x)
        raw = self.cfg.no_box_trigonometric_embedding
        relations = box_relations(boxes) if raw else box_embedding(boxes, dim=BOX_DIM)
        layers = self.model.encoder_layers
        attentions = [a for a in (layer.self_attn for layer in layers) if isinstance(a, BoxAttention)]
        for layer, geometry in zip(layers, geometric_biases(relations, attentions), strict=True):
            x = layer(x, geometry if bias is None else geometry + bias)
        return Encoded(self.model.encoder.norm(x), bias)
