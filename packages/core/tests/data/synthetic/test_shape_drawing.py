import numpy as np
import pytest

from prunelab.data.synthetic.shape_drawing import (
    GROUNDS,
    MORE_SHAPES,
    SHAPES,
    Draws,
    Thing,
    boxes_of,
    cover,
    draw,
    random_thing,
)


def a_thing(shape: str, x: float, y: float, radius: float) -> Thing:
    return Thing(shape=shape, colour="red", tint=(0.9, 0.1, 0.1), x=x, y=y, radius=radius, turn=(1.0, 0.0))


@pytest.mark.parametrize("shape", [*SHAPES, *MORE_SHAPES])
def test_a_shape_stays_within_its_radius_and_fills_a_part_of_it(shape):
    share = cover(shape, (0.5, 0.5), 0.3, (1.0, 0.0), 100)
    (left, top, right, bottom) = boxes_of(share[None])[0]
    assert min(left, top) >= 18
    assert max(right, bottom) <= 82
    assert right - left > 25
    assert 0.1 < (share >= 0.5).mean() / 0.36 < 0.95


def test_ten_shapes_are_ten():
    shares = [cover(shape, (0.5, 0.5), 0.3, (1.0, 0.0), 60) >= 0.5 for shape in (*SHAPES, *MORE_SHAPES)]
    assert len(shares) == 10
    for place, one in enumerate(shares):
        assert all((one != other).mean() > 0.02 for other in shares[:place])


def test_what_lies_in_front_hides_what_lies_behind():
    behind, front = a_thing("square", 0.4, 0.5, 0.2), a_thing("square", 0.5, 0.5, 0.2)
    image, seen = draw(Draws(1), [behind, front], GROUNDS[0], 50)
    assert image.shape == (50, 50, 3)
    assert (seen.sum(axis=0) <= 1 + 1e-12).all()
    boxes = boxes_of(seen)
    assert boxes[1].tolist() == [16, 16, 34, 34]
    assert boxes[0, 2] == 16  # up to where the other one begins
    assert boxes_of(np.zeros((1, 5, 5))).tolist() == [[0, 0, 0, 0]]


def test_objects_are_of_the_shapes_asked_for_and_keep_away_from_each_other():
    draws, placed = Draws(3), []
    for _ in range(4):
        placed.append(random_thing(draws, ("frame", "moon"), 0.1, placed))
    assert {thing.shape for thing in placed} == {"frame", "moon"}
    for place, one in enumerate(placed):
        assert all(np.hypot(one.x - other.x, one.y - other.y) > 0.19 for other in placed[:place])
