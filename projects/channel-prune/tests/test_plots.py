"""The figure of ways to choose channels."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from channel_prune import plots

MEANS = [
    {"method": method, "MACs": macs, "before": 0.1, "recalibrated": quality, "finetuned": 0.8}
    for method, quality in (("fixed", 0.7), ("l1", 0.6))
    for macs in (0.6, 0.3)
]


def test_a_line_for_each_way_in_each_panel() -> None:
    axes = plots.ways_figure(MEANS).axes
    assert [axis.get_title() for axis in axes] == list(plots.PANELS.values())
    for axis in axes:
        assert [line.get_label() for line in axis.lines] == ["fixed", "l1"]
    assert axes[1].lines[0].get_xydata().tolist() == [[0.3, 0.7], [0.6, 0.7]]


def test_it_is_written_as_a_picture(tmp_path: Path) -> None:
    plots.write_ways(tmp_path / "ways.png", MEANS)
    with Image.open(tmp_path / "ways.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1200
