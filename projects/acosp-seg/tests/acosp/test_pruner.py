"""The pruner: its switches, its checks, what it says and what it logs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from acosp.inject import soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp.structure import phase


def build(*widths: int) -> nn.Sequential:
    layers = [nn.Conv2d(a, b, 1) for a, b in zip((3, *widths), widths, strict=False)]
    return nn.Sequential(*layers)


def temperatures(model: nn.Module) -> list[float]:
    return [layer[1].current_temperature for layer in model]  # type: ignore[union-attr, index, misc]


def test_an_inactive_pruner_does_nothing() -> None:
    model = build(16)
    pruner = SoftTopKPruner(0.5, 2, active=False)
    assert pruner.configure_model(model) is None
    pruner.update_mask_layers(model, 99)
    pruner.on_pruning_end(model)
    assert phase(model) == "dense"


def test_the_end_of_pruning_makes_masks_hard_and_the_pruner_inactive() -> None:
    model = build(16)
    pruner = SoftTopKPruner(0.5, 2)
    pruner.configure_model(model)
    pruner.on_pruning_end(model)
    assert phase(model) == "hard"
    assert not pruner.active
    again = SoftTopKPruner(0.5, 2)
    again.load_state_dict(pruner.state_dict())
    assert not again.active


def test_a_call_after_an_epoch_sets_that_epochs_temperature_or_the_next_ones() -> None:
    for lag, expected in ((True, [1, 1, 0.001**0.5]), (False, [1, 0.001**0.5, 0.001])):
        model = build(16)
        pruner = SoftTopKPruner(0.5, 2, temperature_lag=lag)
        pruner.configure_model(model)
        found = temperatures(model)
        for epoch in range(2):
            pruner.update_mask_layers(model, epoch)
            found += temperatures(model)
        assert found == pytest.approx(expected)
        with pytest.raises(ValueError, match="epoch is 3"):
            pruner.update_mask_layers(model, 3)


def test_layers_that_keep_more_than_asked_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = build(64, 128, 5, 64)
    with caplog.at_level(logging.WARNING, logger="acosp"):
        SoftTopKPruner(0.9375, 2).configure_model(model)
    assert [layer[1].k for layer in model] == [8, 8, 5, 8]
    (line,) = caplog.messages
    assert "3 layers" in line
    assert "0: 8 of 64, 2: 5 of 5" in line
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    caplog.clear()
    SoftTopKPruner(0.5, 2).configure_model(build(64))
    assert not caplog.messages


def test_further_arguments_reach_the_masks() -> None:
    model = build(16)
    SoftTopKPruner(0.5, 2).configure_model(model, learnable_weights=False, initial_temperature=3)
    assert not model[0][1].learnable
    assert temperatures(model) == [3]


def test_masks_take_device_and_type_of_their_convolution() -> None:
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        model = build(16).to(dtype)
        SoftTopKPruner(0.5, 2).configure_model(model)
        assert model[0][1].weight.dtype == expected
        assert model(torch.randn(1, 3, 2, 2, dtype=dtype)).dtype == dtype
    with torch.device("meta"):
        model = build(16)
    SoftTopKPruner(0.5, 2).configure_model(model)
    assert model[0][1].mask.is_meta


def test_equal_seeds_give_equal_masks() -> None:
    def hard() -> torch.Tensor:
        torch.manual_seed(4)
        model = build(64)
        SoftTopKPruner(0.5, 2).configure_model(model)
        soft_to_hard_k(model)
        return model[0].mask

    assert torch.equal(hard(), hard())


class Calls:
    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], Any]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((metrics, step))


def test_a_single_layer_is_logged_with_a_variance_of_zero_and_none_with_nothing() -> None:
    pruner, logger = SoftTopKPruner(0.5, 2), Calls()
    model = build(16)
    pruner.collect_logs(logger, model, 7)
    assert not logger.calls
    pruner.configure_model(model)
    pruner.collect_logs(logger, model, 7)
    assert logger.calls[0] == ({"pruning/0.1/x_0": 0.0}, 7)
    summary = logger.calls[6]
    assert summary == (
        {
            "pruning/mean_temperature": 1,
            "pruning/var_temperature": 0,
            "pruning/min_temperature": 1,
            "pruning/max_temperature": 1,
        },
        7,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"final_sparsity": 1.0}, "final_sparsity is 1.0, expected a number from 0 to below 1"),
        ({"final_sparsity": -0.1}, "final_sparsity is -0.1"),
        ({"min_remaining_elements": 0}, "min_remaining_elements is 0"),
        ({"final_temp": 0}, "temperatures are 1 and 0"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftTopKPruner(**({"final_sparsity": 0.5, "ending_epoch": 2} | arguments))
