import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.synthetic.phrases import describe, relation
from prunelab.data.synthetic.regions import MOST, find_regions
from prunelab.data.synthetic.scenes import VOID, make_scene
from prunelab.data.synthetic.shape_drawing import COLOURS, SHAPES

SCENES = [make_scene(0, number) for number in range(40)]


def overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    return both / ((one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - both)


def test_pictures_and_captions_are_those_of_every_other_machine():
    digest = hashlib.sha256()
    for scene in SCENES[:8]:
        digest.update(scene.image.tobytes())
        digest.update("\n".join(describe(0, scene)).encode())
    assert digest.hexdigest() == "61896793e58ed1d7797b3391525310ba65626275bd09a58204116817c9d95eaa"


def test_masks_boxes_and_labels_agree_with_each_other():
    for scene in SCENES:
        mask = scene.mask()
        assert mask.shape == scene.image.shape[:2] == (72, 72)
        assert set(np.unique(mask)) <= {0, VOID, *(1 + SHAPES.index(t.shape) for t in scene.things)}
        assert (mask == VOID).any()
        assert scene.classes == [thing.shape for thing in scene.things]
        assert scene.label == SHAPES.index(scene.things[0].shape)
        assert scene.boxes.shape == (len(scene.things), 4)
        inside = np.zeros_like(mask, bool)
        for left, top, right, bottom in scene.boxes.astype(int):
            inside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
        assert not mask[~inside].any()
        assert [t.radius for t in scene.things] == sorted((t.radius for t in scene.things), reverse=True)


def test_all_shapes_and_colours_occur_and_captions_name_what_is_there():
    things = [thing for scene in SCENES for thing in scene.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    for scene in SCENES:
        texts = describe(0, scene)
        assert len(texts) == 5
        assert len(set(texts)) > 1
        shown = {thing.colour for thing in scene.things}
        for text in texts:
            assert text == " ".join(text.split()).lower()
            assert {word for word in text.split() if word in COLOURS} <= shown
    one, other = SCENES[0].things[:2]
    assert {relation(one, other), relation(other, one)} in ({"left", "right"}, {"above", "below"})


def test_regions_are_found_where_the_objects_are():
    found = total = 0
    for scene in SCENES:
        boxes, features = find_regions(scene.image, 32)
        assert boxes[0].tolist() == [0, 0, 1, 1]
        assert boxes.shape == (len(features), 4)
        assert 1 <= len(boxes) <= MOST + 1
        assert features.shape[1] == 32
        assert features.dtype == boxes.dtype == np.float32
        assert features.min() >= 0
        found += sum(overlap(box / 72, boxes).max() > 0.5 for box in scene.boxes)
        total += len(scene.boxes)
    assert 0.8 < found / total < 1.0  # objects that touch are found as one


def test_regions_of_any_picture_have_features(tmp_path: Path):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (5, 3), (300, 20), (640, 480)):
        noise = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        for picture in (noise, Image.new("RGB", size, "grey")):
            boxes, features = find_regions(picture)
            assert np.isfinite(features).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize("side", [48, 96])
def test_pictures_of_other_sizes_show_the_same(side: int):
    scene = make_scene(0, 3, side=side)
    assert scene.image.shape == (side, side, 3)
    assert scene.things == SCENES[3].things
    assert np.abs(scene.boxes / side - SCENES[3].boxes / 72).max() < 0.05
