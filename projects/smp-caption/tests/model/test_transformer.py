"""The transformers against the plain way of computing them; sharing, start weights, edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunelab.errors import UserError
from prunelab.mask import MaskSpec, draw_once, masks
from prunelab.mask import layers as mask_layers
from smp_caption.config import RELATION_TRANSFORMERS, TRANSFORMERS, ModelConfig
from smp_caption.model import Network, RelationTransformer, TransformerNetwork, build
from smp_caption.model.blocks import LAYER_DROPOUT, layer_dropout
from smp_caption.model.reference_transformer import teach_plain

from ..networks import SMALL, part, pictures, small

NAMES = (*TRANSFORMERS, *RELATION_TRANSFORMERS)
SHARED: list[dict[str, object]] = [
    {},
    {"share_att_encoder": "kv", "share_att_decoder": "qk", "share_layer_decoder": (0, 0, 1)},
    {"share_att_encoder": "qk", "share_att_decoder": "kv", "share_layer_encoder": (0, 1, 1)},
    {"no_box_trigonometric_embedding": True, "share_layer_encoder": (0, 0), "share_layer_decoder": (0, 0)},
]
INPUTS = pictures(3, 2, 4)


def captions() -> torch.Tensor:
    """Two captions for each picture, of bos and words, two of them padded."""
    seqs = torch.randint(4, SMALL.vocab_size, (6, 6), generator=torch.Generator().manual_seed(3))
    seqs[:, 0], seqs[1, 3:], seqs[4, 5:] = SMALL.bos_token_id, 0, 0
    return seqs


def transformer(name: str, **changes: object) -> TransformerNetwork:
    network = small(name, **changes)  # type: ignore[arg-type]
    assert isinstance(network, TransformerNetwork)
    return network


def with_certain_masks(network: Network) -> Network:
    """The network with masks whose draws are sure, some of them 0."""
    with torch.no_grad():
        for mask in masks(network).values():
            mask.copy_(torch.where(torch.rand_like(mask) < 0.3, -1e4, 1e4))
    return network


@pytest.mark.parametrize("changes", SHARED)
@pytest.mark.parametrize("name", NAMES)
def test_teacher_forcing_equals_the_plain_way_with_its_gradients(
    name: str, changes: dict[str, object]
) -> None:
    network, seqs = transformer(name, **changes), captions()
    with_certain_masks(network)
    results = []
    for way in (lambda: network(INPUTS, seqs), lambda: teach_plain(network, INPUTS, seqs)):
        network.zero_grad()
        found = way()
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
        results.append((found.detach(), {n: p.grad for n, p in network.named_parameters()}))
    (ours, our_gradients), (plain, gradients) = results
    torch.testing.assert_close(ours, plain, atol=1e-10, rtol=0)
    for title, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[title], gradient, atol=1e-8, rtol=1e-6, msg=title)


@pytest.mark.parametrize("name", NAMES)
def test_without_gradients_the_same_comes_out(name: str) -> None:
    network, seqs = transformer(name, share_layer_encoder=(0, 0, 1)).eval(), captions()
    with torch.no_grad():
        torch.testing.assert_close(network(INPUTS, seqs), teach_plain(network, INPUTS, seqs))


@pytest.mark.parametrize("name", NAMES)
def test_regions_that_are_padding_and_later_pictures_change_nothing(name: str) -> None:
    network, seqs = transformer(name).eval(), captions()
    whole = network(INPUTS, seqs)
    noisy = INPUTS._replace(att_feats=torch.where(INPUTS.att_feats == 0, 9.0, INPUTS.att_feats))
    torch.testing.assert_close(network(noisy, seqs), whole)
    torch.testing.assert_close(network(part(INPUTS, slice(1, 2)), seqs[2:4]), whole[2:4])


@pytest.mark.parametrize("name", NAMES)
def test_regions_that_are_all_real_need_no_mask(name: str) -> None:
    network, seqs = transformer(name).eval(), captions()[:2]
    full = part(pictures(3), slice(0, 1))
    full = full._replace(att_feats=full.att_feats[:, :3], att_masks=None, boxes=full.boxes[:, :3])  # type: ignore[index]
    masked = full._replace(att_masks=torch.ones(1, 3, dtype=torch.float64))
    assert torch.equal(network(full, seqs), network(masked, seqs))


def test_captions_with_a_third_dimension_and_the_last_column_count_alike() -> None:
    network, seqs = transformer("relation_transformer").eval(), captions()
    found = network(INPUTS, seqs)
    assert found.shape == (6, 5, SMALL.vocab_size)
    assert torch.equal(network(INPUTS, seqs.view(3, 2, 6), last_column=True), found)


@pytest.mark.parametrize("name", ["transformer", "relation_transformer"])
def test_what_does_not_fit_is_refused(name: str) -> None:
    network, seqs = transformer(name), captions()
    with pytest.raises(UserError, match="5 captions for 3 images: expected a multiple"):
        network(INPUTS, seqs[:5])
    with pytest.raises(UserError, match=r"2 numbers each: expected 7 \(att_feat_size\)"):
        network(INPUTS._replace(att_feats=INPUTS.att_feats[..., :2]), seqs)
    with pytest.raises(UserError, match="has no masks: a pruned one is"):
        build(network.cfg, MaskSpec())


@pytest.mark.parametrize("name", ["transformer_prune", "relation_transformer_prune"])
def test_masks_start_where_they_are_told_and_weights_from_xaviers_distribution(name: str) -> None:
    network = build(replace(SMALL, caption_model=name), MaskSpec(init=2.5))
    assert all(bool((mask == 2.5).all()) for mask in masks(network).values())
    weights = dict(network.named_parameters())
    for title, weight in weights.items():
        if weight.dim() > 1 and title + "_pruning_mask" in weights and not title.startswith("att_embed"):
            bound = (6 / sum(weight.shape)) ** 0.5
            assert weight.abs().max() <= bound, title
            assert weight.numel() < 40 or weight.abs().max() > 0.7 * bound, title
    masked = {title.removesuffix("_pruning_mask") for title in masks(network)}
    assert masked == {
        title for title, weight in weights.items() if weight.dim() > 1 and title + "_pruning_mask" in weights
    }
    assert all(t in masked or t.endswith("_mask") for t, w in weights.items() if w.dim() > 1)


def test_shared_layers_stand_at_several_depths_and_are_counted_once() -> None:
    network = transformer(
        "relation_transformer", share_layer_encoder=(0, 0, 1), share_layer_decoder=(0, 1, 0)
    )
    state, named = network.state_dict(), dict(network.named_parameters())
    first, same = (f"model.decoder.layers.{depth}.feed_forward.w_1.weight" for depth in (0, 2))
    assert state[first].data_ptr() == state[same].data_ptr()
    assert first in named
    assert same not in named
    assert len(network.body.encoder_layers) == len(network.body.decoder_layers) == 3
    assert network.body.encoder_layers[0] is network.body.encoder_layers[1]


def test_sharing_attention_leaves_a_projection_out_of_both_attentions() -> None:
    network = transformer("relation_transformer_prune", share_att_encoder="kv", share_att_decoder="qk")
    assert len(network.body.encoder_layers[0].self_attn.linears) == 3
    assert len(network.body.decoder_layers[0].src_attn.linears) == 3
    assert len(transformer("transformer").body.decoder_layers[0].self_attn.linears) == 4


def test_raw_relations_of_boxes_are_four_numbers_a_pair() -> None:
    raw = small("relation_transformer", no_box_trigonometric_embedding=True).state_dict()
    waves = small("relation_transformer").state_dict()
    title = "model.encoder.layers.0.self_attn.WGs.1.weight"
    assert (raw[title].shape, waves[title].shape) == ((1, 4), (1, 64))


def test_boxes_are_seen_by_the_relation_transformer_alone() -> None:
    moved = INPUTS._replace(boxes=INPUTS.boxes.flip(1) if INPUTS.boxes is not None else None)
    for name in ("transformer", "relation_transformer"):
        network = transformer(name).eval()
        same = torch.equal(network(INPUTS, captions()), network(moved, captions()))
        assert same == (name == "transformer")


def test_dropout_is_a_third_when_pruned_unless_it_is_given() -> None:
    assert layer_dropout(ModelConfig(caption_model="relation_transformer")) == LAYER_DROPOUT
    assert layer_dropout(ModelConfig(caption_model="transformer_prune")) == LAYER_DROPOUT / 3
    assert layer_dropout(ModelConfig(caption_model="transformer_prune", drop_prob_layer=0.4)) == 0.4


def test_each_dropout_acts_in_training_only() -> None:
    for rates in ({"drop_prob_src": 0.5}, {"drop_prob_layer": 0.5}):
        network = build(replace(SMALL, caption_model="relation_transformer", **rates)).double()
        assert isinstance(network, RelationTransformer)
        assert not torch.equal(network(INPUTS, captions()), network(INPUTS, captions()))
        network.eval()
        assert torch.equal(network(INPUTS, captions()), network(INPUTS, captions()))


def test_masks_are_drawn_once_under_one_draw_and_else_at_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    network = transformer(
        "relation_transformer_prune", share_layer_encoder=(0, 0), share_layer_decoder=(0, 0)
    )
    drawn: list[torch.Size] = []
    original = mask_layers.sample_mask
    monkeypatch.setattr(mask_layers, "sample_mask", lambda m: drawn.append(m.shape) or original(m))
    with draw_once(network):
        network(INPUTS, captions())
    layered = len(masks(network)) - 3  # but att_embed, the words and the generator
    assert len(drawn) == layered + 3
    drawn.clear()
    network(INPUTS, captions())
    assert len(drawn) == 2 * layered + 3
    drawn.clear()
    network.eval()(INPUTS, captions())
    assert not drawn
