"""Every network, learner and preset has the parameters of its description, and trains on made data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_prune import train
from channel_prune.config import LEARNERS, PRESETS, Config, NetConfig
from channel_prune.lowering import FIELDS, lower_values
from channel_prune.model import build
from prunelab.config import from_plain, to_plain, yaml_text
from prunelab.doors import field_docs

from .commands import typed

# --- how many parameters a network has, counted from its description ---

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BLOCKS[200] = (3, 24, 36, 3)


def residual(widths: Sequence[int], blocks: Sequence[int], kernel: int, classes: int, *, deep: bool) -> int:
    """Pre-activation ResNet: a projection in the first block of every stage, no biases, batch norm before."""
    channels = widths[0]
    total = 3 * kernel * kernel * channels
    for width, count in zip(widths, blocks, strict=True):
        for block in range(count):
            outputs = 4 * width if deep else width
            total += 2 * channels + (channels * outputs if block == 0 else 0)
            inner = 9 * channels * width + 2 * width + 9 * width * width
            bottleneck = channels * width + 2 * width + 9 * width * width + 2 * width + width * outputs
            total += bottleneck if deep else inner
            channels = outputs
    return total + 2 * channels + channels * classes + classes


def small_residual(size: int) -> int:
    n = (size - 2) // 6
    return residual((16, 32, 64), (n, n, n), 3, 10, deep=False)


def large_residual(size: int) -> int:
    return residual((64, 128, 256, 512), BLOCKS[size], 7, 1001, deep=size >= 50)


def mobilenet_v1(factor: float) -> int:
    plan = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    channels = max(int(32 * factor), 8)
    total = 27 * channels + 2 * channels
    for outputs in (max(int(width * factor), 8) for width in plan):
        total += 9 * channels + 2 * channels + channels * outputs + 2 * outputs
        channels = outputs
    return total + channels * 1001 + 1001


def mobilenet_v2(factor: float) -> int:
    def rounded(width: float) -> int:
        near = max(8, int(width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * width else near

    plan = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
    channels = rounded(32 * factor)
    total = 27 * channels + 2 * channels
    for place, width in enumerate(plan):
        inner, outputs = rounded((6 if place else 1) * channels), rounded(width * factor)
        total += channels * inner + 2 * inner if place else 0
        total += 9 * inner + 2 * inner + inner * outputs + 2 * outputs
        channels = outputs
    features = rounded(1280 * factor)
    return total + channels * features + 2 * features + features * 1001 + 1001


def detector(classes: int) -> int:
    def convs(plan: Sequence[tuple[int, int, int]]) -> int:
        return sum(kernel**2 * inputs * outputs + outputs for kernel, inputs, outputs in plan)

    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    vgg = [(3, inputs, outputs) for inputs, outputs in pairwise(widths)]
    fully = [(3, 512, 1024), (1, 1024, 1024)]
    more = [(1, 1024, 256), (3, 256, 512), (1, 512, 128), (3, 128, 256)]
    more += [(1, 256, 128), (3, 128, 256)] * 2
    heads = [
        (3, inputs, anchors * outputs)
        for inputs, anchors in zip((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4), strict=True)
        for outputs in (4, classes)
    ]
    return convs([*vgg, *fully, *more, *heads]) + 512


NETWORKS: list[tuple[str, str, int, int | None]] = [
    *(
        ("resnet_at_cifar10", f"--resnet_size={size}", small_residual(size), size + 2)
        for size in (20, 32, 44, 56)
    ),
    *(
        ("resnet_at_ilsvrc12", f"--resnet_size={size}", large_residual(size), None)
        for size in (18, 34, 50, 101, 152, 200)
    ),
    *(
        ("mobilenet_at_ilsvrc12", f"--mobilenet_depth_mult={factor}", mobilenet_v1(factor), 15)
        for factor in (0.25, 0.5, 0.75, 1.0)
    ),
    *(
        (
            "mobilenet_at_ilsvrc12",
            f"--mobilenet_version=2 --mobilenet_depth_mult={factor}",
            mobilenet_v2(factor),
            36,
        )
        for factor in (0.35, 0.5, 1.0, 1.4)
    ),
    ("vgg_at_pascalvoc", "", detector(21), 35),
    ("vgg_at_pascalvoc", "--class-names a,b,c", detector(4), 35),
]
"""Program, flags, parameters, convolutions that are pruned."""


@pytest.mark.parametrize(("program", "words", "count", "convolutions"), NETWORKS)
@pytest.mark.usefixtures("alone")
def test_every_network_has_the_parameters_of_its_description(
    program: str, words: str, count: int, convolutions: int | None
) -> None:
    networks = {
        typed(f"--learner={learner} --preset={preset} {words}", program).net
        for learner in LEARNERS
        for preset in PRESETS
    }
    assert len(networks) == 1
    with torch.device("meta"):
        model = build(networks.pop())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    if convolutions is not None:
        assert len(prune_order(model)) == convolutions


def prune_order(model: Any) -> list[str]:
    return model.prune_order()


def test_numbers_that_are_published() -> None:
    assert small_residual(20) == 272_538
    assert large_residual(18) == 11_692_329
    assert round(mobilenet_v1(1.0) / 1e6, 1) == 4.2
    assert round(mobilenet_v2(1.0) / 1e6, 1) == 3.5
    model = build(NetConfig(name="resnet_v1"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    assert len(prune_order(model)) == 19


# --- what a configuration is ---


def test_every_field_and_every_group_has_a_docstring() -> None:
    for cls in (*FIELDS.groups.values(), Config):
        assert cls.__doc__
        assert field_docs(cls).keys() == {f.name for f in fields(cls)}


@given(
    ratio=st.floats(0, 0.99),
    ratios=st.none() | st.lists(st.floats(0, 0.99), max_size=4).map(tuple),
    names=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    steps=st.none() | st.integers(1, 10**6),
    preset=st.sampled_from(PRESETS),
)
@settings(max_examples=20, deadline=None)
def test_a_configuration_survives_its_file(
    ratio: float, ratios: Any, names: Any, steps: int | None, preset: str
) -> None:
    cfg = lower_values(
        {
            "prune_ratio": ratio,
            "ratio_list": ratios,
            "class_names": names,
            "max_steps": steps,
            "dataset": "ilsvrc12",
            "preset": preset,
        }
    )
    assert from_plain(Config, yaml.safe_load(yaml_text(to_plain(cfg)))) == cfg


# --- two steps of every program ---

SMALLER = {
    "resnet_at_cifar10": "--resnet_size=8 --batch_size=4",
    "resnet_at_ilsvrc12": "--image_size=32 --width-divisor=8 --nb_classes=11 --batch_size=4",
    "mobilenet_at_ilsvrc12": "--image_size=32 --mobilenet_depth_mult=0.25 --nb_classes=11 --batch_size=4",
    "vgg_at_pascalvoc": "--width-divisor=16 --image_size=160 --image_size_eval=160 --batch_size=2",
}
"""What makes a program quick enough for a CPU."""
MORE = [
    ("resnet_at_cifar10", "--preset=fixed --resnet_size=14"),
    ("resnet_at_ilsvrc12", "--resnet_size=50"),
    ("mobilenet_at_ilsvrc12", "--mobilenet_version=2"),
    ("vgg_at_pascalvoc", "--preset=fixed"),
]


def two_steps(program: str, words: str, folder: Path) -> Config:
    """Train full and then pruned, two steps each."""
    start = f"{SMALLER[program]} {words} --fake-data --max-steps=2 --workers=0 --device=cpu"
    full = typed(f"{start} --output={folder / 'full'}", program)
    train.train(full, quiet=True)
    sampled = "--cpr_nb_smpls=8 --recalibrate=8 --cpr_lstsq_nb_iters=2 --learner=chn-pruned-rmt"
    weights = f"--weights={folder / 'full'} --output={folder / 'pruned'}"
    pruned = typed(f"{start} {sampled} {weights}", program)
    train.train(pruned, quiet=True)
    return pruned


@pytest.mark.tiny
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("program", SMALLER)
def test_two_steps_of_every_program_on_made_data(program: str, tmp_path: Path) -> None:
    two_steps(program, "", tmp_path)
    for name in ("full/last", "pruned/last", "pruned/slim"):
        assert (tmp_path / name / "model.safetensors").is_file()


@pytest.mark.tiny
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("program", "words"), MORE)
def test_two_steps_of_other_configurations(program: str, words: str, tmp_path: Path) -> None:
    two_steps(program, words, tmp_path)
    assert (tmp_path / "pruned/slim/model.safetensors").is_file()
