from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from channel_prune.config import Config, DataConfig, DetectConfig, NetConfig, QuirkConfig
from channel_prune.detect.anchors import anchors_of
from channel_prune.detect.dataset import VocDetection, open_voc
from channel_prune.detect.dump import pixel_boxes, write_detections
from channel_prune.detect.evaluate import DetectionEvaluator
from channel_prune.detect.matching import match
from channel_prune.preprocess import preprocess_of
from prunelab.data.loader import make_loader
from prunelab.data.synthetic import shapes

SIZE = 64
CFG = Config(
    net=NetConfig(name="ssd_vgg16", image_size=SIZE, nb_classes=4),
    data=DataConfig(dataset="tiny_voc"),
    detect=DetectConfig(image_size_eval=SIZE),
)


class Oracle(nn.Module):
    """Knows the objects of the pictures, in their order, and answers as a perfect network would."""

    def __init__(self, data: VocDetection, *, blind_to: int = 0) -> None:
        super().__init__()
        self.data, self.blind_to, self.next = data, blind_to, 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        numbers = range(self.next, self.next + len(x))
        self.next += len(x)
        _, targets = self.data.collate([self.data[number] for number in numbers])
        labels = targets["labels"].where(targets["labels"] != self.blind_to, 0)
        matches = match(targets["boxes"], labels, anchors_of(SIZE))
        logits = nn.functional.one_hot(matches.labels, len(self.data.classes) + 1).float() * 12
        return {"loc": matches.targets, "cls": logits}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> VocDetection:
    folder = shapes.write_voc(tmp_path_factory.mktemp("voc"), train=1, val=1, test=14, side=80)
    return open_voc(CFG, folder, preprocess_of(CFG))[1]["eval"]


def evaluator(data: VocDetection, cfg: Config = CFG, batch_size: int = 4) -> DetectionEvaluator:
    loader = make_loader(
        data, batch_size=batch_size, collate=data.collate, seed=0, shuffle=False, drop_last=False
    )
    return DetectionEvaluator(loader, cfg, torch.device("cpu"))


def test_a_perfect_answer_scores_one_and_a_blind_one_misses_its_class(data: VocDetection) -> None:
    found = dict(evaluator(data).run(Oracle(data)))
    assert set(found) == {"mAP", "AP/circle", "AP/triangle", "AP/cross"}
    assert found["mAP"] > 0.95
    blind = dict(evaluator(data).run(Oracle(data, blind_to=2)))
    assert blind["AP/triangle"] == 0
    assert blind["mAP"] == pytest.approx((blind["AP/circle"] + blind["AP/cross"]) / 3)


def test_the_batch_size_says_nothing_and_a_second_run_is_the_same(data: VocDetection) -> None:
    one = evaluator(data, batch_size=1)
    first = dict(one.run(Oracle(data)))
    assert dict(one.run(Oracle(data))) == first == dict(evaluator(data, batch_size=14).run(Oracle(data)))
    assert len(one.meter.pictures) == 14


def test_the_originals_quirks_and_the_integral_form_are_there(data: VocDetection) -> None:
    faithful = replace(CFG, quirks=QuirkConfig.of("faithful"))
    quirky = evaluator(data, faithful)
    assert dict(quirky.run(Oracle(data)))["mAP"] > 0.9
    assert quirky.meter.options["gt_offset"] == -1
    assert quirky.meter.options["score_digits"] == 3
    boxes = next(iter(quirky.meter.pictures.values())).boxes
    np.testing.assert_array_equal(boxes, boxes.round())
    integral = replace(CFG, detect=replace(CFG.detect, ap="integral"))
    assert dict(evaluator(data, integral).run(Oracle(data)))["mAP"] > 0.95


def test_detections_are_written_as_the_original_writes_them(data: VocDetection, tmp_path: Path) -> None:
    quirky = evaluator(data, replace(CFG, quirks=QuirkConfig.of("faithful")))
    list(quirky.run(Oracle(data)))
    files = quirky.write(tmp_path / "dump")
    assert [file.name for file in files] == ["results_1.txt", "results_2.txt", "results_3.txt"]
    rows = [line.split() for file in files for line in file.read_text().splitlines()]
    assert len(rows) == sum(len(picture.labels) for picture in quirky.meter.pictures.values())
    assert {row[0] for row in rows} <= {sample.name for sample in data.samples}
    assert all(len(row) == 6 and len(row[1].split(".")[1]) == 3 for row in rows)
    assert all(value.endswith(".0") and float(value) >= 1 for row in rows for value in row[2:])


def test_rows_without_an_area_are_left_out_and_full_scores_are_kept(tmp_path: Path) -> None:
    labels, scores = np.array([1, 1, 2]), np.array([0.123456789, 0.5, 0.25])
    boxes = np.array([[1, 2, 3, 4], [5, 5, 5, 9], [1.25, 2, 3, 4.75]])
    found = {"a picture": (labels, scores, boxes)}
    files = write_detections(tmp_path, found, (1, 2, 3), QuirkConfig())
    assert files[0].read_text() == "a picture 0.123456789 1.0 2.0 3.0 4.0\n"
    assert files[1].read_text() == "a picture 0.250000000 1.2 2.0 3.0 4.8\n"
    assert files[2].read_text() == ""


def test_pixels_are_cut_and_counted_from_one_in_the_original() -> None:
    boxes = torch.tensor([[0.1, 0.25, 0.55, 1.0]])
    np.testing.assert_allclose(
        pixel_boxes(boxes, 50, 101, off_by_one=False), [[25.25, 5, 101, 27.5]], rtol=1e-6
    )
    assert pixel_boxes(boxes, 50, 101, off_by_one=True).tolist() == [[26, 6, 102, 28]]
