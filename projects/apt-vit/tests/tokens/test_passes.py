"""The passes as the method defines them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule, likeliest

from ..small import CONFIG, pictures, small_model

RULES = [
    Rule(),
    Rule(threshold=0.35),
    Rule(keep_rate=0.7),
    Rule(method="random", keep_rate=0.6),
    Rule(method="cls-attention", keep_rate=0.6),
]
LAYERS = CONFIG.clip_layers


def describe(rule: Rule) -> str:
    return f"{rule.method}-{rule.keep_rate or rule.threshold}"


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return small_model()


def gradients(model: VisionTransformer, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the sizes of gradients of the backbone and of the agents."""
    model.zero_grad()
    loss.backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    sums = {part: torch.zeros(()) for part in ("backbone", "agents")}
    for name, grad in named.items():
        sums["agents" if ".clip_layer." in name else "backbone"] += grad.abs().sum()
    model.zero_grad()
    return sums["backbone"], sums["agents"]


@pytest.mark.parametrize("rule", RULES, ids=describe)
@pytest.mark.parametrize("normalise", [True, False])
@torch.no_grad()
def test_masked_and_dropping_passes_give_the_same_logits(rule: Rule, normalise: bool) -> None:
    model, images = small_model(normalise_agent_input=normalise), pictures(3)
    masked = passes.masked(model, images[:1], LAYERS, rule)
    assert masked.kept[0, -1] < 31
    dropped = passes.dropped(model, images[:1], LAYERS, rule)
    torch.testing.assert_close(dropped.logits, masked.logits, atol=1e-5, rtol=1e-4)
    assert [len(places) for places in dropped.kept.values()] == masked.kept[0].tolist()
    for layer in LAYERS:
        assert torch.equal(dropped.kept[layer], (masked.masks[layer][0] == 0).nonzero()[:, 0])
    expected = [31, 31, *masked.kept[0, [0, 0, 1, 2]].tolist()]
    assert dropped.lengths == expected


@pytest.mark.parametrize("rule", [Rule(), Rule(method="cls-attention", keep_rate=0.6)], ids=describe)
@torch.no_grad()
def test_each_picture_of_a_batch_is_pruned_by_itself(model: VisionTransformer, rule: Rule) -> None:
    images = pictures(4)
    together = passes.masked(model, images, LAYERS, rule)
    for place in range(4):
        alone = passes.dropped(model, images[place : place + 1], LAYERS, rule)
        torch.testing.assert_close(alone.logits[0], together.logits[place], atol=1e-5, rtol=1e-4)
    if rule.keep_rate is None:
        assert len(set(together.kept[:, -1].tolist())) > 1, "the test needs pictures that differ"


@torch.no_grad()
def test_what_is_pruned_again_gets_the_penalty_again(model: VisionTransformer) -> None:
    found = passes.masked(model, pictures(3), LAYERS, Rule())
    total = torch.zeros_like(found.masks[LAYERS[0]])
    for layer, said in found.agent_logits.items():
        action = said.softmax(-1)[..., 1] > 0.5
        action[:, 0] = False
        total = total - 10000.0 * action
        assert torch.equal(found.masks[layer], total)
    assert (total == -20000).any()
    assert found.kept[:, -1].tolist() == (total == 0).sum(1).tolist()


@torch.no_grad()
def test_a_keep_rate_penalises_a_token_once(model: VisionTransformer) -> None:
    found = passes.masked(model, pictures(3), LAYERS, Rule(keep_rate=0.5))
    assert set(found.masks[LAYERS[-1]].unique().tolist()) == {0.0, passes.PENALTY}
    assert found.kept.tolist() == [[16, 8, 4]] * 3


@torch.no_grad()
def test_nothing_is_pruned_without_layers_or_by_method_plain(model: VisionTransformer) -> None:
    images = pictures(2)
    plain = passes.plain(model, images)
    for layers, rule in (((), Rule()), (LAYERS, Rule(method="plain"))):
        masked = passes.masked(model, images, layers, rule)
        torch.testing.assert_close(masked.logits, plain, atol=1e-6, rtol=1e-5)
        assert masked.kept.shape == (2, 0)
        dropped = passes.dropped(model, images[:1], layers, rule)
        torch.testing.assert_close(dropped.logits, plain[:1], atol=1e-6, rtol=1e-5)
        assert dropped.lengths == [31] * 6


@torch.no_grad()
def test_a_clip_layer_behind_the_last_block_changes_no_logit() -> None:
    model, images = small_model(clip_layers=(2, 5)), pictures(2)
    one, both = (passes.masked(model, images, layers, Rule()) for layers in ((2,), (2, 5)))
    assert torch.equal(one.logits, both.logits)
    assert (both.kept[:, 1] < both.kept[:, 0]).all()


@torch.no_grad()
def test_layers_beyond_the_depth_never_come() -> None:
    model, images = small_model(clip_layers=(2, 5, 8)), pictures(1)
    assert list(model.agents) == [2, 5]
    assert len(model.transformer.encoder.clip_layer) == 3
    found = passes.masked(model, images, (2, 5, 8), Rule())
    assert list(found.masks) == [2, 5]
    assert list(passes.dropped(model, images, (2, 5, 8), Rule()).kept) == [2, 5]
    with pytest.raises(ValueError, match="clip layer 8"):
        passes.single(model, images, 8, likeliest)


