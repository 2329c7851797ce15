"""The figure of accuracy against multiply-adds."""

from __future__ import annotations

from pathlib import Path

from apt_vit.plots import ways_figure, write_ways
from prunelab.data.pictures import read_picture

POINTS = [
    {"row": "plain", "keep_rate": None, "of dense": 1.0, "accuracy": 0.8},
    {"row": "fixed", "keep_rate": None, "of dense": 0.66, "accuracy": 0.79},
    {"row": "fixed", "keep_rate": 0.9, "of dense": 0.9, "accuracy": 0.795},
    {"row": "fixed", "keep_rate": 0.5, "of dense": 0.5, "accuracy": 0.7},
]


def test_each_way_has_a_line_from_cheap_to_dear_and_a_large_point() -> None:
    (axis,) = ways_figure(POINTS).axes
    lines = [list(map(list, zip(*line.get_data(), strict=True))) for line in axis.get_lines()]
    assert lines == [[[1.0, 0.8]], [[1.0, 0.8]], [[0.5, 0.7], [0.66, 0.79], [0.9, 0.795]], [[0.66, 0.79]]]
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "fixed"]
    assert "multiply-adds" in axis.get_xlabel()


def test_it_is_written_as_a_picture(tmp_path: Path) -> None:
    write_ways(tmp_path / "ways.png", POINTS)
    assert read_picture(tmp_path / "ways.png").size == (792, 504)
