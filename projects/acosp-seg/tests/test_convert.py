"""Published files become model folders; what they are, and what they lack, is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from acosp.inject import soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp_seg import convert
from acosp_seg.config import ModelConfig
from acosp_seg.model import build
from acosp_seg.model.network import Network
from acosp_seg.model.original import write_original
from acosp_seg.recognise import config_of, recognise
from acosp_seg.segmenter import Segmenter

NETWORKS = {
    "psp": ModelConfig(arch="psp", classes=19, width=8),
    "segnet": ModelConfig(arch="segnet", layers=None, classes=11, width=8),
    "resnet18": ModelConfig(arch="resnet18", layers=None, classes=10, width=8),
}


def network(arch: str, layout: str = "dense") -> Network:
    torch.manual_seed(0)
    model = build(NETWORKS[arch])
    if layout != "dense":
        pruner = SoftTopKPruner(0.5, 5, min_remaining_elements=2)
        pruner.configure_model(model)
    if layout == "hard":
        soft_to_hard_k(model)
    return model


def published(path: Path, model: Network) -> Path:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    write_original(path, 7, model, optimizer)
    return path


@pytest.mark.parametrize("layout", ["dense", "soft", "hard"])
@pytest.mark.parametrize("arch", ["psp", "segnet"])
def test_a_checkpoint_of_the_original_keeps_every_value(
    arch: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(arch, layout)
    source = published(tmp_path / "train_epoch_7.pth", model)
    convert.main([str(source), str(tmp_path / "out")])
    said = capsys.readouterr().out
    for part in (
        "a checkpoint of the original",
        f"recognised: {arch}",
        layout,
        "unused keys: none",
        "written",
    ):
        assert part in said
    assert "missing keys, left as they were: none" in said
    found = Segmenter.from_pretrained(tmp_path / "out")
    assert (found.layout, found.config.model.classes) == (layout, NETWORKS[arch].classes)
    own, wanted = found.model.state_dict(), model.state_dict()
    assert own.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=0)


def test_the_classifier_and_its_masks_are_recognised(tmp_path: Path) -> None:
    for layout in ("dense", "soft", "hard"):
        model = network("resnet18", layout)
        found = recognise(model.state_dict(), where="x")
        assert found == NETWORKS["resnet18"]
    torch.save(model.state_dict(), tmp_path / "hard.pth")
    convert.main([str(tmp_path / "hard.pth"), str(tmp_path / "out")])
    assert Segmenter.from_pretrained(tmp_path / "out").config.data.dataset == "cifar10"


def test_initial_weights_of_a_trunk_leave_the_heads_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = network("psp").state_dict()
    names = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}
    trunk = {}
    for name, value in small.items():
        head, _, rest = name.partition(".")
        if head == "layer0":
            number, _, last = rest.partition(".")
            trunk[f"{names[int(number)]}.{last}"] = value
        elif head.startswith("layer"):
            trunk[name] = value
    torch.save(trunk | {"fc.weight": torch.zeros(3, 8), "fc.bias": torch.zeros(3)}, tmp_path / "trunk.pth")
    file = tmp_path / "psp.yaml"
    file.write_text("ALL:\n  arch: psp\n  classes: 19\n  width: 8\n  data_root: my\n", encoding="utf-8")
    convert.main([str(tmp_path / "trunk.pth"), str(tmp_path / "out"), "--config", str(file)])
    said = capsys.readouterr().out
    assert "initial weights of a ResNet trunk" in said
    assert "unused keys: fc.weight, fc.bias" in said
    assert "missing keys, left as they were: ppm.features.0.1.weight" in said
    state = Segmenter.from_pretrained(tmp_path / "out").model.state_dict()
    torch.testing.assert_close(state["layer4.2.conv3.weight"], trunk["layer4.2.conv3.weight"])


def test_vgg16_of_torchvision_becomes_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        layers = torchvision.models.vgg16().features
    weights = {f"features.{name}": torch.zeros(value.shape) for name, value in layers.state_dict().items()}
    torch.save(weights, tmp_path / "vgg16.pth")
    convert.main([str(tmp_path / "vgg16.pth"), str(tmp_path / "out"), "--dry-run"])
    said = capsys.readouterr().out
    assert "torchvision's VGG16" in said
    assert "recognised: segnet, 19 classes (cityscapes), dense" in said
    assert "up1.convs" in said or "down1.conv1.cbr_unit.1" in said
    assert not (tmp_path / "out").exists()


def test_a_model_folder_is_copied_and_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config_of(NETWORKS["segnet"])
    Segmenter(model=network("segnet"), config=cfg).save_pretrained(tmp_path / "run/best")
    convert.main([str(tmp_path / "run"), str(tmp_path / "out")])
    assert "a model folder: segnet, dense" in capsys.readouterr().out
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: torch.save({"a": torch.zeros(1)}, path),
            "expected those of PSPNet-50, SegNet or ResNet-18",
        ),
        (lambda path: path.write_bytes(b"x"), "no file of weights"),
        (lambda path: None, "no model there"),
    ],
)
def test_what_is_no_published_file_is_one_line(
    make: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a.pth")  # type: ignore[operator]
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in shown
    assert "a.pth" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_network_than_the_configurations_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(tmp_path / "a.pth", network("segnet"))
    file = tmp_path / "psp.yaml"
    file.write_text("ALL:\n  arch: psp\n  classes: 11\n  data_root: my\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        convert.main([str(source), str(tmp_path / "out"), "--config", str(file)])
    assert "a network with arch segnet, expected psp" in capsys.readouterr().err


def test_sizes_follow_the_published_data_set_of_the_classes() -> None:
    segnet = config_of(ModelConfig(arch="segnet", layers=None, classes=11))
    assert (segnet.test.base_size, segnet.test.test_h, segnet.test.test_w) == (480, 360, 480)
    assert (segnet.data.dataset, segnet.data.ignore_label) == ("camvid", 11)
    own = config_of(ModelConfig(arch="psp", classes=7))
    assert (own.data.dataset, own.test.test_h) == ("folder", 473)
    with torch.device("meta"):
        full = build(ModelConfig(arch="psp", classes=150))
    assert config_of(recognise(full.state_dict(), where="x")).data.dataset == "ade20k"
