"""The test program: slices, names, files, scores, classifiers, and what it refuses."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acosp_seg import test as program
from acosp_seg.config import Config, DataConfig, ModelConfig, QuirkConfig, RunOptions, TestConfig
from acosp_seg.draw import file_names
from acosp_seg.model import build
from acosp_seg.model.original import write_original
from acosp_seg.segmenter import Segmenter
from acosp_seg.steps import make_optimizer
from prunelab import dist
from prunelab.data import cifar
from prunelab.errors import UserError

SIZES = [(24, 32), (30, 20), (16, 16), (41, 33)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with label maps of three classes and void, and their list."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for number, size in enumerate(SIZES):
        label = rng.integers(0, 3, size, dtype=np.uint8)
        label[0] = 255
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"p{number}.x.png")
        Image.fromarray(label).save(folder / f"p{number}_label.png")
        lines.append(f"p{number}.x.png p{number}_label.png")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    """A tiny SegNet whose model folder lies beside the pictures."""
    cfg = Config(
        model=ModelConfig(arch="segnet", layers=None, classes=3, width=8),
        data=DataConfig(
            dataset="folder",
            data_root=str(data),
            test_list=str(data / "list.txt"),
            names_path="",
            colors_path="",
        ),
        test=TestConfig(
            base_size=40,
            test_h=32,
            test_w=32,
            model_path=str(tmp_path / "model"),
            save_folder=str(tmp_path / "result"),
            result_path=str(tmp_path / "scores" / "result.csv"),
        ),
        run=RunOptions(device="cpu"),
    )
    torch.manual_seed(0)
    Segmenter(model=build(cfg.model).eval(), config=cfg).save_pretrained(tmp_path / "model")
    return cfg


def changed(cfg: Config, group: str = "test", **values: Any) -> Config:
    return replace(cfg, **{group: replace(getattr(cfg, group), **values)})


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_label_maps_and_scores_are_written_and_are_those_of_the_segmenter(
    config: Config, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = program.test(config)
    assert sorted(p.name for p in (tmp_path / "result" / "gray").iterdir()) == [
        f"p{n}.x.png" for n in range(4)
    ]
    segmenter = Segmenter.from_pretrained(tmp_path / "model")
    for number in range(4):
        with Image.open(tmp_path / "result" / "gray" / f"p{number}.x.png") as gray:
            assert np.array_equal(gray, segmenter.segment(data / f"p{number}.x.png"))
    table = rows(tmp_path / "scores" / "result.csv")
    assert table[0] == ["class", "IoU", "Acc"]
    assert [row[0] for row in table[1:]] == ["mean", "class 0", "class 1", "class 2"]
    assert [float(text) for text in table[1][1:]] == [figures["mIoU"], figures["mAcc"]]
    printed = capsys.readouterr().out
    assert "picture 4/4" in printed
    assert f"allAcc {figures['allAcc']:.4f}" in printed


def test_predictions_that_are_there_are_scored_again_without_a_network(
    config: Config, tmp_path: Path
) -> None:
    first = program.test(config)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert program.test(changed(config, has_prediction=True)) == first
    (tmp_path / "result" / "gray" / "p2.x.png").unlink()
    with pytest.raises(UserError, match=r"p2.x.png: no such prediction, but has_prediction is true"):
        program.test(changed(config, has_prediction=True))


def test_a_slice_of_the_list_is_tested(config: Config, tmp_path: Path) -> None:
    program.test(changed(config, index_start=1, index_step=2, calc_results=False))
    assert sorted(p.name for p in (tmp_path / "result" / "gray").iterdir()) == ["p1.x.png", "p2.x.png"]
    assert not (tmp_path / "scores").exists()
    with pytest.raises(UserError, match=r"index_start is 4 and index_step 0: no picture left of 4 in"):
        program.test(changed(config, index_start=4))


def test_pictures_without_labels_are_predicted_and_not_scored(
    config: Config, data: Path, tmp_path: Path
) -> None:
    (data / "alone.txt").write_text("p0.x.png\np1.x.png\n")
    cfg = changed(config, "data", test_list=str(data / "alone.txt"), split="test")
    assert program.test(cfg) == {}
    assert len(list((tmp_path / "result" / "color").iterdir())) == 2
    assert not (tmp_path / "scores").exists()


def test_every_process_takes_its_share_and_each_picture_counts_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = program.test(config)
    parts: list[Any] = []
    for rank in (1, 0):
        folder = tmp_path / f"rank{rank}"
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(dist, "is_main", lambda rank=rank: rank == 0)
        monkeypatch.setattr(dist, "world_size", lambda: 2)

        def gather(items: list[Any]) -> list[Any]:
            parts.extend(items)
            return parts

        monkeypatch.setattr(dist, "gather_objects", gather)
        found = program.test(changed(config, save_folder=str(folder)))
        wanted = ["p1.x.png", "p3.x.png"] if rank else ["p0.x.png", "p2.x.png"]
        assert sorted(p.name for p in (folder / "gray").iterdir()) == wanted
    assert found == expected


def test_a_file_of_the_original_is_tested_like_a_folder(config: Config, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(tmp_path / "model")
    file = tmp_path / "train_epoch_7.pth"
    write_original(file, 7, segmenter.model, make_optimizer(segmenter.model, config.optim))  # type: ignore[arg-type]
    expected = program.test(config)
    assert program.test(changed(config, model_path=str(file))) == pytest.approx(expected, abs=1e-9)


def test_void_pixels_count_as_the_quirks_say(config: Config, data: Path, tmp_path: Path) -> None:
    for number in range(len(SIZES)):
        file = data / f"p{number}_label.png"
        with Image.open(file) as image:
            label = np.array(image)
        Image.fromarray(np.where(label == 255, 3, label).astype(np.uint8)).save(file)
    cfg = changed(config, "data", ignore_label=3)
    right = program.test(cfg)
    published = program.test(replace(cfg, quirks=QuirkConfig(void_in_metrics=True)))
    assert published["mIoU"] < right["mIoU"]
    with pytest.raises(UserError, match="label values 3, expected 0 to 2 and 255 for void"):
        program.test(config)
    quirk = replace(config, quirks=QuirkConfig(void_below_classes=True))
    program.test(changed(quirk, "data", ignore_label=2))
    *_, last = rows(tmp_path / "scores" / "result.csv")
    assert float(last[2]) == pytest.approx(1)  # all of its pixels are said to be right


def test_two_pictures_of_one_name_are_refused_unless_the_original_is_followed() -> None:
    pictures = [Path("a/x.v1.png"), Path("b/x.v1.jpg")]
    with pytest.raises(UserError, match=r"^b/x.v1.jpg and a/x.v1.png have one name, expected"):
        file_names(pictures, cut_at_dot=False)
    assert file_names(pictures, cut_at_dot=True) == ["x", "x"]
    assert file_names([Path("a/x.v1.png"), Path("a/x.v2.png")], cut_at_dot=False) == ["x.v1", "x.v2"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"group": "model", "classes": 4}, r"model: a network with classes 3, expected 4 as configured"),
        ({"model_path": "nowhere"}, r"nowhere: no model there, expected a model folder"),
        ({"group": "data", "test_list": "nowhere.txt"}, r"nowhere.txt: no such list file"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(config: Config, change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        program.test(changed(config, change.pop("group", "test"), **change))


def test_a_label_map_of_another_size_than_the_prediction_is_refused(config: Config, tmp_path: Path) -> None:
    program.test(config)
    Image.new("L", (3, 3)).save(tmp_path / "result" / "gray" / "p0.x.png")
    with pytest.raises(UserError, match=r"label map of 24x32, expected 3x3 as the prediction has"):
        program.test(changed(config, has_prediction=True))


def test_a_classifier_is_scored_on_its_test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(
        model=ModelConfig(arch="resnet18", layers=None, classes=10, width=8),
        data=DataConfig(dataset="cifar10", fake_data=True, names_path="", colors_path="", workers=0),
        test=TestConfig(
            base_size=32,
            test_h=32,
            test_w=32,
            model_path=str(tmp_path / "model"),
            save_folder=str(tmp_path / "result"),
            result_path=str(tmp_path / "result.csv"),
        ),
        run=RunOptions(device="cpu"),
    )
    Segmenter(model=build(cfg.model).eval(), config=cfg).save_pretrained(tmp_path / "model")
    figures = program.test(cfg)
    table = rows(tmp_path / "result.csv")
    assert table[0] == ["class", "Acc"]
    assert [row[0] for row in table[2:]] == list(cifar.CLASSES)
    assert float(table[1][1]) == figures["mAcc"]


def test_the_command_can_print_its_configuration_and_try_it(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunelab.config import save_yaml, to_plain

    save_yaml(tmp_path / "config.yaml", to_plain(config))
    where = ["--config", str(tmp_path / "config.yaml"), "--model", str(tmp_path / "model")]
    program.main([*where, "--print-config"])
    assert "model_path:" in capsys.readouterr().out
    program.main([*where, "--dry-run"])
    assert "nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "result").exists()
    program.main([*where, "--output", str(tmp_path / "out"), "--max-steps", "1", "--device", "cpu"])
    assert len(list((tmp_path / "out" / "gray").iterdir())) == 1
