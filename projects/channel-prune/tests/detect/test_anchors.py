from __future__ import annotations

import pytest
import torch

from channel_prune.detect.anchors import (
    AnchorLayer,
    anchor_layers,
    anchors_of,
    corners,
    decode,
    encode,
    make_anchors,
)
from prunelab.errors import UserError


def test_anchors_of_one_place_are_the_extra_square_and_one_for_each_ratio() -> None:
    layer = AnchorLayer(grid=1, step=100, scale=0.4, extra_scale=0.5, ratios=(1, 4, 0.25))
    found = make_anchors([layer], 100)
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.8], [0.5, 0.5, 0.8, 0.2]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_places_go_by_rows_then_columns_then_depth() -> None:
    layer = AnchorLayer(grid=2, step=50, scale=0.1, extra_scale=0.2, ratios=(1,))
    found = make_anchors([layer], 100)[:, :2]
    expected = [[0.25, 0.25]] * 2 + [[0.25, 0.75]] * 2 + [[0.75, 0.25]] * 2 + [[0.75, 0.75]] * 2
    torch.testing.assert_close(found, torch.tensor(expected))


def test_at_300_pixels_grids_steps_and_scales_are_the_published_ones() -> None:
    layers = anchor_layers(300)
    assert [layer.grid for layer in layers] == [38, 19, 10, 5, 3, 1]
    assert [layer.step for layer in layers] == [8, 16, 32, 64, 100, 300]
    assert [layer.scale for layer in layers] == [0.1, 0.2, 0.375, 0.55, 0.725, 0.9]
    assert [layer.extra_scale for layer in layers] == [0.1414, 0.2739, 0.4541, 0.6315, 0.8078, 0.9836]
    assert [layer.depth for layer in layers] == [4, 6, 6, 6, 4, 4]


@pytest.mark.parametrize(
    ("size", "grids"), [(33, [5, 3, 2, 1]), (96, [12, 6, 3, 2]), (160, [20, 10, 5, 3, 1])]
)
def test_small_pictures_have_fewer_layers_and_scales_still_end_at_nine_tenths(
    size: int, grids: list[int]
) -> None:
    layers = anchor_layers(size)
    assert [layer.grid for layer in layers] == grids
    assert [layer.scale for layer in layers][:2] == [0.1, 0.2]
    assert layers[-1].scale == 0.9
    assert len(anchors_of(size)) == sum(layer.grid**2 * layer.depth for layer in layers)
    if len(layers) > 4:
        assert layers[4].step == pytest.approx(size / layers[4].grid)


def test_a_picture_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="image_size is 32, expected at least 33 for SSD"):
        anchor_layers(32)


def test_an_anchor_has_no_offset_from_itself_and_decoding_undoes_encoding() -> None:
    anchors = anchors_of(64)
    assert encode(corners(anchors), anchors).abs().max() < 1e-4
    boxes = torch.tensor([0.1, 0.2, 0.6, 0.5]).expand(len(anchors), 4)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-5, rtol=1e-4)
