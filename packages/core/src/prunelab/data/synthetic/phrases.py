"""What people might say of a scene: sentences that name some of its attributes, not always the same ones."""

from __future__ import annotations

from prunelab.data.synthetic.scenes import Scene
from prunelab.data.synthetic.shape_drawing import LARGE, SMALL, Draws, Thing
from prunelab.seed import derive

CAPTIONS = 5
"""Captions of a picture."""

_NAMES = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring",),
    "star": ("star",),
    "bar": ("bar", "bar", "stripe"),
}
_SIZES = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
_RELATIONS = {
    "left": ("to the left of", "to the left of", "left of"),
    "right": ("to the right of", "to the right of", "right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
_SIDES = {"left": "on its left", "right": "on its right", "above": "above it", "below": "below it"}
_GROUNDS = {
    "plain": ("on a plain background",),
    "striped": ("on a striped background", "on stripes"),
    "dotted": ("on a dotted background", "on dots"),
}


def relation(one: Thing, other: Thing) -> str:
    """Where one object lies, seen from the other: ``left``, ``right``, ``above`` or ``below``."""
    right, below = one.x - other.x, one.y - other.y
    if abs(right) > abs(below):
        return "right" if right > 0 else "left"
    return "below" if below > 0 else "above"


def _noun(draws: Draws, thing: Thing) -> str:
    """An object with its article, and most often with its colour and size."""
    radius = thing.radius + draws.uniform(-0.012, 0.012)  # people differ in what they call small
    size = "small" if radius < SMALL else "large" if radius > LARGE else ""
    words = ["a"]
    if size and draws.chance(0.65):
        words.append(draws.pick(_SIZES[size]))
    if draws.chance(0.9):
        words.append(thing.colour)
    words.append(draws.pick(_NAMES[thing.shape]))
    if words[1][0] in "aeiou":
        words[0] = "an"
    return " ".join(words)


def _sentence(draws: Draws, scene: Scene) -> str:
    # Most people begin with what is largest.
    order = list(scene.things) if draws.chance(0.7) else draws.shuffled(scene.things)
    first, second = _noun(draws, order[0]), _noun(draws, order[1])
    where = relation(order[0], order[1])
    between = draws.pick(_RELATIONS[where])
    whole = len(order) == 2
    style = draws.uniform(0.0, 1.0)
    if style < 0.45:
        text = f"{first} {between} {second}"
    elif style < 0.6:
        text = f"{first} is {between} {second}"
    elif style < 0.7:
        text = f"there is {first} {between} {second}"
    elif style < 0.85:
        text = f"{first} with {second} {_SIDES[relation(order[1], order[0])]}"
    else:
        text = f"{first} and {second}"
    if not whole and draws.chance(0.75):
        text += f" and {_noun(draws, order[2])}"
    if draws.chance(0.2):
        text += f" {draws.pick(_GROUNDS[scene.ground])}"
    return text


def describe(seed: int, scene: Scene) -> list[str]:
    """Five captions of a scene: lower case, words parted by single blanks, no punctuation.

    Args:
        seed: the seed of the set.
        scene: the picture; the captions depend on the seed and on what it shows.
    """
    draws = Draws(derive(seed, "captions", scene.number))
    return [_sentence(draws, scene) for _ in range(CAPTIONS)]
