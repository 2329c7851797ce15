"""Foreign weights become model folders; what they are, and what they lack, is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from channel_prune import convert
from channel_prune.classifier import Classifier
from channel_prune.config import NetConfig
from channel_prune.files.original import write_original
from channel_prune.files.saved import Saved
from channel_prune.model import build
from channel_prune.model.names import to_original
from prunelab.data import cifar
from prunelab.errors import UserError
from prunelab.surgery import shrink
from testing.mistakes import Fails

NETS = {
    "resnet_v2": NetConfig(name="resnet_v2", resnet_size=8, width_divisor=4),
    "resnet_v1": NetConfig(name="resnet_v1", resnet_size=8, width_divisor=4),
    "mobilenet_v1": NetConfig(
        name="mobilenet_v1",
        mobilenet_depth_mult=0.25,
        dataset_form="ilsvrc12",
        nb_classes=1001,
        image_size=224,
    ),
    "ssd_vgg16": NetConfig(name="ssd_vgg16", nb_classes=21, image_size=300, width_divisor=32),
}


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(NETS[name])


@pytest.mark.parametrize("name", NETS)
def test_the_originals_file_goes_through_a_model_folder_unchanged(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(name)
    source = write_original(tmp_path / "models" / "model.ckpt-100", model, pruned=True, step=100)
    convert.main([str(source), str(tmp_path / "out")])
    said = capsys.readouterr().out
    kind = "a checkpoint of PyTorch" if name == "resnet_v1" else "a TensorFlow checkpoint"
    for part in (
        kind,
        f"recognised: {name}",
        f"{NETS[name].nb_classes} classes",
        "unused keys: none",
        "written",
    ):
        assert part in said
    assert "missing keys, left as they were: none" in said
    found = Saved.read(tmp_path / "out")
    assert found.net == NETS[name]
    assert len(found.classes) == NETS[name].nb_classes
    again = write_original(tmp_path / "again" / "model.ckpt-100", found.model, pruned=True, step=100)
    for file in (tmp_path / "models").iterdir():
        if name != "resnet_v1" or file.name == again.name:
            assert (tmp_path / "again" / file.name).exists()
    for key, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value), key
    if name != "resnet_v1":
        data = "model.ckpt-100.data-00000-of-00001"
        assert (tmp_path / "again" / data).read_bytes() == (tmp_path / "models" / data).read_bytes()


def test_classes_and_pictures_are_those_of_the_published_network(tmp_path: Path) -> None:
    for name in NETS:
        source = write_original(tmp_path / f"{name}.npz", network(name), pruned=False)
        assert source.suffix == (".th" if name == "resnet_v1" else ".npz")
        convert.main([str(source), str(tmp_path / name)])
    found = {name: Saved.read(tmp_path / name) for name in NETS}
    assert found["resnet_v2"].classes == cifar.CLASSES
    assert found["mobilenet_v1"].classes[:2] == ("background", "tench")
    assert found["ssd_vgg16"].classes[-1] == "tvmonitor"
    assert {name: saved.preprocess.side for name, saved in found.items()} == {
        name: net.image_size for name, net in NETS.items()
    }
    means = {name: saved.preprocess.colours.mean for name, saved in found.items()}
    assert means["resnet_v1"] != means["resnet_v2"]
    assert found["ssd_vgg16"].preprocess.bgr


def test_missing_and_unused_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = to_original(network("resnet_v2"))
    del arrays["resnet_model/batch_normalization/gamma"]
    np.savez(tmp_path / "a.npz", **arrays, **{"model/strange": np.zeros(2, np.float32)})  # type: ignore[arg-type]
    convert.main([str(tmp_path / "a.npz"), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "missing keys, left as they were: stages.0.0.bn1.weight" in said
    assert "unused keys: strange" in said


def test_a_dry_run_writes_nothing_and_a_model_folder_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_original(tmp_path / "a.npz", network("resnet_v2"), pruned=False)
    convert.main([str(tmp_path / "a.npz"), str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()
    convert.main([str(tmp_path / "a.npz"), str(tmp_path / "out")])
    convert.main([str(tmp_path / "out"), str(tmp_path / "copy")])
    assert "a model folder: resnet_v2-8, 10 classes (cifar10), widths divided by 4" in capsys.readouterr().out
    assert Saved.read(tmp_path / "copy").net == NETS["resnet_v2"]


def test_a_named_network_of_another_package_takes_its_weights(tmp_path: Path) -> None:
    net = NetConfig(name="timm:resnet10t", nb_classes=6, image_size=224, dataset_form="ilsvrc12")
    torch.manual_seed(0)
    torch.save(build(net).state_dict(), tmp_path / "timm.pth")
    convert.main([str(tmp_path / "timm.pth"), str(tmp_path / "out"), "--net", "timm:resnet10t"])
    found = Saved.read(tmp_path / "out")
    assert found.net == net
    assert found.classes == tuple(f"class {number}" for number in range(6))


def test_a_slim_network_is_no_file_of_the_original(tmp_path: Path) -> None:
    model = network("resnet_v2")
    small = shrink(model, torch.zeros(1, 3, 32, 32), {"stages.0.0.conv1": {"in": [0, 1]}})
    with pytest.raises(UserError, match="the network is slim, expected a full one"):
        write_original(tmp_path / "a.npz", small.model, pruned=True)


def test_mistakes_are_one_line(tmp_path: Path, fails: Fails) -> None:
    nothing, file, out = (str(tmp_path / name) for name in ("nothing", "a.npz", "out"))
    assert "nothing" in fails(convert.main, [nothing, out], "no network there")
    write_original(tmp_path / "a.npz", network("resnet_v2"), pruned=False)
    said = "weights of resnet_v2, expected those of mobilenet_v1"
    assert "a.npz" in fails(convert.main, [file, out, "--net", "mobilenet_v1"], said)


@pytest.mark.data
def test_the_published_resnet_of_cifar_is_recognised_and_answers(real_data: Path, tmp_path: Path) -> None:
    file, pictures = real_data / "resnet_cifar10/resnet20-12fca82f.th", real_data / "cifar10/test.npz"
    for needed in (file, pictures):
        if not needed.is_file():
            pytest.skip(f"needs real data: {needed} is missing")
    convert.main([str(file), str(tmp_path / "out")])
    found = Saved.read(tmp_path / "out")
    assert (found.net, found.classes) == (NetConfig(name="resnet_v1"), cifar.CLASSES)
    assert found.notes["best_prec1"] == pytest.approx(91.78)
    with np.load(pictures) as archive:
        labels, ends, jpeg = archive["label"], archive["offset"], archive["jpeg"]
    some = [place for label in range(10) for place in np.flatnonzero(labels == label)[:100]]
    images = [Image.open(io.BytesIO(jpeg[ends[i] : ends[i + 1]].tobytes())) for i in some]
    answers = Classifier(saved=found).probabilities(images).argmax(1).numpy()
    right = int((answers == labels[some]).sum())
    assert abs(right - 804) < 10  # of all 10,000 pictures 8103