def test_blocks_without_an_agent_cannot_be_asked(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match=r"clip layers \[2\] have no agent"):
        passes.masked(model, pictures(1), (1, 2), Rule())
    with pytest.raises(ValueError, match=r"clip layers \[2\] have no agent"):
        passes.dropped(model, pictures(1), (2,), Rule())
    found = passes.masked(model, pictures(1), (2,), Rule(method="cls-attention", keep_rate=0.5))
    assert found.kept.tolist() == [[16]]
    assert not found.agent_logits


def test_only_one_picture_can_drop_tokens_of_its_own(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="2 pictures, expected 1"):
        passes.dropped(model, pictures(2), LAYERS, Rule())


@torch.no_grad()
def test_a_generator_gives_other_random_tokens_in_each_pass(model: VisionTransformer) -> None:
    rule, generator = Rule(method="random", keep_rate=0.5), torch.Generator().manual_seed(0)
    passed = [passes.masked(model, pictures(2), LAYERS, rule, generator).masks for _ in range(2)]
    assert not torch.equal(passed[0][1], passed[1][1])
    again = passes.masked(model, pictures(2), LAYERS, rule, torch.Generator().manual_seed(0)).masks
    assert torch.equal(passed[0][1], again[1])


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_a_single_action_is_the_removal_of_one_token(model: VisionTransformer, layer: int) -> None:
    images, chosen = pictures(2), torch.tensor([4, 17])
    found = passes.single(model, images, layer, lambda _: chosen)
    assert torch.equal(found.tokens, chosen)
    for place, token in enumerate(chosen.tolist()):
        x = model.embed(images[place : place + 1])
        for number, block in enumerate(model.blocks):
            x = block(x)
            if number == layer:
                said = model.agents[layer](model.agent_input(x))[0, token]
                torch.testing.assert_close(found.clip_logits[place], said, atol=1e-5, rtol=1e-4)
                x = torch.cat((x[:, :token], x[:, token + 1 :]), dim=1)
        torch.testing.assert_close(found.logits[place], model.classify(x)[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_chooser_sees_prune_probabilities(model: VisionTransformer) -> None:
    seen: list[Tensor] = []

    def choose(probability: Tensor) -> Tensor:
        seen.append(probability)
        return likeliest(probability)

    found = passes.single(model, pictures(2), 3, choose)
    assert len(seen) == 1
    assert seen[0].shape == (2, 31)
    picked = seen[0][torch.arange(2), found.tokens]
    torch.testing.assert_close(found.clip_logits.softmax(-1)[:, 1], picked)


def test_many_actions_teach_the_backbone_and_single_ones_an_agent() -> None:
    model, images, labels = small_model(), pictures(2), torch.tensor([0, 3])
    backbone, agents = gradients(
        model, F.cross_entropy(passes.masked(model, images, LAYERS, Rule()).logits, labels)
    )
    assert backbone > 0
    assert agents == 0
    single = passes.single(model, images, 3, likeliest)
    backbone, agents = gradients(model, F.cross_entropy(single.clip_logits, torch.tensor([0, 1])))
    assert backbone == 0
    assert agents > 0


@torch.no_grad()
def test_attention_maps_are_shares_of_every_block(model: VisionTransformer) -> None:
    maps = passes.attention_maps(model, pictures(2))
    assert [tuple(each.shape) for each in maps] == [(2, 3, 31, 31)] * 6
    for each in maps:
        torch.testing.assert_close(each.sum(-1), torch.ones(2, 3, 31))


@torch.no_grad()
def test_normalised_agents_do_not_see_the_scale_of_tokens() -> None:
    model, x = small_model(), torch.randn(2, 31, 24)
    torch.testing.assert_close(model.agent_input(100 * x), model.agent_input(x), atol=1e-4, rtol=1e-4)
    raw = small_model(normalise_agent_input=False)
    assert torch.equal(raw.agent_input(x), x)


@torch.no_grad()
def test_half_precision_keeps_as_many_and_answers_nearly_the_same(model: VisionTransformer) -> None:
    rule, images = Rule(method="random", keep_rate=0.7), pictures(2)
    exact = passes.masked(model, images, LAYERS, rule)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = passes.masked(model, images, LAYERS, rule)
    assert found.kept.tolist() == exact.kept.tolist() == [[22, 15, 11]] * 2
    torch.testing.assert_close(found.logits.float(), exact.logits, atol=0.1, rtol=0.1)


@pytest.mark.gpu
@torch.no_grad()
def test_passes_on_a_gpu_keep_the_tokens_of_the_processor() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, images = small_model(), pictures(3)
    for rule in RULES:
        here = passes.masked(model.cpu(), images, LAYERS, rule)
        there = passes.masked(model.cuda(), images.cuda(), LAYERS, rule)
        assert there.kept.tolist() == here.kept.tolist()
        torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-4, rtol=1e-3)
        dropped = passes.dropped(model, images[:1].cuda(), LAYERS, rule)
        torch.testing.assert_close(dropped.logits.cpu(), here.logits[:1], atol=1e-4, rtol=1e-3)
