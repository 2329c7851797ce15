"""Multiply-adds against the analytic tables and the figures that the original's documents print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from channel_prune.config import NetConfig
from channel_prune.macs import Convolution, convolutions, macs, numbers_kept
from channel_prune.model import build
from testing.parity import Folder, of_kind

DENSE = {"dense_macs", "dense_macs_fc6_4x4", "dense_macs_true"}
RESNET = NetConfig(dataset_form="ilsvrc12", resnet_size=18, nb_classes=1001, image_size=224)
SSD = NetConfig(name="ssd_vgg16", nb_classes=21, image_size=300)


def tables(folder: Folder, *, detector: bool) -> list[dict[str, Any]]:
    """The tables of classifiers, whose layers say of what kind they are, or those of detectors."""
    found = [json.loads((folder.path / name).read_text(encoding="utf-8")) for name in folder.facts["files"]]
    return [table for table in found if isinstance(table["layers"][0][1], str) != detector]


def layer(
    name: str, inputs: int, outputs: int, kernel: int, size: int, reader: str | None, **more: Any
) -> Convolution:
    positions = {"positions": size * size, "phase": size * size, **more}
    return Convolution(
        name=name, inputs=inputs, outputs=outputs, taps=kernel * kernel, reader=reader, **positions
    )


def classifier_of(table: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Convolution]:
    """A residual network by its list: the first convolution inside of a block is read by the second alone."""
    rows = table["layers"]
    extra = facts["resnet18_extra_reduced_outputs"]
    last = max(place for place, row in enumerate(rows) if row[0] in extra)
    behind = next((row[0] for row in rows[last + 1 :] if row[1] == "c1"), None)
    found = []
    for place, (name, kind, inputs, outputs, kernel, size) in enumerate(rows):
        reader = rows[place + 1][0] if kind == "c1" else None
        counted = behind if name in extra else None
        found.append(layer(name, inputs, outputs, kernel, size, reader, counted_reader=counted))
    return found


def is_head(name: str, facts: Mapping[str, Any]) -> bool:
    return name.startswith(tuple(facts["ssd_head_prefixes"]))


def detector_of(table: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Convolution]:
    """A detector by its list: each convolution is read by the next one, but for those that heads read too."""
    rows = table["layers"]
    found = []
    for place, (name, inputs, outputs, kernel, size) in enumerate(rows):
        chained = not is_head(name, facts) and name not in facts["ssd_unreduced_outputs"]
        reader = rows[place + 1][0] if chained else None
        phase = facts["fc6_size_published"] if name == "fc6" else size
        found.append(layer(name, inputs, outputs, kernel, size, reader, phase=phase * phase))
    return found


def pruned(layers: Sequence[Convolution], ratio: float, skipped: Sequence[str] = ()) -> dict[str, int]:
    """Numbers of kept inputs at one ratio; the first convolution and skipped ones keep all."""
    return numbers_kept(layers, {each.name: ratio for each in layers[1:] if each.name not in skipped})


def check_percent(
    layers: Sequence[Convolution], kept: Mapping[str, int], convention: str, expected: float, within: float
) -> float:
    percent = 100 * macs(layers, kept, convention) / macs(layers, {}, convention)
    assert abs(percent - expected) <= within
    return percent


def check_classifier(layers: Sequence[Convolution], table: Mapping[str, Any], tolerance: Any) -> None:
    assert macs(layers, {}, "realisable") == table["dense_macs"]
    assert table["rows"]
    for row in table["rows"]:
        kept = pruned(layers, row["ratio"])
        within = tolerance["percent_abs"]
        for convention in ("realisable", "input_only"):
            check_percent(layers, kept, convention, row[convention], within)
        found = check_percent(layers, kept, "published", row["published_convention"], within)
        if row["published"] is not None:
            assert round(found, tolerance["published_decimals"]) == pytest.approx(row["published"])


def check_detector(
    layers: Sequence[Convolution], heads: Sequence[str], table: Mapping[str, Any], tolerance: Any
) -> None:
    assert macs(layers, {}, "published") == table["dense_macs_fc6_4x4"]
    assert macs(layers, {}, "realisable") == table["dense_macs_true"]
    assert table["rows"]
    for row in table["rows"]:
        for name, skipped in (("backbone", heads), ("all", ())):
            kept = pruned(layers, row["ratio"], skipped)
            within = tolerance["percent_abs"]
            check_percent(layers, kept, "realisable", row[f"{name}_true"], within)
            found = check_percent(layers, kept, "published", row[name], within)
            if row[f"published_{name}"] is not None:
                decimals = tolerance["published_decimals"]
                assert round(found, decimals) == pytest.approx(row[f"published_{name}"])


@pytest.mark.parity
@of_kind("flops")
def test_listed_networks_cost_what_the_tables_say(folder: Folder) -> None:
    for table in tables(folder, detector=False):
        check_classifier(classifier_of(table, folder.facts), table, folder.tolerance)
    for table in tables(folder, detector=True):
        layers = detector_of(table, folder.facts)
        heads = [each.name for each in layers if is_head(each.name, folder.facts)]
        check_detector(layers, heads, table, folder.tolerance)


@cache
def ours(cfg: NetConfig) -> list[Convolution]:
    """The convolutions of one of our networks, with zeros for weights."""
    with torch.device("meta"):
        model = build(cfg)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.zeros(parameter.shape)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(buffer.shape))
    return convolutions(model, torch.zeros(1, 3, cfg.image_size, cfg.image_size))


def sizes(layers: Sequence[Convolution]) -> list[tuple[int, int, int, int]]:
    return sorted((each.inputs, each.outputs, each.taps, each.positions) for each in layers)


@pytest.mark.parity
@of_kind("flops")
def test_our_networks_cost_what_the_tables_say_where_they_are_those_listed(folder: Folder) -> None:
    nets = {False: (RESNET, classifier_of), True: (SSD, detector_of)}
    for detector, (cfg, listed) in nets.items():
        layers = ours(cfg)
        for table in tables(folder, detector=detector):
            if sizes(layers) != sizes(listed(table, folder.facts)):
                continue  # a table of another network
            if detector:
                heads = [each.name for each in layers if each.name.startswith("multibox_head")]
                check_detector(layers, heads, table, folder.tolerance)
            else:
                check_classifier(layers, table, folder.tolerance)


def test_our_networks_are_those_of_the_published_tables() -> None:
    assert macs(ours(RESNET), {}) == 1826406400
    assert macs(ours(SSD), {}, "published") == 29745623552
