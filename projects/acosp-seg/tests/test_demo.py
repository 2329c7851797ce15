"""``demo`` on files, folders and patterns, by our own flags and by the original's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from torch import nn

from acosp.pruner import SoftTopKPruner
from acosp_seg import demo as program
from acosp_seg.config import Config, DataConfig, ModelConfig, QuirkConfig, TestConfig
from acosp_seg.demo import chosen, labels_of
from acosp_seg.model import build
from acosp_seg.options import DemoOptions
from acosp_seg.predict import Predictor
from acosp_seg.segmenter import Segmenter, windows_of
from prunelab.errors import UserError


def configuration(**test: object) -> Config:
    settings = {"base_size": 40, "test_h": 32, "test_w": 32, **test}
    return Config(
        model=ModelConfig(arch="segnet", layers=None, classes=3, width=8),
        data=DataConfig(dataset="folder", names_path="", colors_path=""),
        test=TestConfig(**settings),  # type: ignore[arg-type]
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    cfg = configuration()
    return Segmenter(
        model=build(cfg.model).eval(), config=cfg, names=("sky", "road", "tree")
    ).save_pretrained(tmp_path / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures of different kinds and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name, size in (("a.v1.png", (40, 50)), ("more/b.jpg", (33, 20))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_files_and_folders_become_overlays_and_label_maps(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    program.main([str(pictures), *where, "--opacity", "0.7"])
    files = {f"{name}_{kind}.png" for name in ("a.v1", "b") for kind in ("gray", "color", "overlay")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    with Image.open(tmp_path / "out" / "a.v1_gray.png") as gray:
        assert gray.size == (50, 40)
    printed = capsys.readouterr().out
    assert "a.v1.png: mostly " in printed
    program.main([str(pictures / "more" / "b.jpg"), "--model", str(model), "--output", str(tmp_path / "one")])
    assert len(list((tmp_path / "one").iterdir())) == 3


def test_the_originals_way_to_call_it_works(model: Path, pictures: Path, tmp_path: Path) -> None:
    content = {
        "DATA": {"classes": 3, "data_root": str(pictures)},
        "TRAIN": {"arch": "segnet", "width": 8, "train_h": 32, "train_w": 32, "ignore_label": 255},
        "TEST": {
            "base_size": 40,
            "test_h": 32,
            "test_w": 32,
            "scales": [0.5, 1.0],
            "model_path": str(model),
            "demo_save_path": str(tmp_path / "typed over"),
        },
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    words = ["--config", str(tmp_path / "c.yaml"), "--image-dir", str(pictures / "*"), "--device", "cpu"]
    program.main([*words, "--dry-run"])
    assert not (tmp_path / "out").exists()
    program.main([*words, "demo_save_path", str(tmp_path / "out"), "scales", "[1.0]"])
    # A file of the original means its quirks: names are cut at the first dot.
    assert {path.name for path in (tmp_path / "out").glob("*_gray.png")} == {"a_gray.png"}
    program.main([*words, "--preset", "fixed", "--output", str(tmp_path / "fixed")])
    assert {path.name for path in (tmp_path / "fixed").glob("*_gray.png")} == {"a.v1_gray.png"}


def test_the_masks_of_a_pruned_network_are_plotted_beside_the_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configuration()
    network = build(cfg.model)
    SoftTopKPruner(0.5, 10, min_remaining_elements=2).configure_model(network)
    Segmenter(model=network.eval(), config=cfg).save_pretrained(tmp_path / "soft")
    where = ["--model", str(tmp_path / "soft"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    program.main([str(pictures / "a.v1.png"), *where])
    assert f"masks: {tmp_path / 'out' / 'masks.png'}" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "masks.png") as plot:
        assert plot.width > plot.height > 300


def test_a_classifier_names_the_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = Config(
        model=ModelConfig(arch="resnet18", layers=None, classes=10, width=8),
        data=DataConfig(dataset="cifar10", names_path="", colors_path=""),
        test=TestConfig(base_size=32, test_h=32, test_w=32),
    )
    m = Segmenter(model=build(cfg.model).eval(), config=cfg)
    m.save_pretrained(tmp_path / "m")
    program.main([str(pictures), "--model", str(tmp_path / "m"), "--device", "cpu"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all(line.rpartition(": ")[2] in m.names for line in printed)


def test_all_scales_are_averaged_and_the_last_one_alone_counts_as_the_quirk_says() -> None:
    loudest = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.eye_(loudest.weight.data[:, :, 0, 0])
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    cfg = configuration(scales=(1.0, 0.5))
    predictor = Predictor(loudest, windows_of(cfg))
    mean = labels_of(predictor, image, cfg)
    assert np.array_equal(mean, predictor.labels(image))
    quirk = configuration(scales=(1.0, 0.5))
    object.__setattr__(quirk, "quirks", QuirkConfig(demo_last_scale=True))
    last = labels_of(predictor, image, quirk)
    assert not np.array_equal(last, mean)
    small = cv2.resize(image, (20, 20), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    assert np.array_equal(last, predictor.at_scale(small, (40, 40)).argmax(dim=2).numpy())


def test_of_many_matches_the_originals_demo_draws_forty_and_ours_takes_all(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}.png").touch()
    options = DemoOptions(image_dir=str(tmp_path / "*.png"))
    assert len(chosen(options, drawn=False)) == 50
    drawn = chosen(options, drawn=True)
    assert drawn[:3] == [tmp_path / f"{n}.png" for n in (38, 28, 14)]
    assert len(drawn) == len(set(np.random.RandomState(42).choice(50, 40).tolist()))
    assert len(chosen(DemoOptions(image_dir=str(tmp_path)), drawn=False)) == 50


def test_a_pattern_without_pictures_is_refused_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"expected .jpg or .png files"):
        chosen(DemoOptions(image_dir=str(tmp_path / "*.png")), drawn=False)
    with pytest.raises(SystemExit):
        program.main([str(tmp_path / "nothing.png"), "--model", str(model), "--device", "cpu"])
    assert capsys.readouterr().err == f"error: {tmp_path}/nothing.png: no such picture\n"
