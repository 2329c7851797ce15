"""Foreign files: read by what they hold, and put into networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from channel_prune.config import NetConfig
from channel_prune.files.original import write_original
from channel_prune.files.weights import fill, find_weights, read_weights
from channel_prune.model import build
from channel_prune.model.names import to_original
from prunelab.errors import UserError

TINY = NetConfig(name="tiny")


def network(net: NetConfig = TINY, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(net)


def test_each_kind_of_file_gives_the_same_network(tmp_path: Path) -> None:
    model = network()
    state = model.state_dict()
    files = {
        "torch": tmp_path / "a.pth",
        "legacy": tmp_path / "b.th",
        "wrapped": tmp_path / "c.bin",
        "safetensors": tmp_path / "d.safetensors",
        "arrays": tmp_path / "e.npz",
        "original": tmp_path / "f.npz",
        "tensorflow": tmp_path / "models" / "model.ckpt-3",
    }
    torch.save(state, files["torch"])
    torch.save({"epoch": 3, "state_dict": state}, files["legacy"], _use_new_zipfile_serialization=False)
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, files["wrapped"])
    save_file(state, files["safetensors"])
    np.savez(files["arrays"], **{name: value.numpy() for name, value in state.items()})  # type: ignore[arg-type]
    write_original(files["original"], model, pruned=False)
    write_original(files["tensorflow"], model, pruned=True, step=3)
    for kind, file in files.items():
        weights = read_weights(file)
        other = network(seed=1)
        loaded = fill(other, weights)
        assert not loaded.missing, kind
        assert not loaded.unused, kind
        assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items()), kind
    assert read_weights(files["legacy"]).notes == {"epoch": 3}
    assert read_weights(files["tensorflow"].parent).what == "a TensorFlow checkpoint"


def test_a_folder_means_the_one_file_of_weights_in_it(tmp_path: Path) -> None:
    assert find_weights(tmp_path) is None
    torch.save(network().state_dict(), tmp_path / "one.pth")
    assert find_weights(tmp_path) == tmp_path / "one.pth"
    torch.save(network().state_dict(), tmp_path / "two.pth")
    assert find_weights(tmp_path) is None


def test_files_without_weights_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no such file, expected weights"):
        read_weights(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("hello there, no weights in here")
    with pytest.raises(UserError, match="no file of weights, or cut off"):
        read_weights(tmp_path / "text.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(
        UserError, match=r"a whole pickled object \(it names torch.nn.modules.linear.Linear\)"
    ):
        read_weights(tmp_path / "whole.pth")
    for content, line in (
        ([1, 2], "holds a list, expected a checkpoint or a state dict"),
        ({"state_dict": {}}, "holds no weights"),
        ({"lr": 0.1}, "entry 'lr' is a float, expected tensors by name"),
    ):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(UserError, match=line):
            read_weights(tmp_path / "other.pth")
    np.savez(tmp_path / "objects.npz", words=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"objects\.npz: damaged, or not only arrays of numbers"):
        read_weights(tmp_path / "objects.npz")


def test_weights_of_another_network_are_refused_with_names_and_shapes(tmp_path: Path) -> None:
    write_original(tmp_path / "a.npz", network(NetConfig(resnet_size=8)), pruned=False)
    weights = read_weights(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"of another shape: conv.weight 16x3x3x3 in the file and 8x3x3x3"):
        fill(network(), weights)
    with pytest.raises(UserError, match=r"not in the model: resnet_model/\S+ .*of another shape|missing"):
        fill(network(NetConfig(resnet_size=14, width_divisor=2)), weights)
    with pytest.raises(UserError, match="expected a state dict: the original has no ResNetV1"):
        fill(network(NetConfig(name="resnet_v1", resnet_size=8)), weights)


def test_names_that_one_side_lacks_are_told_where_that_is_wanted(tmp_path: Path) -> None:
    arrays = to_original(network())
    arrays["resnet_model/extra"] = np.zeros(3, np.float32)
    del arrays["resnet_model/dense/bias"]
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    weights = read_weights(tmp_path / "a.npz")
    model = network(seed=1)
    loaded = fill(model, weights, strict=False)
    assert (loaded.missing, loaded.unused) == (("dense.bias",), ("resnet_model/extra",))
    assert torch.equal(model.state_dict()["conv.weight"], network().state_dict()["conv.weight"])
    with pytest.raises(
        UserError, match=r"1 missing: dense\.bias 10; 1 not in the model: resnet_model/extra 3"
    ):
        fill(model, weights)
    np.savez(tmp_path / "b.npz", **{"other/kernel": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="none of its weights belongs to ResNetV2: it has other/kernel"):
        fill(model, read_weights(tmp_path / "b.npz"), strict=False)
