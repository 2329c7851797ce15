"""Multiply-adds against the recorded ones, exactly."""

from __future__ import annotations

import pytest
import torch

from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.macs import embedding_macs, lengths_of, macs_of, stem_macs
from apt_vit.tokens.rules import Rule
from prunelab.flops import count
from testing.parity import Folder, of_kind

from .recorded import load_model, model_config


def model_of(folder: Folder) -> VisionTransformer:
    model = load_model(folder)
    assert model is not None, f"{folder.path} has no weights"
    return model


@pytest.mark.parity
@of_kind("flops")
def test_formulas_give_the_recorded_numbers(folder: Folder) -> None:
    cfg = model_config(folder.facts)
    for case in folder.json("expected.json"):
        lengths = case["tokens_into_each_block"]
        backbone = macs_of(cfg, lengths, "none")
        whole = macs_of(cfg, lengths, "plain" if case["mode"] == "pruned" else "none")
        assert backbone == case["backbone_macs"]
        assert whole - backbone == case["agent_macs"]
        assert 2 * whole == case["flops_counted"]


@pytest.mark.parity
@of_kind("flops")
@torch.no_grad()
def test_passes_run_the_recorded_numbers(folder: Folder) -> None:
    model, x = model_of(folder), folder.arrays("data.npz")["x"]
    layers, rule = folder.facts["clip_layer_id"], Rule(threshold=folder.facts["threshold"])
    for case in folder.json("expected.json"):
        image = x[case["sample"] : case["sample"] + 1]
        if case["mode"] == "plain":
            ran = count(model, image).macs
            lengths = list(lengths_of(model.cfg))
        else:
            lengths = passes.dropped(model, image, layers, rule).lengths
            ran = count(model, run=lambda image=image: passes.dropped(model, image, layers, rule)).macs
        assert lengths == case["tokens_into_each_block"]
        assert 2 * ran == case["flops_counted"]


@pytest.mark.parity
@of_kind("npz_convert_hybrid")
def test_a_hybrid_counts_the_recorded_number(folder: Folder) -> None:
    cfg, expected = model_config(folder.facts), folder.json("expected.json")
    if "macs_stream0" not in expected:
        pytest.skip(f"{folder.path} tells no macs_stream0")
    recorded = expected["macs_stream0"]
    assert stem_macs(cfg) == recorded["stem"]
    assert embedding_macs(cfg) - stem_macs(cfg) == recorded["patch_embedding"]
    assert macs_of(cfg, lengths_of(cfg), "none") == recorded["backbone"]
    assert 2 * recorded["backbone"] == recorded["flops_counted"]
