"""Multiply-adds by the number of tokens: the method's published figures, and what really runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from apt_vit.config import ModelConfig, ResNetConfig
from apt_vit.model import build
from apt_vit.tokens import passes
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.macs import agent_macs, block_macs, lengths_of, macs_of, mean_macs, patches_of, stem_macs
from apt_vit.tokens.rules import Rule
from prunelab.errors import UserError
from prunelab.flops import count

from ..small import CONFIG, pictures, small_model

BASE = ModelConfig(num_classes=100)
LAYERS = BASE.clip_layers
HYBRID = replace(
    BASE,
    model_type="R50-ViT-B_16",
    patch_size=None,
    patch_grid=(14, 14),
    resnet=ResNetConfig(),
    root_pool_same=False,
)


def lengths(kept: Sequence[int]) -> tuple[int, ...]:
    return lengths_of(BASE, dict(zip(LAYERS, kept, strict=True)))


def test_a_block_and_an_agent_by_hand() -> None:
    cfg = replace(BASE, hidden_size=2, mlp_dim=5, num_heads=1)
    # 3 tokens: four maps of 2 x 2, two of 2 x 5, scores and sums of 3 x 3 x 2
    assert block_macs(cfg, 3) == 3 * (4 * 4 + 2 * 10) + 2 * 9 * 2
    # keys and values of all, all else of one
    assert block_macs(cfg, 3, queries=1) == 3 * 2 * 4 + (2 * 4 + 2 * 10) + 2 * 3 * 2
    assert agent_macs(2, 3, "plain") == 4 + 3 * (2 * 4) + 3 * (4 * 2)
    assert agent_macs(2, 3, "folded") == 4 + 2 + 3 * 2
    assert agent_macs(2, 3, "none") == 0


def test_a_dense_network_has_the_published_number() -> None:
    dense = macs_of(BASE, lengths_of(BASE), "none")
    assert dense == 17_563_137_024
    assert block_macs(BASE, 197) == 12 * 197 * 768**2 + 2 * 197**2 * 768


@pytest.mark.parametrize(
    ("kept", "backbone", "agents", "share", "with_agents"),
    [
        ((197, 197, 197), 17.563, 0.701, 100.0, 104.0),
        ((187, 178, 169), 16.255, 0.666, 92.6, 96.3),
        ((177, 160, 144), 15.049, 0.633, 85.7, 89.3),
        ((158, 126, 101), 12.888, 0.571, 73.4, 76.6),
        ((138, 97, 68), 11.064, 0.513, 63.0, 65.9),
        ((99, 50, 25), 8.232, 0.411, 46.9, 49.2),
    ],
)
def test_the_published_table(
    kept: tuple[int, ...], backbone: float, agents: float, share: float, with_agents: float
) -> None:
    dense = macs_of(BASE, lengths_of(BASE), "none")
    alone, both = (macs_of(BASE, lengths(kept), form) for form in ("none", "plain"))
    assert alone / 1e9 == pytest.approx(backbone, abs=5e-4)
    assert (both - alone) / 1e9 == pytest.approx(agents, abs=5e-4)
    assert 100 * alone / dense == pytest.approx(share, abs=0.051)
    assert 100 * both / dense == pytest.approx(with_agents, abs=0.051)


@pytest.mark.parametrize(
    ("kept", "share"),
    [
        ((196, 188, 186), 101.2),
        ((183, 166, 166), 93.8),
        ((193, 191, 186), 101.2),
        ((191, 164, 123), 89.1),
        ((193, 187, 160), 97.2),
        ((193, 187, 182), 100.1),
        ((197, 167, 162), 95.3),
        ((189, 179, 157), 95.2),
        ((197, 174, 156), 95.5),
    ],
)
def test_shares_of_the_originals_sample_outputs(kept: tuple[int, ...], share: float) -> None:
    dense = macs_of(BASE, lengths_of(BASE), "none")
    assert 100 * macs_of(BASE, lengths(kept)) / dense == pytest.approx(share, abs=0.051)


def test_a_hybrid_counts_its_stem() -> None:
    assert stem_macs(HYBRID) / 1e9 == pytest.approx(3.906, abs=5e-4)
    assert macs_of(HYBRID, lengths_of(HYBRID), "none") / 1e9 == pytest.approx(21.507, abs=5e-4)


@pytest.mark.parametrize("pool_same", [True, False])
@pytest.mark.parametrize("pixels", [64, 66])
def test_a_hybrids_stem_is_what_runs(pixels: int, *, pool_same: bool) -> None:
    resnet = ResNetConfig(num_layers=(1, 2, 1), width_factor=0.5)
    cfg = replace(
        CONFIG,
        patch_size=None,
        patch_grid=(4, 4),
        resnet=resnet,
        img_size=(64, pixels),
        root_pool_same=pool_same,
    )
    model = build(cfg).eval()
    assert count(model, torch.zeros(1, 3, *cfg.img_size)).macs == macs_of(cfg, lengths_of(cfg), "none")


def test_tokens_into_each_block() -> None:
    assert patches_of(CONFIG) == 30
    assert lengths_of(CONFIG) == (31,) * 6
    assert lengths_of(CONFIG, {1: 20, 4: 7}) == (31, 31, 20, 20, 20, 7)
    # pixels beyond the last full patch are not used
    assert patches_of(replace(CONFIG, img_size=(23, 27))) == 30


@pytest.mark.parametrize("keep_rate", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("last_cls_only", [True, False])
@pytest.mark.parametrize("clip_layers", [(1, 3, 4), (0, 5)])
def test_folded_batches_run_what_is_counted(
    keep_rate: float, clip_layers: tuple[int, ...], *, last_cls_only: bool
) -> None:
    model, images = small_model(clip_layers=clip_layers), pictures(2)
    dropper = Dropper(model, Rule(keep_rate=keep_rate), onednn=False, last_cls_only=last_cls_only)
    dropper.fold()
    ran = count(model, run=lambda: dropper.forward(images)).macs
    counts = dropper(images).counts
    whole = last_cls_only and 5 not in clip_layers  # where the last block prunes, agents want all its tokens
    told = mean_macs(model.cfg, counts, clip_layers, "folded", last_cls_only=whole)
    assert ran == 2 * told


def test_plain_agents_run_what_is_counted() -> None:
    model, image = small_model(), pictures(1)
    lengths = passes.dropped(model, image, CONFIG.clip_layers, Rule()).lengths
    ran = count(model, run=lambda: passes.dropped(model, image, CONFIG.clip_layers, Rule())).macs
    assert ran == macs_of(CONFIG, lengths)
    fewer = count(model, run=lambda: passes.dropped(model, image, [3], Rule())).macs
    lengths = passes.dropped(model, image, [3], Rule()).lengths
    assert fewer == macs_of(CONFIG, lengths, layers=[3])


def test_the_mean_is_that_of_pictures_not_of_lengths() -> None:
    counts = torch.tensor([[10, 5, 2], [30, 25, 20]])
    each = [
        macs_of(CONFIG, lengths_of(CONFIG, dict(zip((1, 3, 4), row, strict=True)))) for row in counts.tolist()
    ]
    assert mean_macs(CONFIG, counts, (1, 3, 4)) == sum(each) / 2


def test_agents_beyond_the_depth_never_run() -> None:
    cfg = replace(BASE, num_layers=6)
    one = macs_of(cfg, lengths_of(cfg)) - macs_of(cfg, lengths_of(cfg), "none")
    assert one == 2 * agent_macs(768, 197, "plain")


def test_what_cannot_be_counted_is_one_line() -> None:
    with pytest.raises(UserError, match=r"agents is 'fold', expected one of plain, folded, none"):
        macs_of(BASE, lengths_of(BASE), "fold")
    with pytest.raises(UserError, match=r"3 lengths, expected one for each of 12 blocks"):
        macs_of(BASE, (197, 197, 197))
