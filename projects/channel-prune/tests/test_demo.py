"""`demo` names what is on pictures, draws boxes, and says what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from channel_prune import demo
from channel_prune.classifier import Classifier
from channel_prune.cli import parse_demo
from channel_prune.config import Config, NetConfig
from channel_prune.detector import Detector
from channel_prune.files.saved import Saved
from channel_prune.lowering import lower_values
from channel_prune.model import build
from channel_prune.preprocess import preprocess_of
from prunelab.errors import UserError
from testing.mistakes import Fails

pytestmark = pytest.mark.usefixtures("alone")

NAMES = ("background", "cat", "dog", "fox")


def saved(cfg: Config, classes: tuple[str, ...]) -> Saved:
    torch.manual_seed(0)
    return Saved(
        model=build(cfg.net).eval(),
        net=cfg.net,
        preprocess=preprocess_of(cfg),
        classes=classes,
        dataset=cfg.data.dataset,
    )


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A tour's slim classifier, untrained, where the newest model is looked for."""
    cfg = lower_values({"name": "tiny"})
    place = tmp_path / "runs/tour-001/pruned/slim"
    return Classifier(saved=saved(cfg, tuple("abcdefghij"))).save_pretrained(place)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of the same name in different folders."""
    for name, size in (("one/pet.jpg", (60, 40)), ("two/pet.png", (33, 90))):
        (tmp_path / name).parent.mkdir()
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name)
    return tmp_path


def test_a_classifier_names_the_likeliest_classes(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(["one", "two/pet.png", "--top", "3", "--model", str(classifier)])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(": ")] == ["one/pet.jpg: ", "two/pet.png: "]
    shares = [float(line.split("%")[0]) for line in lines if line.startswith("  ")]
    assert len(shares) == 6
    assert shares[:3] == sorted(shares[:3], reverse=True)
    assert not Path("demo").exists()


def test_pictures_with_their_classes_are_written_on_demand(classifier: Path, pictures: Path) -> None:
    written = demo.demo(parse_demo(["one", "two", "--draw", "--output", "out"]))
    assert written == [Path("out/pet_found.png"), Path("out/pet_found2.png")]
    with Image.open(written[0]) as shown:
        assert shown.width >= 320


def test_without_files_the_newest_tour_sees_pictures_that_are_made(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main([])
    out = capsys.readouterr().out
    assert out.count("%") == demo.MADE * 5
    assert len(list(Path("demo").glob("shape*.png"))) == demo.MADE


def test_a_detector_draws_boxes(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = {"image_size": 160, "image_size_eval": 160, "width_divisor": 32, "class_names": NAMES[1:]}
    cfg = lower_values({"name": "ssd_vgg16", **net})
    Detector(saved=saved(cfg, NAMES)).save_pretrained("finder")
    demo.main(["one/pet.jpg", "--model", "finder", "--threshold", "0"])
    out = capsys.readouterr().out
    assert out.startswith("one/pet.jpg: ")
    assert out.endswith(" -> demo/pet_found.png\n")
    with Image.open("demo/pet_found.png") as shown:
        assert shown.width >= 60
    with pytest.raises(UserError, match="demo needs pictures, since this network learnt 'voc'"):
        demo.demo(parse_demo(["--model", "finder"]))


def test_what_is_missing_is_one_line(pictures: Path, fails: Fails) -> None:
    fails(demo.main, ["cat.jpg"], "runs holds no trained model: run `train` first")
    fails(demo.main, ["cat.jpg", "--model", "one"], "one: no network there")


def test_a_missing_picture_is_one_line(classifier: Path, fails: Fails) -> None:
    fails(demo.main, ["cat.jpg"], r"cat\.jpg: no such picture")
    Path("empty").mkdir()
    fails(demo.main, ["empty"], "empty: no pictures in it")


def test_dry_run_reads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["cat.jpg", "--dry-run"])
    assert "cat.jpg" in capsys.readouterr().out


def test_a_network_of_ten_classes_names_them(classifier: Path) -> None:
    assert Classifier.from_pretrained(classifier).saved.net == NetConfig(
        name="tiny", nb_classes=10, image_size=32
    )
