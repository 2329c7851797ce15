"""Label ids of Cityscapes and training ids, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acosp_seg import convert_cityscapes
from acosp_seg.prepare import TRAIN_IDS, write_label
from prunelab.data.segmentation import read_label

ROAD, CAR, UNLABELLED = 7, 26, 0


def test_ids_go_there_and_back_in_the_same_sub_folders(tmp_path: Path) -> None:
    ids = np.array([[ROAD, CAR], [UNLABELLED, ROAD]], np.uint8)
    write_label(ids, tmp_path / "ids/aachen/a_gtFine_labelIds.png")
    write_label(ids, tmp_path / "ids/aachen/a_gtFine_color.png")
    words = ["--input_dir", str(tmp_path / "ids"), "--output_dir", str(tmp_path / "train")]
    convert_cityscapes.main(words)
    name = "aachen/a_gtFine_labelIds.png"
    found = read_label(tmp_path / "train" / name)
    assert found.tolist() == [[0, 13], [255, 0]]
    assert len(list((tmp_path / "train").rglob("*.png"))) == 1
    back = [
        "--input_dir",
        str(tmp_path / "train"),
        "--output_dir",
        str(tmp_path / "back"),
        "--to_19",
        "False",
    ]
    convert_cityscapes.main(back)
    assert (read_label(tmp_path / "back" / name) == ids).all()


def test_every_training_id_has_one_label_id() -> None:
    back = convert_cityscapes.label_ids()
    assert [TRAIN_IDS[back[train_id]] for train_id in range(19)] == list(range(19))


@pytest.mark.parametrize(("value", "message"), [(60, "label values 60"), (None, "no files *labelIds.png")])
def test_what_is_no_label_map_is_one_line(
    value: int | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids").mkdir()
    if value is not None:
        write_label(np.full((2, 2), value, np.uint8), tmp_path / "ids/a_labelIds.png")
    with pytest.raises(SystemExit) as stop:
        convert_cityscapes.main(["--input_dir", str(tmp_path / "ids"), "--output_dir", str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in shown
    assert shown.count("\n") == 1


def test_the_source_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convert_cityscapes.main(["--input_dir", str(tmp_path), "--output_dir", f"{tmp_path}/."])
    assert "expected another folder than input_dir" in capsys.readouterr().err
