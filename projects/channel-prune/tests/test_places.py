"""Networks and data sets imply each other, and lie where the original or the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from channel_prune import layout
from prunelab.errors import UserError

from .commands import PRUNED, base, changed, typed

pytestmark = pytest.mark.usefixtures("alone")


def test_network_and_data_set_imply_each_other() -> None:
    for words, name, dataset in (
        ("--net resnet_v1", "resnet_v1", "cifar10"),
        ("--net mobilenet_v2", "mobilenet_v2", "ilsvrc12"),
        ("--net torchvision:resnet18", "torchvision:resnet18", "ilsvrc12"),
        ("--net ssd_vgg16", "ssd_vgg16", "voc"),
        ("--net tiny", "tiny", "tiny"),
        ("--dataset voc", "ssd_vgg16", "voc"),
        ("--dataset tiny_voc", "ssd_vgg16", "tiny_voc"),
        ("--dataset tiny", "tiny", "tiny"),
        ("--dataset ilsvrc12", "resnet_v2", "ilsvrc12"),
        ("--net timm:resnet18 --dataset cifar10", "timm:resnet18", "cifar10"),
    ):
        cfg = typed(words)
        assert (cfg.net.name, cfg.data.dataset) == (name, dataset)


def test_networks_of_other_packages_see_pictures_as_they_learnt_them() -> None:
    foreign, own = typed("--net torchvision:resnet18"), base("resnet_at_ilsvrc12")
    assert (foreign.data.pixels, foreign.net.nb_classes, foreign.data.label_offset) == ("imagenet", 1000, 0)
    assert (own.data.pixels, own.net.nb_classes, own.data.label_offset) == ("original", 1001, 1)
    assert typed("--nb_classes=1000", "resnet_at_ilsvrc12").data.label_offset == 0
    assert typed("--net resnet_v1").data.pixels == "imagenet"


def test_a_folder_of_pictures_says_how_many_classes_it_has(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for name in ("dog", "cat"):
            (tmp_path / f"pets/{split}/{name}").mkdir(parents=True)
            for number in range(count):
                (tmp_path / f"pets/{split}/{name}/{number}.jpg").touch()
    words = "--net torchvision:resnet18 --dataset folder --data-dir"
    both, one = typed(f"{words} pets"), typed(f"{words} pets/val")
    assert (both.net.nb_classes, both.data.nb_smpls_train, both.data.label_offset) == (2, 6, 0)
    assert (one.net.nb_classes, one.data.nb_smpls_train) == (2, 2)
    assert typed(f"{words} missing").net.nb_classes == 1000
    assert typed(f"{words} pets --nb_classes=5").net.nb_classes == 5


def test_names_of_classes_give_their_number() -> None:
    own = typed("--class-names RBC,WBC,Platelets --data_dir_local=bccd", "vgg_at_pascalvoc")
    assert (own.net.nb_classes, own.data.class_names) == (4, ("RBC", "WBC", "Platelets"))


def test_places_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PROJECT", tmp_path / "project")
    assert base("vgg_at_pascalvoc").data.data_dir == "data/voc"
    monkeypatch.setenv("PRUNELAB_DATA", "/sets")
    assert base("resnet_at_cifar10").data.data_dir == "/sets/cifar10"
    (tmp_path / "project").mkdir()
    conf = (
        "# places\ndata_dir_local_cifar10 = /a # here\ndata_dir_seven_cifar10 = '/b'\n"
        "data_dir_local_pascalvoc = /c\ndata_dir_local_ilsvrc12 = None\nmodel_http_url = None\n"
    )
    (tmp_path / "project/path.conf").write_text(conf)
    assert base("resnet_at_cifar10").data.data_dir == "/a"
    assert base("vgg_at_pascalvoc").data.data_dir == "/c"
    assert base("resnet_at_ilsvrc12").data.data_dir == "/sets/ilsvrc12"
    assert typed("--data_dir_local=/mine", "resnet_at_cifar10").data.data_dir == "/mine"
    monkeypatch.setenv("CHANNEL_PRUNE_MODE", "seven")
    assert base("resnet_at_cifar10").data.data_dir == "/b"
    (tmp_path / "path.conf").write_text("data_dir_seven_cifar10 /d\n")
    with pytest.raises(UserError, match=r"path\.conf, line 1: .*expected KEY = VALUE"):
        base("resnet_at_cifar10")
    monkeypatch.setenv("CHANNEL_PRUNE_MODE", "moon")
    with pytest.raises(UserError, match="CHANNEL_PRUNE_MODE is 'moon'"):
        base("resnet_at_cifar10")


def test_places_of_networks_are_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, pruned = base("resnet_at_cifar10"), typed(PRUNED, "resnet_at_cifar10")
    assert layout.run_folder(full) == layout.full_model(pruned) == layout.teacher(pruned) == Path("models")
    assert layout.run_folder(pruned) == Path("models_cpr")
    assert layout.chosen_folder(pruned) == Path("models_cpr_ws")
    ours = changed(pruned, output="x", weights="w.th")
    assert (layout.run_folder(ours), layout.chosen_folder(ours)) == (Path("x"), Path("x/chosen"))
    assert layout.full_model(ours) == Path("w.th")
    assert layout.chosen_folder(changed(ours, save_path_ws="old/model.ckpt")) == Path("old")
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    assert layout.run_folder(pruned) == tmp_path / "runs/models_cpr"
    (tmp_path / "models_dst").mkdir()
    assert layout.teacher(pruned) == Path("models_dst")
    assert layout.place("models_dst") == Path("models_dst")
    assert layout.place("/a/b") == Path("/a/b")
