"""The rows of slim networks, on small ones: they are compared, and their sides are all there."""

from __future__ import annotations

import pytest
import torch

from channel_prune.benches.slim import (
    RESNET_18,
    ROWS,
    by_torch_pruning,
    largest_kernels,
    made,
    pair_of,
    slim_rows,
    torch_pruning_rows,
)
from channel_prune.config import NetConfig
from prunelab.bench import Figure, Row
from prunelab.flops import count

SMALL = NetConfig(resnet_size=8, width_divisor=2)


def test_a_row_times_the_slim_network_beside_all_others() -> None:
    row, gain = slim_rows("tiny", SMALL, 2, round_to=2)

    assert isinstance(row, Row)
    assert isinstance(gain, Figure)
    assert {side.name for side in row.extra} == {
        "full, as written",
        "full, channels last",
        "inputs picked",
        "slim, as written",
        "slim, channels last",
    }
    assert row.goal == pytest.approx(0.75 * gain.ours)
    assert gain.ours > 1.5


@pytest.mark.slow
def test_torch_pruning_gets_as_many_multiply_adds() -> None:
    pytest.importorskip("torch_pruning")
    row, gain = torch_pruning_rows("tiny", SMALL, 1)

    assert isinstance(row, Row)
    assert isinstance(gain, Figure)
    example = torch.zeros(1, 3, 32, 32)
    model = made(SMALL)
    share = count(by_torch_pruning(model, example, 0.5), example).macs / count(model, example).macs
    assert 0.3 < share <= 0.5


def test_kept_channels_are_those_with_the_largest_kernels() -> None:
    model = made(SMALL)
    kept = largest_kernels(model, torch.zeros(1, 3, 32, 32))

    first = next(iter(kept))
    norms = model.get_submodule(first).get_parameter("weight").detach().abs().sum((0, 2, 3))
    assert "conv" not in kept
    assert kept[first] == sorted(norms.argsort(descending=True)[: len(norms) // 2].tolist())


def test_a_slim_network_saves_at_least_what_is_published_as_realisable() -> None:
    assert pair_of(SMALL).gain > 1.9
    assert RESNET_18.resnet_size == 18
    assert len(ROWS) == len({name for name in ROWS if name.startswith("slim-")})
