"""Networks are found in model folders, runs, tours and folders of the original, and loaded from each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import acosp_seg
from acosp_seg.config import Config, DataConfig, ModelConfig, OptimConfig, TestConfig
from acosp_seg.loading import find_model, load
from acosp_seg.model import build
from acosp_seg.model.original import write_original
from acosp_seg.segmenter import Segmenter
from acosp_seg.steps import make_optimizer
from prunelab.errors import UserError

CONFIG = Config(
    model=ModelConfig(arch="segnet", layers=None, classes=3, width=8),
    data=DataConfig(dataset="folder", names_path="", colors_path=""),
    test=TestConfig(base_size=40, test_h=32, test_w=32),
)


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(model=build(CONFIG.model).eval(), config=CONFIG, names=("sky", "road", "tree"))


def answer(segmenter: Segmenter) -> torch.Tensor:
    return segmenter.model(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))


def test_a_run_means_its_best_model_and_a_tour_its_compact_one(tmp_path: Path, segmenter: Segmenter) -> None:
    for name in ("run/last", "tour/compact", "tour/dense/best"):
        segmenter.save_pretrained(tmp_path / name)
    assert find_model(tmp_path / "run") == tmp_path / "run" / "last"
    segmenter.save_pretrained(tmp_path / "run" / "best")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "best"
    assert find_model(tmp_path / "tour") == tmp_path / "tour" / "compact"
    assert torch.equal(answer(acosp_seg.load(tmp_path / "run")), answer(segmenter))


def test_a_folder_of_the_original_means_its_last_epoch(tmp_path: Path, segmenter: Segmenter) -> None:
    (tmp_path / "model").mkdir()
    optimizer = make_optimizer(segmenter.model, OptimConfig())  # type: ignore[arg-type]
    for epoch in (9, 10):
        write_original(tmp_path / "model" / f"train_epoch_{epoch}.pth", epoch, segmenter.model, optimizer)  # type: ignore[arg-type]
    for place in (tmp_path, tmp_path / "model"):
        assert find_model(place) == tmp_path / "model" / "train_epoch_10.pth"
    alone = load(tmp_path)  # what its tensors show is all that is known
    assert (alone.config.model.arch, alone.config.model.width, len(alone.names)) == ("segnet", 8, 3)
    assert torch.equal(answer(alone), answer(segmenter))
    assert load(tmp_path, config=CONFIG).config.test.test_h == 32


def test_a_configuration_may_rename_the_classes_of_a_folder(tmp_path: Path, segmenter: Segmenter) -> None:
    segmenter.save_pretrained(tmp_path / "m")
    assert load(tmp_path / "m", config=CONFIG).names == ("sky", "road", "tree")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    data = DataConfig(dataset="folder", names_path=str(tmp_path / "names.txt"), colors_path="")
    renamed = Config(model=CONFIG.model, data=data, test=CONFIG.test)
    assert load(tmp_path / "m", config=renamed).names == ("a", "b", "c")


def test_a_folder_without_a_network_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model there, expected a model folder, a run, or a file such as"):
        acosp_seg.load(tmp_path)
