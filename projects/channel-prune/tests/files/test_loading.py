"""Networks by their place, and what each way of saving them gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import channel_prune
from channel_prune.classifier import Classifier
from channel_prune.config import NetConfig
from channel_prune.detector import Detector
from channel_prune.files.loading import find_model, load, load_network
from channel_prune.files.original import write_original
from channel_prune.files.saved import Saved
from channel_prune.model import build
from channel_prune.preprocess import Preprocess
from prunelab.errors import UserError

TINY = NetConfig(name="tiny")
SSD = NetConfig(name="ssd_vgg16", nb_classes=4, image_size=64, width_divisor=32)


def network(net: NetConfig = TINY) -> nn.Module:
    torch.manual_seed(0)
    return build(net)


def folder(path: Path, net: NetConfig = TINY) -> Path:
    preprocess = Preprocess(side=net.image_size, shorter=net.image_size, recipe="small")
    names = tuple(f"kind {number}" for number in range(net.nb_classes))
    saved = Saved(model=network(net), net=net, preprocess=preprocess, classes=names, notes={"step": 3})
    return saved.save(path)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    place = folder(tmp_path / "model")
    found = Saved.read(place)
    assert (found.net, found.notes, found.classes[3]) == (TINY, {"step": 3}, "kind 3")
    assert found.preprocess.side == 32
    for name, value in network().state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)
    assert not found.model.training
    assert "kind: channel-prune" not in (place / "README.md").read_text()
    assert "channel_prune.load" in (place / "README.md").read_text()


def test_the_best_network_of_a_run_is_meant_and_the_slim_one_for_use(tmp_path: Path) -> None:
    for name in ("slim", "last"):
        folder(tmp_path / "run" / name)
    assert find_model(tmp_path / "run") == tmp_path / "run" / "last"
    folder(tmp_path / "run" / "best")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "best"
    assert find_model(tmp_path / "run", slim=True) == tmp_path / "run" / "slim"
    with pytest.raises(UserError, match="nowhere: no network there, expected a model folder, a run"):
        find_model(tmp_path / "nowhere")


def test_python_loads_models_runs_and_foreign_files(tmp_path: Path) -> None:
    folder(tmp_path / "run" / "best")
    write_original(tmp_path / "models" / "model.ckpt-5", network(), pruned=True, step=5)
    picture = Image.new("RGB", (40, 50), (200, 30, 10))
    answers = []
    for place in (tmp_path / "run", tmp_path / "run" / "best", tmp_path / "models" / "model.ckpt-5"):
        found = channel_prune.load(place)
        assert isinstance(found, Classifier)
        answers.append(found.classify(picture, top=1)[0])
    assert answers[0] == answers[1]
    assert answers[2][0] != answers[0][0], "the file does not know the names, CIFAR-10's are taken"
    assert isinstance(load(folder(tmp_path / "ssd", SSD)), Detector)
    with pytest.raises(UserError, match="no such folder"):
        load("./nothing-here")


@pytest.mark.parametrize("suffix", ["model.ckpt-0", "model.npz"])
def test_weights_of_the_original_load_into_the_configured_network(suffix: str, tmp_path: Path) -> None:
    write_original(tmp_path / suffix, network(), pruned=False)
    for place in (tmp_path / suffix, tmp_path):
        model = load_network(place, TINY)
        assert torch.equal(model.state_dict()["conv.weight"], network().state_dict()["conv.weight"])
        assert not model.training


@pytest.mark.parametrize(
    ("net", "line"),
    [
        (NetConfig(name="resnet_v2", resnet_size=8), "a network with name tiny, expected resnet_v2"),
        (NetConfig(name="tiny", nb_classes=3), "a network with nb_classes 10, expected 3 as configured"),
        (
            NetConfig(name="tiny", width_divisor=2),
            r"of another shape: conv.weight 8x3x3x3 .* 4x3x3x3 in the model",
        ),
    ],
)
def test_another_network_is_told_by_what_differs(net: NetConfig, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        load_network(folder(tmp_path / "model"), net)


def test_building_needs_nothing_but_a_name() -> None:
    model = channel_prune.build("resnet_v1", resnet_size=8, nb_classes=4)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert channel_prune.__version__.count(".") == 2
    with pytest.raises(UserError, match="did you mean resnet_v"):
        channel_prune.build("resnet_v3")
