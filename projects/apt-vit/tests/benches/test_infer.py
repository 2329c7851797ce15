"""The rows of inference at a tiny size: all sides are run and compared, times are not judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from apt_vit.benches import infer as bench_infer
from apt_vit.benches.infer import Size, agents, compiled, dropping, near, on_gpu, problem
from apt_vit.benches.infer_reference import timm_transformer
from apt_vit.tokens import passes
from apt_vit.tokens.dropping import Dropper
from prunelab.bench import Figure, Row, Skip

from ..small import CONFIG, pictures, small_model

TINY = Size(model=replace(CONFIG, clip_layers=(1, 2, 4)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_infer, "CACHES", 8)


@torch.no_grad()
def test_timms_transformer_gives_our_logits() -> None:
    model, images = small_model(), pictures(3)
    dense = timm_transformer(model.cfg, model.state_dict())
    assert dense.blocks[0].attn.fused_attn
    torch.testing.assert_close(dense(images), passes.plain(model, images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("batch", "varied"), [(1, False), (3, True)])
def test_a_row_compares_dropped_and_dense_batches(batch: int, *, varied: bool) -> None:
    row, alone = dropping(batch, varied=varied, goal=1.5, size=TINY)
    assert isinstance(row, Row)
    assert isinstance(alone, Figure)
    sides = {side.name for side in row.extra}
    assert {"torch's maps", "torch's maps, whole last block"} <= sides
    assert ("padded" in sides) is varied
    assert [goal for goal, _ in row.goals()] == [">= 1.5x"]
    assert not alone.goals()
    assert "last block for the classification token alone" in row.note
    assert "with a whole last block" in alone.note


def test_lengths_differ_around_the_same_mean() -> None:
    fixed, varied = problem(TINY, 6), problem(TINY, 6, varied=True)
    assert fixed.counts.tolist() == [[22, 15, 11]] * 6
    assert fixed.kept == "22/15/11 tokens kept"
    assert varied.counts.double().mean(0).tolist() == [22, 15, 11]
    assert len({*varied.counts[:, 0].tolist()}) > 1
    assert "tokens kept on average" in varied.kept
    assert len({tuple(kept) for kept in Dropper(fixed.model, fixed.rule)(fixed.images).kept[0].tolist()}) > 1


def test_a_wrong_answer_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    assert near(torch.ones(2), torch.tensor([1.0, 1.000001]))
    assert not near(torch.ones(2), torch.tensor([1.0, 1.1]))
    right = problem(TINY, 2)
    wrong = replace(right, logits=right.logits + 1)
    monkeypatch.setattr(bench_infer, "problem", lambda *_, **__: wrong)
    with pytest.raises(AssertionError, match="the result of ours differs"):
        dropping(2, size=TINY)


def test_agents_are_timed_alone_and_as_a_share_of_a_pass() -> None:
    row, share = agents(2, size=TINY)
    assert isinstance(row, Row)
    assert isinstance(share, Figure)
    assert "3 agents on 31/22/15 tokens" in row.note
    assert [goal for goal, _ in share.goals()] == ["<= 0.5"]
    assert share.unit == "%"


def test_compiled_sides_are_compared_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(bench_infer, "CLOSE_BF16", 0.5)  # a tiny network's tokens each count for much
    row = compiled(problem(TINY, 2))
    assert "bfloat16" in row.note
    assert row.work == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_its_row_is_skipped() -> None:
    with pytest.raises(Skip, match="no CUDA device"):
        on_gpu()
