"""Passes in every way against recorded numbers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.config import Config, PruneConfig, QuirkConfig
from apt_vit.infer import shapes_of
from apt_vit.learning.actions import choose
from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule
from testing.parity import Folder, of_kind

from .recorded import load_model

CLOSE = {"atol": 1e-5, "rtol": 1e-4}  # the folders' READMEs say it


def model_of(folder: Folder) -> VisionTransformer:
    model = load_model(folder)
    assert model is not None, f"{folder.path} has no weights"
    return model


def loss_of(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits, labels).item()


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_tokens_behind_embeddings_and_blocks_are_the_recorded_ones(folder: Folder) -> None:
    model, arrays = model_of(folder), folder.arrays("data.npz")
    x = model.embed(arrays["x"])
    torch.testing.assert_close(x, arrays["emb"], **CLOSE)
    for number, block in enumerate(model.blocks):
        x = block(x)
        if number in folder.facts["saved_blocks"]:
            torch.testing.assert_close(x, arrays[f"s0_block{number}_out"], **CLOSE)
    torch.testing.assert_close(model.classify(x), arrays["s0_logits"], **CLOSE)


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_plain_pass_gives_the_recorded_logits_loss_and_attention(folder: Folder) -> None:
    model, arrays = model_of(folder), folder.arrays("data.npz")
    logits = passes.plain(model, arrays["x"])
    torch.testing.assert_close(logits, arrays["s0_logits"], **CLOSE)
    assert loss_of(logits, arrays["y"]) == pytest.approx(folder.json("expected.json")["s0_loss"], 1e-4, 1e-5)
    maps = passes.attention_maps(model, arrays["x"])
    assert len(maps) == len(model.blocks)
    for name, place in {"s0_attn_block0": 0, "s0_attn_last": -1}.items():
        if name in arrays:
            torch.testing.assert_close(maps[place], arrays[name], **CLOSE)


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_masked_passes_give_the_recorded_decisions_and_logits(folder: Folder) -> None:
    model, arrays, expected = model_of(folder), folder.arrays("data.npz"), folder.json("expected.json")
    layers = folder.facts["clip_layer_id"]
    for threshold in folder.facts["thresholds"]:
        found = passes.masked(model, arrays["x"], layers, Rule(threshold=threshold))
        name = f"s1_t{threshold}"
        torch.testing.assert_close(found.logits, arrays[f"{name}_logits"], **CLOSE)
        assert loss_of(found.logits, arrays["y"]) == pytest.approx(expected[f"{name}_loss"], 1e-4, 1e-5)
        for place, layer in enumerate(layers):
            said = arrays[f"{name}_agent{layer}_logits"]
            torch.testing.assert_close(found.agent_logits[layer], said, **CLOSE)
            assert torch.equal(found.masks[layer], arrays[f"{name}_mask_row_after{layer}"])
            kept = expected[f"{name}_kept_union_after"][str(layer)]
            assert found.kept[:, place].tolist() == kept
        last = arrays[f"{name}_clip_logit_returned"]
        torch.testing.assert_close(found.agent_logits[layers[-1]], last, **CLOSE)
        final = torch.zeros_like(arrays[f"{name}_final_mask_row"])
        for layer in layers:  # the last block's own pruning comes behind it
            final = found.masks[layer] if layer < len(model.blocks) - 1 else final
        assert torch.equal(final, arrays[f"{name}_final_mask_row"])


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_masked_pass_with_some_of_the_layers_gives_the_recorded_logits(folder: Folder) -> None:
    model, arrays, expected = model_of(folder), folder.arrays("data.npz"), folder.json("expected.json")
    rule = Rule(threshold=folder.facts["subset_threshold"])
    found = passes.masked(model, arrays["x"], folder.facts["subset"], rule)
    assert list(found.masks) == expected["s1_subset"]
    torch.testing.assert_close(found.logits, arrays["s1_subset_logits"], **CLOSE)
    assert loss_of(found.logits, arrays["y"]) == pytest.approx(expected["s1_subset_loss"], 1e-4, 1e-5)


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_dropping_passes_keep_the_recorded_tokens(folder: Folder) -> None:
    model, arrays = model_of(folder), folder.arrays("data.npz")
    cases = folder.json("expected.json")["infer"]
    assert cases
    for case in cases:
        sample = slice(case["sample"], case["sample"] + 1)
        rule = Rule(threshold=case["threshold"])
        found = passes.dropped(model, arrays["x"][sample], folder.facts["clip_layer_id"], rule)
        torch.testing.assert_close(found.logits[0], torch.tensor(case["logits"]), **CLOSE)
        assert loss_of(found.logits, arrays["y"][sample]) == pytest.approx(case["loss"], 1e-4, 1e-5)
        assert found.logits.argmax().item() == case["argmax"]
        assert found.lengths == case["tokens_into_each_block"]
        kept = {str(layer): places.tolist() for layer, places in found.kept.items()}
        assert kept == case["kept_original_index_after"]
        counts = {layer: len(places) for layer, places in found.kept.items()}
        assert shapes_of(found.lengths[0], counts, model.cfg.hidden_size) + "\n" == case["printed"]


def check_single_actions(folder: Folder, model: VisionTransformer, clip: dict[str, float]) -> None:
    """Run the recorded passes with one action, each seed's in one row of Python's random numbers."""
    arrays = folder.arrays("data.npz")
    cases: list[dict[str, Any]] = folder.json("expected.json")["stream2"]
    assert {case["py_seed"] for case in cases} == set(folder.facts["py_seeds"])
    cfg = Config(prune=PruneConfig(greedy_share=0.5), quirks=QuirkConfig.of("faithful"))
    sources = {seed: random.Random(seed) for seed in folder.facts["py_seeds"]}
    for case in cases:
        source = sources[case["py_seed"]]
        found = passes.single(model, arrays["x"], case["layer"], lambda p, s=source: choose(p, cfg, s))
        assert found.tokens.tolist() == case["action_token_index"]
        torch.testing.assert_close(found.logits, torch.tensor(case["logits"]), **CLOSE)
        assert loss_of(found.logits, arrays["y"]) == pytest.approx(case["loss"], 1e-4, 1e-5)
        torch.testing.assert_close(found.clip_logits, torch.tensor(case["clip_logit"]), **clip)


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
@torch.no_grad()
def test_single_actions_are_the_recorded_ones(folder: Folder) -> None:
    check_single_actions(folder, model_of(folder), CLOSE)


@pytest.mark.parity
@of_kind("greedy_ties")
@torch.no_grad()
def test_single_actions_of_saturated_agents_are_the_recorded_ones(folder: Folder) -> None:
    check_single_actions(folder, model_of(folder), {"atol": 1e-4, "rtol": 1e-4})
