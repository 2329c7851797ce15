"""A saved model's masks as plain data, and the same masks in a new model."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from acosp import SoftTopKPruner, apply_structure, phase, structure
from acosp.inject import hard_to_conv, soft_to_channel_sparse, soft_to_hard_k
from acosp.soft_topk import SigmoidSoftTopK, SoftTopK


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 12, 1, bias=False))
    )


def soft(learnable: bool = True) -> nn.Module:
    model = build()
    pruner = SoftTopKPruner(0.5, 4, min_remaining_elements=1, learnable_weights=learnable)
    pruner.configure_model(model)
    model(torch.randn(2, 3, 6, 6))
    pruner.update_mask_layers(model, 2)
    return model


def hard() -> nn.Module:
    model = soft()
    soft_to_hard_k(model)
    return model


def sparse() -> nn.Module:
    model = soft()
    soft_to_channel_sparse(model)
    return model


def frozen() -> nn.Module:
    model = hard()
    hard_to_conv(model, freeze=True)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dense": (build, "dense"),
    "soft": (soft, "soft"),
    "soft, not learned": (lambda: soft(learnable=False), "soft"),
    "hard": (hard, "hard"),
    "sparse": (sparse, "sparse"),
    "masks multiplied in": (frozen, "dense"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_new_model_takes_the_structure_then_loads_strictly_and_goes_on_alike(name: str) -> None:
    make, expected = MODELS[name]
    model = make()
    data = json.loads(json.dumps(structure(model)))
    assert data["phase"] == phase(model) == expected
    new = build()
    state = torch.get_rng_state()
    apply_structure(new, data)
    assert torch.equal(torch.get_rng_state(), state)
    new.load_state_dict(model.state_dict(), strict=True)
    assert list(new.state_dict()) == list(model.state_dict())
    assert structure(new) == structure(model)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(new(x), model(x))
    mine, theirs = (dict(m.named_parameters()) for m in (new, model))
    assert {n: p.requires_grad for n, p in mine.items()} == {n: p.requires_grad for n, p in theirs.items()}
    temperatures = {m.current_temperature for m in new.modules() if isinstance(m, SoftTopK)}
    assert [f"{t:.6f}" for t in temperatures] == (["0.031623"] if expected == "soft" else [])


def test_restored_masks_are_computed_together() -> None:
    new = build()
    apply_structure(new, structure(soft()))
    groups = {id(m._group) for m in new.modules() if isinstance(m, SigmoidSoftTopK)}
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda layers: layers.update({"9": layers.pop("0")}), "no convolution '9'"),
        (lambda layers: layers.update({"1": layers.pop("0")}), "'1' is a BatchNorm2d"),
        (lambda layers: layers["0"].update(channels=9), "'0' has 8 channels, where the structure has 9"),
        (lambda layers: layers["0"].update(kind="odd"), "kind is 'odd'"),
    ],
)
def test_a_structure_of_another_model_is_refused(spoil: Callable[[dict], None], message: str) -> None:
    data = structure(hard())
    spoil(data["layers"])
    with pytest.raises(ValueError, match=message):
        apply_structure(build(), data)


def test_a_model_with_masks_takes_no_structure() -> None:
    with pytest.raises(ValueError, match="has masks already"):
        apply_structure(soft(), structure(hard()))


def test_masks_of_another_kind_cannot_be_written() -> None:
    model = soft()
    model[0][1] = SoftTopK(8, 4)
    with pytest.raises(ValueError, match="masks of SoftTopK"):
        structure(model)
