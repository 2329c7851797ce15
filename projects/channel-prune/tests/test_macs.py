"""Multiply-adds of pruned networks: who reads what, the conventions, the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from channel_prune.config import NetConfig
from channel_prune.macs import convolutions, macs, macs_table, numbers_kept
from channel_prune.model import build
from channel_prune.slim import slim
from prunelab.errors import UserError
from prunelab.flops import count


def test_a_chain_through_a_depthwise_convolution_is_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
    )
    layers = convolutions(model, torch.zeros(1, 3, 5, 5))

    assert [each.reader for each in layers] == ["4", "4", None]
    assert macs(layers, {}) == 25 * (3 * 8 + 9 * 8 + 8 * 4)
    assert macs(layers, {"4": 2}) == 25 * (3 * 2 + 9 * 2 + 2 * 4)
    assert macs(layers, {"4": 2}, "input_only") == 25 * (3 * 8 + 9 * 8 + 2 * 4)
    assert macs(layers, {"4": 2}, "published") == 25 * (3 * 2 + 2 * 4)
    small = slim(model, {"4": [1, 5]}, torch.zeros(1, 3, 5, 5)).model
    assert count(small, torch.zeros(1, 3, 5, 5)).macs == macs(layers, {"4": 2})


def test_what_several_layers_read_counts_whole_and_a_dilated_one_by_its_phase() -> None:
    model = build(NetConfig(name="ssd_vgg16", nb_classes=3, image_size=160, width_divisor=16))
    layers = {each.name: each for each in convolutions(model, torch.zeros(1, 3, 160, 160))}

    assert layers["conv4.conv4_3"].reader is None
    assert layers["conv4.conv4_1"].reader == "conv4.conv4_2"
    assert layers["conv5.conv5_3"].reader == "fc6"
    assert layers["fc6"].reader == "fc7"
    assert layers["fc7"].reader is None
    assert layers["fc6"].positions == 10 * 10
    assert layers["fc6"].phase == 2 * 2  # ceil((10 + 2 * 6) / 6) rows, less two for the kernel
    assert layers["fc7"].phase == layers["fc7"].positions


def test_numbers_are_rounded_as_the_original_does_and_one_channel_stays() -> None:
    layers = convolutions(nn.Conv2d(7, 2, 1), torch.zeros(1, 7, 2, 2))
    path = layers[0].name

    assert numbers_kept(layers, {path: 0.3}) == {path: 4}
    assert numbers_kept(layers, {path: 0.99}) == {path: 1}


def test_the_table_begins_with_the_convention_asked_for() -> None:
    cfg = NetConfig(width_divisor=4)
    model = build(cfg)
    kept = {"stages.0.0.conv2": [0, 1]}

    table = macs_table(model, torch.zeros(1, 3, 32, 32), kept, first="published")

    assert [row[0] for row in table.rows] == ["published", "realisable", "input_only"]
    assert all(0.9 < float(row[3] or 0) < 1 for row in table.rows)


def test_wrong_names_are_told_in_one_line() -> None:
    layers = convolutions(nn.Sequential(nn.Conv2d(3, 2, 1)), torch.zeros(1, 3, 2, 2))
    with pytest.raises(UserError, match="'honest', expected one of realisable"):
        macs(layers, {}, "honest")
    with pytest.raises(UserError, match="'conv9' is no convolution that runs; these do: 0"):
        macs(layers, {"conv9": 2})
