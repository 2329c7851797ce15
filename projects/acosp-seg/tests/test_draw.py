"""Label maps as files, as colours over a picture, and with a legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acosp_seg.draw import borders, distinct_colors, overlay, paint, with_legend, write_color, write_gray
from prunelab.errors import UserError

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
LABELS = np.array([[0, 0, 1], [0, 2, 200]], np.uint8)
PICTURE = np.full((2, 3, 3), 100, np.uint8)


def test_colours_of_classes_without_any_differ_and_are_those_of_voc() -> None:
    colors = distinct_colors(256)
    assert len({tuple(c) for c in colors.tolist()}) == 256
    assert colors[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[15].tolist() == [192, 128, 128]


def test_pixels_get_their_class_colour_and_black_where_there_is_none() -> None:
    painted = paint(LABELS, COLORS)
    assert painted[0].tolist() == [[255, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert painted[1, 2].tolist() == [0, 0, 0]


def test_an_overlay_mixes_picture_and_colours_and_draws_borders() -> None:
    assert overlay(PICTURE, LABELS, COLORS, 0.0).tolist() == PICTURE.tolist()
    assert overlay(PICTURE, LABELS, COLORS, 1.0).tolist() == paint(LABELS, COLORS).tolist()
    mixed = overlay(PICTURE, LABELS, COLORS, 0.5)
    assert mixed[0, 0].tolist() == [178, 50, 50]
    assert (mixed[borders(LABELS)] == 255).all()
    assert borders(LABELS).tolist() == [[False, True, True], [True, True, False]]


def test_files_hold_the_labels_in_grey_and_with_a_palette(tmp_path: Path) -> None:
    write_gray(tmp_path / "new" / "gray.png", LABELS)
    write_color(tmp_path / "new" / "color.png", LABELS, COLORS)
    with (
        Image.open(tmp_path / "new" / "gray.png") as gray,
        Image.open(tmp_path / "new" / "color.png") as color,
    ):
        assert (gray.mode, color.mode) == ("L", "P")
        assert np.array_equal(gray, LABELS)
        assert np.array_equal(color, LABELS)
        assert color.getpalette()[:12] == [*COLORS.ravel().tolist(), 0, 0, 0]  # type: ignore[index]


def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gray").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"gray/a.png: cannot be written"):
        write_gray(tmp_path / "gray" / "a.png", LABELS)


def test_a_legend_lists_classes_by_share_and_as_many_as_there_is_room_for() -> None:
    names = [f"class {n}" for n in range(100)]
    labels = np.arange(100, dtype=np.uint8).repeat(4).reshape(20, 20)
    picture = np.zeros((20, 20, 3), np.uint8)
    many = with_legend(picture, labels, names, distinct_colors(100))
    few = with_legend(picture, labels // 50, names, distinct_colors(100))
    assert many.height == few.height == 320
    assert many.width > 320
    right = np.asarray(many)[:, 320:]
    assert (right[-40:] != 255).any()  # the column is full,
    assert (np.asarray(few)[60:, 320:] == 255).all()  # and here it has two lines
