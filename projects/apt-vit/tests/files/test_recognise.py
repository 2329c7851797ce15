"""What a file is, and the network that its weights are of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from apt_vit.config import ModelConfig
from apt_vit.configs import CONFIGS
from apt_vit.files.original import write
from apt_vit.files.recognise import Weights, class_names_of, config_of, read_weights
from apt_vit.files.timm_weights import WHAT, to_timm
from apt_vit.lowering import network
from apt_vit.model import build
from prunelab.data import cifar
from prunelab.errors import UserError

from ..google_files import npz_of
from ..small import small_model
from .test_npz import HYBRID

SQUARE: dict[str, Any] = {"img_size": (20, 20), "clip_layers": (2, 5, 8)}
HINTS = {"num_heads": 3}
OF_BIN: dict[str, Any] = {
    "pretrained_dir": "",
    "clip_layers": (2, 5, 8),
    "normalise_agent_input": False,
    "root_pool_same": False,
}
"""What a checkpoint of the original is taken to be of."""


def on_meta(cfg: ModelConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build(cfg).state_dict()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("testing", "R50-ViT-B_16")])
def test_published_sizes_are_told_by_a_checkpoint_and_by_timms_names(name: str) -> None:
    side = 112 if "14" in name else 96
    cfg = replace(network(name, img_size=side, num_classes=7), **OF_BIN)
    state = on_meta(cfg)
    found = config_of(Weights(path="x.bin", kind="original", what="", state=state))
    assert found == cfg
    theirs = config_of(Weights(path="x.pth", kind="timm", what=WHAT, state=to_timm(state)))
    expected = replace(cfg, normalise_agent_input=True, root_pool_same=True)
    assert replace(theirs, clip_layers=(2, 5, 8)) == expected


def test_a_hybrid_is_told_by_a_checkpoint() -> None:
    for side in (224, 384):
        cfg = replace(network("R50-ViT-B_16", img_size=side), **OF_BIN)
        assert config_of(Weights(path="x.bin", kind="original", what="", state=on_meta(cfg))) == cfg


@pytest.mark.parametrize("sizes", [{}, HYBRID], ids=["plain", "hybrid"])
def test_googles_arrays_tell_all_but_agents(tmp_path: Path, sizes: dict[str, Any]) -> None:
    model = small_model(**{"img_size": (20, 20), **sizes})
    file = tmp_path / "anything.at_all"
    npz_of(model, file.with_suffix(".npz"))
    file.with_suffix(".npz").rename(file)

    weights = read_weights(file)
    cfg = config_of(weights)

    assert (weights.kind, weights.what) == ("npz", "google's npz")
    assert cfg.clip_layers == (1, 2, 4)
    kind = "hybrid" if sizes else "4"
    expected = replace(
        model.cfg, clip_layers=(1, 2, 4), model_type=f"ViT-6x24_{kind}", dropout_rate=cfg.dropout_rate
    )
    assert cfg == expected
    faithful = config_of(weights, {"preset": "faithful", "img_size": (32, 48), "clip_layers": (0,)})
    assert faithful.clip_layers == (0,)
    assert faithful.img_size == (32, 48)
    assert not faithful.normalise_agent_input
    assert config_of(weights, {"clip_fractions": (0.5,)}).clip_layers == (2,)
    assert config_of(weights, {"preset": "faithful"}).clip_layers == (2, 5, 8)


def test_checkpoints_tell_agents_and_not_their_blocks(tmp_path: Path) -> None:
    model = small_model(**SQUARE)
    file = write(tmp_path / "1_apt_checkpoint.bin", model.state_dict())
    weights = read_weights(file)
    assert weights.kind == "original"
    assert weights.what == "a checkpoint of the original with 3 agents"
    with pytest.raises(UserError, match=r"its 24 columns do not tell the heads, expected --num-heads"):
        config_of(weights)
    cfg = config_of(weights, HINTS)
    assert cfg.clip_layers == (2, 5, 8)
    assert not cfg.normalise_agent_input
    assert config_of(weights, {**HINTS, "clip_layers": (1, 3, 4)}).clip_layers == (1, 3, 4)
    with pytest.raises(UserError, match=r"3 agents for clip_layers \[1\], expected as many.*--clip-layers"):
        config_of(weights, {**HINTS, "clip_layers": (1,)})
    two = small_model(img_size=(20, 20), clip_layers=(1, 3))
    write(file, two.state_dict())
    with pytest.raises(UserError, match=r"2 agents for clip_layers \[2, 5, 8\]"):
        config_of(read_weights(file), HINTS)


def test_positions_of_an_oblong_picture_ask_for_its_size(tmp_path: Path) -> None:
    file = write(tmp_path / "x.bin", small_model().state_dict())
    weights, typed = read_weights(file), {**HINTS, "clip_layers": (1, 3, 4)}
    with pytest.raises(UserError, match=r"31 position embeddings, expected .* the pictures' --img-size"):
        config_of(weights, typed)
    assert config_of(weights, {**typed, "img_size": (20, 24)}).img_size == (20, 24)


def test_facts_beside_a_checkpoint_tell_everything(tmp_path: Path) -> None:
    from apt_vit.classifier import Classifier
    from apt_vit.preprocess import Preprocess

    model = small_model()
    facts = Classifier(model=model, preprocess=Preprocess(size=(20, 24))).facts()
    file = write(tmp_path / "x.bin", model.state_dict(), facts)
    assert config_of(read_weights(file)) == model.cfg


def test_timms_files_are_told_by_content_with_what_lies_beside(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(
        {name: value.contiguous() for name, value in to_timm(small_model(**SQUARE).state_dict()).items()},
        file,
    )
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}', encoding="utf-8")
    weights = read_weights(file)
    assert (weights.kind, weights.facts) == ("timm", {"mean": [0.1, 0.2, 0.3]})
    assert config_of(weights, HINTS).clip_layers == (1, 2, 4)
    wide = {"hidden_size": 1280, "mlp_dim": 4096, "num_heads": 16}
    state = to_timm(on_meta(replace(small_model(**SQUARE).cfg, **wide)))
    assert config_of(Weights(path="x", kind="timm", what="", state=state)).num_heads == 16


def test_names_of_classes_follow_from_their_number() -> None:
    def names(kind: str, classes: int) -> tuple[str, ...]:
        return class_names_of(
            Weights(path="", kind=kind, what=""), replace(ModelConfig(), num_classes=classes)
        )

    assert names("original", 10) == cifar.CLASSES
    assert names("original", 100) == cifar.CLASSES_100
    assert names("original", 7) == names("timm", 10) == ()
    assert len(names("npz", 1000)) == 1000


def test_other_files_get_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    with pytest.raises(UserError, match=r"x.pth: no such file, expected google's npz, a checkpoint of the"):
        read_weights(file)
    torch.save({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"weights conv1.weight, fc.bias, expected google's npz"):
        read_weights(file)
    arrays = tmp_path / "x.npz"
    np.savez(arrays, images=np.zeros(2))
    with pytest.raises(UserError, match=r"x.npz: arrays images, expected google's names"):
        read_weights(arrays)
    cut = tmp_path / "x.safetensors"
    cut.write_bytes(b"\x10\x00\x00")
    with pytest.raises(UserError, match=r"x.safetensors: damaged or cut off"):
        read_weights(cut)
    state = small_model(**SQUARE).state_dict()
    del state["head.bias"]
    write(tmp_path / "y.bin", state)
    with pytest.raises(UserError, match=r"y.bin: head.bias is missing"):
        config_of(read_weights(tmp_path / "y.bin"))
