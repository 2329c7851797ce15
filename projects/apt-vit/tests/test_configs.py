"""Every named network has the parameters of its description, and trains on made data."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from apt_vit import configs
from apt_vit.config import MODEL_TYPES, Config, ModelConfig, ResNetConfig
from apt_vit.configs import CONFIGS, NPZ_FILES, model_values
from apt_vit.lowering import FIELDS, lower_values, network
from apt_vit.model import build
from prunelab.config import from_plain, to_plain, yaml_text
from prunelab.doors import PRESETS, field_docs
from prunelab.errors import UserError

from .commands import PROJECT, typed

# --- how many parameters a network has, counted from its description ---


def vit(
    D: int,
    mlp: int,
    blocks: int,
    patch: int,
    *,
    classes: int,
    agents: int = 3,
    side: int = 224,
    channels: int = 3,
) -> tuple[int, int]:
    """All parameters of a ViT for square pictures, and those of its agents."""
    per_agent = 3 * (D * D + D) + 4 * D + 2
    block = 4 * (D * D + D) + 2 * D * mlp + mlp + D + 4 * D
    tokens = (side // patch) ** 2 + 1
    embeddings = tokens * D + D + channels * patch * patch * D + D
    rest = blocks * block + 2 * D + D * classes + classes
    return embeddings + rest + agents * per_agent, agents * per_agent


def stem(width: int, units: tuple[int, ...]) -> int:
    """Parameters of a ResNet's stages, without its last map's embedding."""
    total, inputs = 3 * 49 * width + 2 * width, width
    for stage, count in enumerate(units):
        middle, outputs = width * 2**stage, 4 * width * 2**stage
        for unit in range(count):
            total += inputs * middle + 9 * middle * middle + middle * outputs + 4 * middle + 2 * outputs
            if unit == 0:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total


B, L, H = (768, 3072, 12), (1024, 4096, 24), (1280, 5120, 32)
COUNTS: dict[str, tuple[int, int]] = {
    "ViT-B_16": vit(*B, 16, classes=100),
    "ViT-B_32": vit(*B, 32, classes=100),
    "ViT-L_16": vit(*L, 16, classes=100),
    "ViT-L_32": vit(*L, 32, classes=100),
    "ViT-H_14": vit(*H, 14, classes=100),
    "testing": vit(1, 1, 1, 16, classes=100, agents=1),
    "tiny": vit(64, 128, 6, 4, classes=100, side=32),
}


def sizes(model: torch.nn.Module) -> tuple[int, int]:
    count = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(count.values()), sum(n for name, n in count.items() if ".clip_layer." in name)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("alone")
def test_every_network_has_the_parameters_of_its_description(name: str, preset: str) -> None:
    layers = "--clip-layers 0" if name == "testing" else ""
    cfg = typed(f"--model_type {name} --num-classes 100 --preset {preset} {layers}").model
    with torch.device("meta"):
        model = build(cfg)
    if name == "R50-ViT-B_16":  # 14 x 14 places of a map, each a token
        total, agents = vit(*B, 1, classes=100, side=14, channels=1024)
        assert sizes(model) == (total + stem(64, (3, 4, 9)), agents)
    else:
        assert sizes(model) == COUNTS[name]


def test_numbers_that_are_published() -> None:
    published = {"ViT-B_16": 91_200_106, "ViT-B_32": 92_856_682, "ViT-L_16": 312_862_826}
    published |= {"ViT-L_32": 315_071_594, "ViT-H_14": 645_665_386, "testing": 1_197}
    assert {name: COUNTS[name][0] for name in published} == published
    hybrid = vit(*B, 1, classes=100, side=14, channels=1024)[0] + stem(64, (3, 4, 9))
    assert hybrid == 103_291_562


# --- ConfigDicts ---


def test_there_are_eight_networks_and_all_can_be_typed() -> None:
    assert len(CONFIGS) == 8
    assert tuple(CONFIGS) == MODEL_TYPES
    assert NPZ_FILES.keys() == CONFIGS.keys() - {"testing", "tiny"}


def test_the_originals_functions_give_configdicts_of_the_originals_structure() -> None:
    b16 = configs.get_b16_config()
    assert isinstance(b16, ConfigDict)
    assert (b16.patches.size, b16.hidden_size, b16.transformer.num_heads) == ((16, 16), 768, 12)
    assert (b16.classifier, b16.representation_size) == ("token", None)
    r50 = configs.get_r50_b16_config()
    assert (r50.patches.grid, r50.resnet.num_layers, r50.resnet.width_factor) == ((14, 14), (3, 4, 9), 1)
    assert "size" not in r50.patches
    b16.hidden_size = 5
    assert configs.get_b16_config().hidden_size == 768


def test_the_originals_file_of_configs_has_its_functions() -> None:
    theirs = runpy.run_path(str(PROJECT / "models/configs.py"))
    assert len(theirs["__all__"]) == 7
    for name in theirs["__all__"]:
        assert theirs[name]() == getattr(configs, name)()


def test_a_configdict_of_ones_own_becomes_a_network() -> None:
    own = configs.get_testing()
    own.update({"hidden_size": 8, "transformer": {"num_heads": 2, "num_layers": 3}})
    cfg = from_plain(ModelConfig, {"model_type": "mine", **model_values(own)})
    assert (cfg.hidden_size, cfg.num_heads, cfg.num_layers, cfg.patch_size) == (8, 2, 3, (16, 16))


def test_a_named_network_may_have_other_sizes() -> None:
    hybrid = network("R50-ViT-B_16", img_size=240, num_classes=3, clip_layers=(1,))
    assert hybrid.resnet == ResNetConfig(num_layers=(3, 4, 9))
    assert (hybrid.img_size, hybrid.num_classes, hybrid.clip_layers) == ((240, 240), 3, (1,))
    tiny = network("tiny", patch_size=8)
    assert (tiny.img_size, tiny.patch_size, tiny.clip_layers) == ((32, 32), (8, 8), (1, 2, 4))
    with pytest.raises(UserError, match=r"ViT-B_61.*did you mean ViT-B_16"):
        network("ViT-B_61")
    with pytest.raises(UserError, match="tiny: unknown key hidden_sizes: did you mean hidden_size"):
        network("tiny", hidden_sizes=5)
    with pytest.raises(UserError, match="tiny: unknown key threshold"):
        network("tiny", threshold=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": {}}, "configuration of a network: 'mlp_dim' is missing"),
        ({"classifier": "gap"}, "classifier is 'gap', expected 'token'"),
    ],
)
def test_a_configuration_of_another_kind_of_network_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_values({**configs.get_b16_config().to_dict(), **change})


# --- what a configuration is ---


def test_every_field_and_every_group_has_a_docstring() -> None:
    for cls in (*FIELDS.groups.values(), Config, ResNetConfig):
        assert cls.__doc__
        assert field_docs(cls).keys() == {f.name for f in fields(cls)}


@given(
    name=st.sampled_from(MODEL_TYPES),
    keep=st.none() | st.floats(0.01, 1),
    names=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    steps=st.none() | st.integers(1, 10**6),
    preset=st.sampled_from(PRESETS),
)
@settings(max_examples=20, deadline=None)
def test_a_configuration_survives_its_file(
    name: str, keep: float | None, names: Any, steps: int | None, preset: str
) -> None:
    values = {"model_type": name, "keep_rate": keep, "class_names": names, "max_steps": steps}
    cfg = lower_values({**values, "preset": preset})
    assert from_plain(Config, yaml.safe_load(yaml_text(to_plain(cfg)))) == cfg


# --- two updates of every kind of network ---

SMALL = "--hidden-size 16 --mlp-dim 32 --num-heads 2 --num-layers 4 --clip-layers 0,1,2"
QUICK = "--fake-data --max-steps 2 --num-workers 0 --device cpu --train_batch_size 6 --eval_batch_size 50"
FAMILIES = {
    "plain": f"--model_type ViT-B_16 --patch-size 8 --img_size 16 {SMALL}",
    "hybrid": "--model_type R50-ViT-B_16 --patch-grid 2 --img_size 32 --resnet-num-layers 1,1,1 "
    f"--resnet-width-factor 0.5 {SMALL}",
}
"""What makes one of each kind quick enough for a CPU."""


def two_updates(words: str, folder: Path) -> list[str]:
    from apt_vit.train import train

    cfg = typed(f"{QUICK} {words} --name quick --output {folder / 'run'}")
    train(cfg, quiet=True)
    return sorted(path.name for path in (folder / "run").iterdir())


@pytest.mark.tiny
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("family", FAMILIES)
def test_two_updates_of_each_kind_of_network_on_made_data(family: str, tmp_path: Path) -> None:
    written = two_updates(FAMILIES[family], tmp_path)
    assert {"checkpoints", "last", "metrics.jsonl", "config.yaml"} <= set(written)


MORE = [
    *(
        f"--model_type {name} --img_size 64 {SMALL}"
        for name in NPZ_FILES
        if name[:3] == "ViT" and name[-2:] != "14"
    ),
    f"--model_type ViT-H_14 --img_size 56 {SMALL}",
    "--model_type testing --img_size 32 --clip-layers 0",
    "--model_type tiny --preset fixed --dataset cifar100",
    f"{FAMILIES['hybrid']} --preset fixed",
    f"{FAMILIES['plain']} --method random --keep-rate 0.7",
    f"{FAMILIES['plain']} --method cls-attention --keep-rate 0.7 --preset fixed",
    f"{FAMILIES['plain']} --method plain",
    f"{FAMILIES['plain']} --dataset folder",
]


@pytest.mark.tiny
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("words", MORE)
def test_two_updates_of_other_configurations(words: str, tmp_path: Path) -> None:
    assert {"checkpoints", "last"} <= set(two_updates(words, tmp_path))
