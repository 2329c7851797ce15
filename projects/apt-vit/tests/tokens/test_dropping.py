"""Batches that drop tokens: each picture's answer is that of the picture alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apt_vit.config import ResNetConfig
from apt_vit.model import VisionTransformer, initialise
from apt_vit.tokens import dropping, passes
from apt_vit.tokens.dropping import Dropped, Dropper
from apt_vit.tokens.rules import Rule
from prunelab import onednn
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

from ..recorded import load_model
from ..small import CONFIG, pictures, small_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LAYERS = CONFIG.clip_layers
RULES = [
    Rule(),
    Rule(threshold=0.35),
    Rule(keep_rate=0.7),
    Rule(keep_rate=0.01),
    Rule(method="cls-attention", keep_rate=0.6),
    Rule(method="plain"),
]


def describe(rule: Rule) -> str:
    return f"{rule.method}-{rule.keep_rate or rule.threshold}"


def check(
    found: Dropped, model: VisionTransformer, images: Tensor, rule: Rule, layers: Sequence[int] = LAYERS
) -> None:
    """Hold a batch against its pictures, one by one."""
    tokens = found.kept[0].shape[1] if found.kept else 0
    for number, image in enumerate(images.split(1)):
        alone = passes.dropped(model, image, layers, rule)
        torch.testing.assert_close(found.logits[number], alone.logits[0], **CLOSE)
        for place, kept in enumerate(alone.kept.values()):
            assert found.kept[place][number].nonzero()[:, 0].tolist() == kept.tolist()
        assert found.counts[number].tolist() == [len(kept) for kept in alone.kept.values()]
    assert all(kept.shape == (len(images), tokens) for kept in found.kept)


@pytest.mark.parametrize("rule", RULES, ids=describe)
@pytest.mark.parametrize("layout", ["auto", "packed", "padded"])
@pytest.mark.parametrize("last_cls_only", [True, False])
@torch.no_grad()
def test_a_batch_answers_as_its_pictures_alone(rule: Rule, layout: str, *, last_cls_only: bool) -> None:
    model, images = small_model(), pictures(5)
    found = Dropper(model, rule, layout=layout, last_cls_only=last_cls_only)(images)
    check(found, model, images, rule)
    if rule.prunes and rule.keep_rate is None:
        assert len({*found.counts[:, -1].tolist()}) > 1
    elif rule.prunes:
        assert len({*found.counts[:, -1].tolist()}) == 1


@torch.no_grad()
def test_agents_may_see_raw_tokens() -> None:
    model, images = small_model(normalise_agent_input=False), pictures(3)
    check(Dropper(model, Rule())(images), model, images, Rule())


@torch.no_grad()
def test_random_tokens_are_those_of_the_masked_pass() -> None:
    model, images, rule = small_model(), pictures(4), Rule(method="random", keep_rate=0.6)
    for seed in (None, 7):
        generators = [seed if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
        found = Dropper(model, rule)(images, generators[0])
        masked = passes.masked(model, images, LAYERS, rule, generators[1])
        torch.testing.assert_close(found.logits, masked.logits, **CLOSE)
        assert torch.equal(found.counts, masked.kept)
        for place, layer in enumerate(LAYERS):
            assert torch.equal(found.kept[place], masked.masks[layer] == 0)


@pytest.mark.parametrize("layers", [(3,), (5,), (0, 5), (1, 9), ()])
@pytest.mark.parametrize("rule", [Rule(), Rule(keep_rate=0.6)], ids=describe)
@torch.no_grad()
def test_any_blocks_may_prune(layers: tuple[int, ...], rule: Rule) -> None:
    model, images = small_model(clip_layers=(0, 1, 3, 5, 9)), pictures(3)
    found = Dropper(model, rule, layers)(images)
    assert found.counts.shape == (3, sum(layer < 6 for layer in layers))
    check(found, model, images, rule, layers)


@given(st.integers(0, 99), st.floats(0.2, 0.8), st.integers(1, 4), st.sampled_from(["packed", "padded"]))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_any_weights_and_thresholds(seed: int, threshold: float, batch: int, layout: str) -> None:
    model, images, rule = (
        small_model(seed).double(),
        pictures(batch, seed=seed).double(),
        Rule(threshold=threshold),
    )
    check(Dropper(model, rule, layout=layout)(images), model, images, rule)


@torch.no_grad()
def test_a_hybrid_drops_too() -> None:
    resnet = ResNetConfig(num_layers=(1, 1, 1), width_factor=0.5)
    model = small_model(patch_size=None, patch_grid=(4, 4), resnet=resnet, img_size=(64, 64))
    images = pictures(2, model.cfg)
    check(Dropper(model, Rule())(images), model, images, Rule())


@pytest.mark.skipif(not onednn.available(), reason="nothing goes to oneDNN here")
@torch.no_grad()
def test_linear_maps_by_onednn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LEAST", 1)
    monkeypatch.setattr(dropping, "PIECE", 1000)
    model, images = small_model(), pictures(4)
    check(Dropper(model, Rule())(images), model, images, Rule())
    by_torch = Dropper(model, Rule(), onednn=False)(images)
    torch.testing.assert_close(by_torch.logits, Dropper(model, Rule())(images).logits, **CLOSE)


@torch.no_grad()
def test_agents_are_folded_again_when_their_weights_change() -> None:
    model, images = small_model(), pictures(3)
    dropper = Dropper(model, Rule())
    before = dropper(images)
    folded = dropper._folded
    dropper(images)
    assert dropper._folded is folded
    initialise.fresh_agents(model.agents.values())
    after = dropper(images)
    assert not torch.equal(before.counts, after.counts)
    check(after, model, images, Rule())


def test_no_gradients_are_kept_and_inference_mode_may_be_around() -> None:
    model, images = small_model(), pictures(2)
    found = Dropper(model, Rule())(images)
    assert not found.logits.requires_grad
    with torch.inference_mode():
        made = small_model()
        torch.testing.assert_close(Dropper(made, Rule())(images).logits, found.logits, **CLOSE)


@torch.no_grad()
def test_mixed_precision_drops_what_agents_say_in_single_precision() -> None:
    model, images, rule = small_model(), pictures(3), Rule(keep_rate=0.7)
    plain = Dropper(model, rule)(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = Dropper(model, rule)(images)
    assert (found.logits.float() - plain.logits).abs().max() < 0.2
    assert torch.equal(found.counts, plain.counts)
    halves = Dropper(small_model().to(torch.bfloat16), rule)(images.bfloat16())
    assert halves.logits.dtype == torch.bfloat16
    assert (halves.logits.float() - plain.logits).abs().max() < 0.2


def test_what_cannot_be_dropped_is_said() -> None:
    model = small_model()
    with pytest.raises(UserError, match="layout is 'nested', expected one of auto, packed, padded"):
        Dropper(model, Rule(), layout="nested")
    with pytest.raises(ValueError, match=r"clip layers \[2\] have no agent"):
        Dropper(model, Rule(), [1, 2])
    assert Dropper(model, Rule(method="cls-attention", keep_rate=0.5), [2]).layers == [2]


@pytest.mark.parity
@of_kind("forward_small", "forward_other_layers")
def test_a_batch_gives_the_recorded_logits_and_tokens(folder: Folder) -> None:
    model, x = load_model(folder), folder.arrays("data.npz")["x"]
    assert model is not None, f"{folder.path} has no weights"
    close = {"atol": 1e-5, "rtol": 1e-4}  # the folders' READMEs say it
    cases = folder.json("expected.json")["infer"]
    assert cases
    for layout in ("packed", "padded"):
        for threshold in {case["threshold"] for case in cases}:
            found = Dropper(model, Rule(threshold=threshold), layout=layout)(x)
            for case in (case for case in cases if case["threshold"] == threshold):
                sample, kept = case["sample"], case["kept_original_index_after"].values()
                torch.testing.assert_close(found.logits[sample], torch.tensor(case["logits"]), **close)
                assert [each[sample].nonzero()[:, 0].tolist() for each in found.kept] == [*kept]
