"""The network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import apt_vit
from apt_vit.config import ModelConfig
from apt_vit.model import Agent, build
from prunelab.errors import UserError

from ..small import CONFIG, pictures, small_model


@torch.no_grad()
def test_an_agent_weighs_a_token_and_its_product_with_the_classification_token() -> None:
    torch.manual_seed(0)
    agent, x = Agent(6), torch.randn(2, 4, 6)
    found = agent(x)
    for b in range(2):
        query = agent.query(x[b, 0])
        for t in range(4):
            parts = torch.cat((agent.value(x[b, t]), query * agent.key(x[b, t])))
            torch.testing.assert_close(found[b, t], agent.fc(parts))
    probability = Agent.prune_probability(found)
    torch.testing.assert_close(probability, 1 / (1 + (found[..., 0] - found[..., 1]).exp()))


def test_a_probability_is_float32_whatever_the_logits_are() -> None:
    assert Agent.prune_probability(torch.zeros(1, 3, 2, dtype=torch.bfloat16)).dtype is torch.float32


@torch.no_grad()
def test_pictures_become_patches_row_by_row() -> None:
    model = small_model(img_size=(8, 12))
    images = pictures(2, model.cfg)
    tokens = model.embed(images)
    embeddings = model.transformer.embeddings
    assert tokens.shape == (2, 7, 24)
    assert model.grid == (2, 3)
    torch.testing.assert_close(
        tokens[:, 0] - embeddings.position_embeddings[:, 0], embeddings.cls_token[:, 0].expand(2, -1)
    )
    patch = images[:, :, 4:8, 0:4]  # second row, first column
    expected = torch.einsum("bchw,dchw->bd", patch, embeddings.patch_embeddings.weight)
    expected = expected + embeddings.patch_embeddings.bias + embeddings.position_embeddings[0, 4]
    torch.testing.assert_close(tokens[:, 4], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_pixels_beside_whole_patches_are_not_used() -> None:
    model = small_model(img_size=(10, 11))
    images = pictures(1, model.cfg)
    other = images.clone()
    other[:, :, 8:] = 7
    other[:, :, :, 8:] = 7
    assert torch.equal(model(images), model(other))


@torch.no_grad()
def test_a_block_is_attention_and_an_mlp_beside_shortcuts() -> None:
    model, x = small_model(), torch.randn(2, 31, 24)
    block = model.blocks[0]
    middle = x + block.attn(
        F.layer_norm(x, (24,), block.attention_norm.weight, block.attention_norm.bias, 1e-6)
    )
    inner = F.layer_norm(middle, (24,), block.ffn_norm.weight, block.ffn_norm.bias, 1e-6)
    hidden = block.ffn.fc1(inner)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(block(x), middle + block.ffn.fc2(hidden))


@torch.no_grad()
def test_attention_of_the_classification_token_is_the_mean_of_its_heads() -> None:
    model, x = small_model(), torch.randn(2, 31, 24)
    block = model.blocks[2]
    seen = torch.rand(2, 1, 1, 31) < 0.6
    seen[..., 0] = True
    expected = block.attn.probabilities(block.attention_norm(x), seen).mean(1)[:, 0]
    torch.testing.assert_close(block.cls_attention(x, seen), expected)


def test_dropout_is_in_embeddings_and_mlps_in_training_alone() -> None:
    model, images = small_model(dropout_rate=0.3), pictures(2)
    assert torch.equal(model(images), model(images))
    model.train()
    tokens = model.embed(images)
    assert 0.2 < (tokens == 0).float().mean() < 0.4
    assert not torch.equal(model.blocks[0].ffn(tokens), model.blocks[0].ffn(tokens))


def test_weights_that_are_loaded_next_need_not_be_drawn() -> None:
    state = torch.random.get_rng_state()
    model = build(CONFIG, fresh=False)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    model.load_original(small_model().state_dict())
    assert torch.equal(model.eval()(pictures(1)), small_model()(pictures(1)))


def test_weights_of_another_network_are_refused_by_name() -> None:
    state = small_model().state_dict()
    state["head.weight"] = torch.zeros(3, 24)
    del state["transformer.encoder.clip_layer.2.fc.bias"]
    with pytest.raises(UserError) as found:
        build(CONFIG, fresh=False).load_original(state, where="other.bin")
    words = str(found.value)
    assert "other.bin" in words
    assert "clip_layer.2.fc.bias" in words
    assert "head.weight 3x24 in the file and 5x24 in the model" in words


def test_the_smallest_named_network_has_an_agent_for_each_clip_layer() -> None:
    with torch.device("meta"):
        one, three = (
            build(
                replace(ModelConfig(hidden_size=1, mlp_dim=1, num_heads=1, num_layers=1), clip_layers=layers)
            )
            for layers in ((0,), (2, 5, 8))
        )
    assert len(one.agents) == 1
    assert len(three.agents) == 0
    assert sum(p.numel() for p in three.parameters()) - sum(p.numel() for p in one.parameters()) == 24


def test_a_network_by_name_prunes_nothing_at_first() -> None:
    model = apt_vit.build("tiny", num_classes=4).eval()
    assert model.cfg.num_classes == 4
    images = pictures(2, model.cfg)
    with torch.no_grad():
        x = model.embed(images)
        for number, block in enumerate(model.blocks):
            x = block(x)
            if number in model.agents:
                said = model.agents[number](model.agent_input(x))
                assert (Agent.prune_probability(said) < 0.5).all()
