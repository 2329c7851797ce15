"""PSPNet-50 computes what the original's does: outputs, features, zooms, and training with masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from testing.parity import Folder, of_kind

from .filling import check
from .recorded_networks import (
    assert_abs_sums,
    assert_eval,
    assert_hard,
    assert_output,
    assert_soft,
    assert_sums,
    dense_network,
    features,
    inputs,
)

pytestmark = pytest.mark.parity


@of_kind("pspnet50")
def test_weights_filled_by_the_rule_are_the_recorded_ones(folder: Folder) -> None:
    recorded = folder.json("expected.json")["dense_param_check"]
    assert_abs_sums("weights", dense_network(folder).state_dict(), recorded, rtol=1e-12)


@of_kind("pspnet50")
def test_dense_output_agrees(folder: Folder) -> None:
    assert_eval(folder, "dense_eval", dense_network(folder))


@of_kind("pspnet50")
def test_features_between_the_parts_agree(folder: Folder) -> None:
    expected, tolerance = folder.json("expected.json"), folder.tolerance["eval_rtol"]
    model = dense_network(folder)
    names = [name for name, _ in model.named_children() if name in expected]
    assert names
    for name, output in features(model, names, inputs(folder)[0]).items():
        shape, *recorded = expected[name]
        assert list(output.shape) == shape
        assert_sums(name, check(output), recorded, tolerance=tolerance, largest=float(output.max()))


@of_kind("pspnet50")
def test_outputs_at_other_zoom_factors_agree(folder: Folder) -> None:
    model, bound = dense_network(folder), folder.tolerance
    before = model.cfg
    for zoom in folder.facts["extra_zoom_factors"]:
        model.cfg = replace(before, zoom_factor=zoom)
        with torch.no_grad():
            output = model(inputs(folder)[0])
        assert_output(
            folder,
            f"dense_eval_zoom{zoom}",
            output,
            rtol=bound["eval_rtol"],
            atol_of_max=bound["eval_atol_of_max"],
        )
    model.cfg = before
    assert folder.facts["zoom_factor"] == before.zoom_factor


@of_kind("pspnet50")
def test_hard_masked_network_agrees_before_and_while_training(folder: Folder) -> None:
    assert_hard(folder)


@of_kind("pspnet50")
def test_soft_masked_network_agrees_while_training_and_once_hard(folder: Folder) -> None:
    assert_soft(folder)
