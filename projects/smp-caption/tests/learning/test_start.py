"""What a new run begins with: dense weights, masks of a finished run, the first weights of a lottery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.hub import save_model_folder
from prunelab.mask import MASK_SUFFIX, MaskSpec, masks
from smp_caption.captioner import KIND
from smp_caption.config import PRUNE_TYPES, Config, PruneConfig, RunConfig
from smp_caption.files.original import BEST, INIT, LAST, write_state
from smp_caption.learning.start import load_start
from smp_caption.model import Network, build
from smp_caption.pruner import KEPT, ONCE, make_pruner, mask_spec

from ..toy import TOY

MODEL = replace(TOY, caption_model="up_down_lstm_prune")
TRANSFORMER = replace(
    TOY,
    caption_model="relation_transformer_prune",
    d_model=8,
    dim_feedforward=12,
    num_layers=2,
    num_heads=2,
    share_layer_encoder=(0, 0),
)
LOTTERY = [name for name in PRUNE_TYPES if name.startswith("lottery_")]


def fresh(cfg: Config, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build(cfg.model, mask_spec(cfg.model, cfg.prune))


def config(prune_type: str | None, start: Path | None = None, model: Any = MODEL, **run: Any) -> Config:
    if prune_type is None:
        model = replace(model, caption_model=model.caption_model.removesuffix("_prune"))
    prune = PruneConfig(prune_type=prune_type, prune_sparsity_target=0.5)
    return Config(model=model, prune=prune, run=RunConfig(start_from=str(start or ""), **run))


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(MASK_SUFFIX)}


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("prune_type", [None, "supermask", "mag_grad_blind", "mag_dist", "snip"])
def test_dense_weights_start_a_run_of_any_method_with_its_masks_untouched(
    prune_type: str | None, tmp_path: Path
) -> None:
    dense = fresh(config(None), 1).state_dict()
    write_state(tmp_path / BEST, dense)
    write_state(tmp_path / LAST, {name: -value for name, value in dense.items()})
    for place, last, sign in ((tmp_path, False, 1), (tmp_path, True, -1), (tmp_path / LAST, False, -1)):
        cfg = config(prune_type, place, resume_training=last)
        model = fresh(cfg)
        before = {name: mask.clone() for name, mask in masks(model).items()}
        assert load_start(model, cfg) == [f"weights of {tmp_path / (BEST if sign > 0 else LAST)}"]
        assert_equal(weights(model.state_dict()), {name: sign * value for name, value in dense.items()})
        assert_equal(masks(model), before)


@pytest.mark.parametrize("model", [MODEL, TRANSFORMER], ids=["up_down", "shared_layers"])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("prune_type", LOTTERY)
def test_a_lottery_starts_from_a_run_of_ours_or_of_the_original(
    prune_type: str, ours: bool, model: Any, tmp_path: Path
) -> None:
    gradual = config("mag_grad_uniform", model=model)
    first, trained = fresh(gradual, 1), fresh(gradual, 2)
    with torch.no_grad():
        for mask in masks(trained).values():
            mask.copy_(torch.rand_like(mask).round())
    if ours:
        for name, network in (("best", trained), ("init", first)):
            save_model_folder(tmp_path / name, {}, network.state_dict(), kind=KIND, card="")
    else:
        write_state(tmp_path / BEST, trained.state_dict())
        write_state(tmp_path / INIT, weights(first.state_dict()))
    cfg = config(prune_type, tmp_path, model=model)
    network = fresh(cfg)
    pruner = make_pruner(network, cfg, 10)
    assert pruner is not None
    assert load_start(network, cfg) == [f"weights of {tmp_path / ('best' if ours else BEST)}"]
    assert_equal(network.state_dict(), trained.state_dict())
    said = pruner.prepare([], lambda batch: batch)
    assert f"weights back to those of {tmp_path / ('init' if ours else INIT)}" in said
    assert_equal(weights(network.state_dict()), weights(first.state_dict()))
    if prune_type in KEPT:
        assert_equal(masks(network), masks(trained))
    else:
        assert pruner.sparsity() == pytest.approx(0.5, abs=0.02)


def test_kept_masks_come_from_the_checkpoint_and_logits_are_rounded(tmp_path: Path) -> None:
    cfg = config("mask_freeze", tmp_path / "m.pth")
    logits = build(MODEL, MaskSpec(kind="supermask"))
    with torch.no_grad():
        for mask in masks(logits).values():
            mask.normal_()
    state = logits.state_dict()
    write_state(tmp_path / "m.pth", state)
    model = fresh(cfg)
    assert load_start(model, cfg)[1:] == [
        f"{tmp_path / 'm.pth'}: its masks are logits of supermasks, rounded to 0 and 1 now"
    ]
    rounded = {name: (mask > 0).float() for name, mask in masks(logits).items()}
    assert_equal(masks(model), rounded)
    write_state(tmp_path / "m.pth", {**state, **rounded})
    model = fresh(cfg)
    assert load_start(model, cfg) == [f"weights of {tmp_path / 'm.pth'}"]
    assert_equal(masks(model), rounded)
    supermask = config("supermask", tmp_path / "m.pth")
    said = load_start(fresh(supermask), supermask)
    assert said[1] == f"warning: {tmp_path / 'm.pth'}: its masks of 0 and 1 are taken as logits of supermasks"


@pytest.mark.parametrize("prune_type", KEPT)
def test_a_checkpoint_without_the_masks_that_shall_be_kept_is_refused(
    prune_type: str, tmp_path: Path
) -> None:
    for name in (BEST, INIT):
        write_state(tmp_path / name, fresh(config(None)).state_dict())
    cfg = config(prune_type, tmp_path)
    with pytest.raises(UserError, match=rf"{BEST}: holds no masks, which prune_type {prune_type} keeps"):
        load_start(fresh(cfg), cfg)


def test_names_in_which_a_start_differs_are_noted(tmp_path: Path) -> None:
    cfg = config("mag_uniform", tmp_path / BEST)
    network, noted = fresh(cfg), []
    write_state(tmp_path / BEST, weights(network.state_dict()))
    load_start(network, cfg, log=noted.append)
    assert noted == [str(tmp_path / BEST), f"missing keys: {list(masks(network))}", "unexpected keys: []"]


@pytest.mark.parametrize("prune_type", LOTTERY)
def test_a_lottery_without_first_weights_is_refused_before_anything_is_pruned(
    prune_type: str, tmp_path: Path
) -> None:
    file = tmp_path / BEST
    write_state(file, fresh(config("mag_uniform")).state_dict())
    for start in (tmp_path, file):
        cfg = config(prune_type, start)
        with pytest.raises(UserError, match=rf"start_from {start} is no folder of a run with init or {INIT}"):
            load_start(fresh(cfg), cfg)


@pytest.mark.parametrize("prune_type", [None, *PRUNE_TYPES])
def test_a_run_from_nothing_is_refused_warned_of_or_fine(prune_type: str | None) -> None:
    cfg = config(prune_type)
    model = fresh(cfg)
    if prune_type in KEPT or prune_type in LOTTERY:
        with pytest.raises(UserError, match=f"prune_type {prune_type} needs start_from"):
            load_start(model, cfg)
    else:
        warning = f"warning: prune_type {prune_type} prunes fresh weights: expected start_from"
        found = load_start(model, cfg)
        assert [line.partition(", a trained")[0] for line in found] == [warning] * (prune_type in ONCE)


def test_masks_do_not_go_into_a_dense_model_nor_weights_into_one_of_another_size(tmp_path: Path) -> None:
    write_state(tmp_path / BEST, fresh(config("snip")).state_dict())
    cfg = config(None, tmp_path)
    with pytest.raises(UserError, match="holds masks: load it into the _prune model"):
        load_start(fresh(cfg), cfg)
    cfg = config("snip", tmp_path, model=replace(MODEL, rnn_size=9))
    with pytest.raises(UserError, match=r"does not fit the model: .* \(expected "):
        load_start(fresh(cfg), cfg)
