"""Box relations, box attention, norm and positions against recorded numbers; default state dicts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from prunelab.mask import masks
from smp_caption.config import ModelConfig
from smp_caption.model import AVAILABLE, build
from smp_caption.model.layers import (
    LayerNorm,
    box_attention,
    box_embedding,
    box_relations,
    positional_table,
)
from testing.parity import Folder, of_kind

from .parity_models import assert_within

THREE_TWICE = (0, 0, 0, 1, 1, 1)
ACORT = ModelConfig(
    caption_model="relation_transformer",
    vocab_size=771,  # of the radix tokenizer of base 768
    share_att_encoder="kv",
    share_att_decoder="kv",
    share_layer_encoder=THREE_TWICE,
    share_layer_decoder=THREE_TWICE,
)
PUBLISHED = {"acort_base": ACORT, "acort_small": replace(ACORT, d_model=256, dim_feedforward=1024)}
"""Published models that are a network's name and more flags than that."""
DEPTH = re.compile(r"\.layers\.(\d+)\.")


@pytest.mark.parity
@of_kind("layers")
def test_box_relations_agree_raw_and_as_waves(folder: Folder) -> None:
    recorded, facts = folder.arrays("layers.npz"), dict(folder.facts["box_embedding"])
    waves = box_embedding(recorded["boxes"], **facts)
    raw = box_relations(recorded["boxes"], min_distance=facts["min_distance"])
    assert_within(waves, recorded["emb"], folder.tolerance["emb"])
    assert_within(raw, recorded["emb_notrig"], folder.tolerance["default"])


@pytest.mark.parity
@of_kind("layers")
def test_attention_with_boxes_agrees(folder: Folder) -> None:
    r = folder.arrays("layers.npz")
    context, weights = box_attention(r["q"], r["k"], r["v"], r["wg"], r["mask"])
    assert_within(context, r["box_attention_out"], folder.tolerance["default"])
    assert_within(weights, r["box_attention_weights"], folder.tolerance["default"])


@pytest.mark.parity
@of_kind("layers")
def test_norm_and_positions_agree(folder: Folder) -> None:
    recorded, norm, places = (
        folder.arrays("layers.npz"),
        folder.facts["layer_norm"],
        folder.facts["positional"],
    )
    out = LayerNorm(norm["features"], eps=norm["eps"])(recorded["ln_in"])
    assert_within(out, recorded["ln_out"], folder.tolerance["default"])
    table = positional_table(places["rows"], places["d_model"])
    assert_within(table, recorded[places["key"]], folder.tolerance["default"])


@pytest.mark.parity
@of_kind("layers")
def test_models_of_default_size_have_the_recorded_names_shapes_and_counts(folder: Folder) -> None:
    if not folder.find(str(folder.facts.get("default_state_dicts"))):
        pytest.skip(f"{folder.path} lists no default state dicts")
    listed: dict[str, Any] = folder.json(folder.facts["default_state_dicts"])
    known = {**{name: ModelConfig(caption_model=name) for name in AVAILABLE}, **PUBLISHED}
    assert set(listed) <= set(known)
    for name, expected in listed.items():
        with torch.device("meta"):
            model = build(known[name])
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        # Layers in the middle may be left out of the list: they have the names and shapes of a listed one.
        found = {key: shape for key, shape in shapes.items() if key in expected["state_dict"]}
        assert list(found.items()) == list(expected["state_dict"].items())
        for key in set(shapes) - set(found):
            place = DEPTH.search(key)
            assert place, key
            twins = [f"{key[: place.start(1)]}{depth}{key[place.end(1) :]}" for depth in range(len(shapes))]
            assert shapes[key] in [shapes[twin] for twin in twins if twin in found], key
        assert sum(p.numel() for p in model.parameters()) == expected["num_parameters_unique"]
        assert sum(m.numel() for m in masks(model).values()) == expected["num_mask_params"]
