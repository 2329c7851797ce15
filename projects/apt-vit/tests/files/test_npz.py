"""Google's files: keys that are missing, damaged files, weights of other networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apt_vit.config import ResNetConfig
from apt_vit.files.npz import load_npz
from prunelab.errors import UserError

from ..google_files import npz_of
from ..small import small_model

HYBRID = {
    "patch_size": None,
    "patch_grid": (2, 2),
    "resnet": ResNetConfig(num_layers=(1, 1, 1), width_factor=0.5),
    "img_size": (32, 32),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.npz"


@pytest.mark.parametrize("sizes", [{}, HYBRID], ids=["plain", "hybrid"])
def test_weights_come_back_and_agents_stay(file: Path, sizes: dict[str, object]) -> None:
    source, target = small_model(**sizes), small_model(seed=1, **sizes)
    agents = {name: value.clone() for name, value in target.state_dict().items() if "clip_layer" in name}
    npz_of(source, file)

    loaded = load_npz(target, file, zero_head=False)

    assert loaded.unused == ("pre_logits/bias",)
    assert loaded.missing == tuple(agents)
    for name, value in target.state_dict().items():
        assert torch.equal(value, agents.get(name, source.state_dict()[name])), name


def test_the_head_is_zeros_unless_it_is_asked_for(file: Path) -> None:
    source, target = small_model(num_classes=7), small_model(seed=1)
    npz_of(source, file)
    loaded = load_npz(target, file)
    assert target.head.weight.abs().sum() == target.head.bias.abs().sum() == 0
    assert loaded.unused == ("head/bias", "head/kernel", "pre_logits/bias")
    with pytest.raises(UserError, match=r"head.weight 7x24 in the file and 5x24 in the model"):
        load_npz(target, file, zero_head=False)


def test_missing_keys_are_named_with_the_file_that_is_expected(file: Path) -> None:
    npz_of(small_model(), file)
    hybrid = small_model(**HYBRID, model_type="R50-ViT-B_16")
    said = r"\d+ keys missing: conv_root/kernel, .*, gn_root/bias, ..., expected those of R50\+ViT-B_16.npz"
    with pytest.raises(UserError, match=said):
        load_npz(hybrid, file)
    arrays = npz_of(small_model(), file)
    del arrays["Transformer/encoderblock_3/MlpBlock_3/Dense_1/kernel"]
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    named = small_model(model_type="ViT-B_16")
    with pytest.raises(
        UserError, match=r"1 keys missing: Transformer/encoderblock_3/.*, expected those of ViT-B_16"
    ):
        load_npz(named, file)
    with pytest.raises(UserError, match="expected google's weights of a ViT with 6 blocks"):
        load_npz(small_model(), file)


def test_weights_of_another_width_and_odd_axes_are_refused(file: Path) -> None:
    arrays = npz_of(small_model(hidden_size=12), file)
    with pytest.raises(UserError, match=r"weights of another model: \d+ of another shape"):
        load_npz(small_model(), file)
    arrays["embedding/kernel"] = np.zeros(3, np.float32)
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"embedding/kernel has the shape \(3,\), expected"):
        load_npz(small_model(), file)


def test_missing_damaged_and_pickled_files_get_one_line(file: Path) -> None:
    with pytest.raises(UserError, match="no such file, expected google's weights"):
        load_npz(small_model(), file)
    npz_of(small_model(), file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        load_npz(small_model(), file)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    file.write_bytes(flipped)
    with pytest.raises(UserError, match="damaged or cut off"):
        load_npz(small_model(), file)
    np.savez(file, objects=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="damaged or cut off, expected an npz file of arrays alone"):
        load_npz(small_model(), file)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UserError, match="expected an npz file of arrays alone"):
        load_npz(small_model(), file)
