"""Evaluation: every picture counts once whatever the batches, and modes agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.config import ModelConfig, QuirkConfig
from apt_vit.evaluate import Evaluator, evaluate
from apt_vit.model import VisionTransformer, build
from apt_vit.model.initialise import fresh_agents
from apt_vit.tokens.macs import lengths_of, macs_of
from apt_vit.tokens.rules import Rule
from prunelab.errors import UserError

CFG = ModelConfig(
    patch_size=(4, 4),
    hidden_size=16,
    mlp_dim=32,
    num_heads=2,
    num_layers=5,
    img_size=(16, 16),
    num_classes=3,
    clip_layers=(1, 3),
)
SIZES = [1, 4, 5, 11, 20]
RULES = {
    "threshold": Rule(threshold=0.45),
    "keep rate": Rule(keep_rate=0.7),
    "random": Rule(method="random", keep_rate=0.6),
    "cls-attention": Rule(method="cls-attention", keep_rate=0.6),
}


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.manual_seed(0)
    model = build(CFG)
    torch.nn.init.normal_(model.transformer.embeddings.position_embeddings)
    for agent in model.agents.values():
        torch.nn.init.normal_(agent.fc.weight)
    return model.eval()


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(11, 3, 16, 16, generator=generator), torch.arange(11) % 3


def batches(pictures: tuple[Tensor, Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    x, y = pictures
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_a_short_last_batch_counts_as_its_pictures(
    size: int, model: VisionTransformer, pictures: tuple[Tensor, Tensor]
) -> None:
    x, y = pictures
    with torch.no_grad():
        logits = model(x)
    found = evaluate(model, batches(pictures, size))
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)
    assert found.accuracy == float((logits.argmax(1) == y).sum()) / 11
    assert found.pictures == 11
    assert found.constant == 4 / 11
    assert found.tokens == ()
    assert found.macs == macs_of(CFG, lengths_of(CFG), "none")


def test_the_original_takes_the_mean_of_batches(
    model: VisionTransformer, pictures: tuple[Tensor, Tensor]
) -> None:
    parts = batches(pictures, 4)
    with torch.no_grad():
        means = [float(F.cross_entropy(model(x), y)) for x, y in parts]
    theirs = evaluate(model, parts, quirks=QuirkConfig.of("faithful"))
    assert theirs.loss == pytest.approx(sum(means) / len(means), rel=1e-6)
    assert theirs.loss != pytest.approx(evaluate(model, parts).loss, rel=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_dropped_tokens_change_nothing_but_the_work(
    name: str, model: VisionTransformer, pictures: tuple[Tensor, Tensor]
) -> None:
    # Scores of method random go by places in the batch, so both modes get the same batches.
    masked, dropped = (
        evaluate(model, batches(pictures, 4), RULES[name], mode) for mode in ("masked", "dropped")
    )
    assert dropped.accuracy == masked.accuracy
    assert dropped.loss == pytest.approx(masked.loss, abs=1e-5)
    assert dropped.tokens == masked.tokens
    assert dropped.macs == masked.macs
    assert 1 <= dropped.tokens[1] < dropped.tokens[0] < 17
    assert dropped.macs < evaluate(model, batches(pictures, 4)).macs


def test_agents_that_are_asked_count_and_others_do_not(
    model: VisionTransformer, pictures: tuple[Tensor, Tensor]
) -> None:
    lengths = lengths_of(CFG, {1: 12, 3: 8})
    agents = evaluate(model, batches(pictures, 4), RULES["keep rate"], "dropped")
    assert agents.tokens == (12.0, 8.0)
    assert agents.macs == macs_of(CFG, lengths, "folded")
    chance = evaluate(model, batches(pictures, 4), Rule(method="random", keep_rate=0.7), "dropped")
    assert chance.macs == macs_of(CFG, lengths, "none")


def test_fresh_agents_keep_every_token(pictures: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(3)
    fresh = build(CFG).eval()
    fresh_agents(fresh.agents.values())
    found = evaluate(fresh, batches(pictures, 4), Rule(), "dropped")
    assert found.tokens == (17.0, 17.0)
    assert found.accuracy == evaluate(fresh, batches(pictures, 4)).accuracy


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("mode", ["plain", "masked", "dropped"])
def test_logits_are_single_precision_and_without_gradients(
    amp: str, mode: str, model: VisionTransformer, pictures: tuple[Tensor, Tensor]
) -> None:
    evaluator = Evaluator(model, RULES["keep rate"], mode, amp=amp, channels_last=True)
    (answer,) = evaluator.answers(batches(pictures, 11))
    assert answer.logits.dtype == torch.float32
    assert not answer.logits.requires_grad
    expected = next(iter(Evaluator(model, RULES["keep rate"], mode).answers(batches(pictures, 11))))
    torch.testing.assert_close(answer.logits, expected.logits, atol=0.1 if amp == "bf16" else 1e-5, rtol=0)


def test_what_cannot_be_evaluated_is_told(model: VisionTransformer, pictures: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="mode is dropped, expected plain where there is no rule"):
        evaluate(model, batches(pictures, 4), mode="dropped")
    with pytest.raises(UserError, match="mode is 'gone', expected"):
        evaluate(model, batches(pictures, 4), Rule(), "gone")
    with pytest.raises(UserError, match="there are no pictures to evaluate on"):
        evaluate(model, [])
