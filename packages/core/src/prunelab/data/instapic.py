"""InstaPIC-1.1M: posts of Instagram users with one caption each, split by users.

The published archive holds one JSON file a split, here or in ``json/``::

    insta-caption-train.json, insta-caption-test1.json, insta-caption-test2.json
    {"<user>": {"<post>": {"caption": "a lazy sunday", ...}, ...}, ...}

and the pictures in ``images/``. ``test1`` is the test split and ``test2`` the validation split; no user is in
two of them. The pictures' names are tried in turn: ``<user>_@_<post>.jpg``, ``<post>.jpg``,
``<user>/<post>.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prunelab.data.captions import CaptionRecord, CaptionSet, open_captions
from prunelab.data.coco import field, words
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json

FILES = {
    "train": "insta-caption-train.json",
    "val": "insta-caption-test2.json",
    "test": "insta-caption-test1.json",
}
NAMES = ("{user}_@_{post}.jpg", "{post}.jpg", "{user}/{post}.jpg")


def open_instapic(folder: StrPath, *, check: int = 5) -> CaptionSet:
    """Read InstaPIC-1.1M from its folder (see the top of this file), or a ``dataset_*.json`` of it.

    A picture's id is its place in the files, counted through train, val and test.

    Args:
        folder: the data set's folder.
        check: how many pictures of each split must be there.

    Raises:
        UserError: a file is missing or of another form, a user is in two splits, or a picture is missing.
    """
    root = Path(folder)
    if sorted(root.glob("dataset_*.json")):
        return open_captions(root, check=check)
    posts, owner = [], dict[str, str]()
    for split, name in FILES.items():
        source = next((place / name for place in (root, root / "json") if (place / name).is_file()), None)
        if source is None:
            raise UserError(
                f"{root}: no {name}, here or in json/; expected the caption files of InstaPIC-1.1M "
                f"({', '.join(FILES.values())}) or a dataset_*.json"
            )
        for user, post, caption in _posts(source):
            if owner.setdefault(user, split) != split:
                raise UserError(
                    f"{source}: user {user} is in {owner[user]} as well; expected splits by users"
                )
            posts.append((split, user, post, caption))
    if not posts:
        raise UserError(f"{root}: its caption files hold no post")
    _, user, post, _ = posts[0]
    there = (name for name in NAMES if (root / "images" / name.format(user=user, post=post)).is_file())
    pattern = next(there, NAMES[0])
    records = []
    for number, (split, user, post, caption) in enumerate(posts):
        file = "images/" + pattern.format(user=user, post=post)
        records.append(
            CaptionRecord(
                image_id=number,
                file=file,
                path=root / file,
                split=split,
                references=(words(caption),),
                raw=(caption,),
            )
        )
    found = CaptionSet(source=root, records=tuple(records))
    if check:
        found.check_pictures(check)
    return found


def is_instapic(folder: StrPath) -> bool:
    """Whether a folder holds the published caption files."""
    root = Path(folder)
    return any((place / FILES["train"]).is_file() for place in (root, root / "json"))


def _posts(source: Path) -> Iterator[tuple[str, str, str]]:
    """User, post and caption of each post of a file."""
    data = read_json(source)
    if not isinstance(data, dict):
        raise UserError(f"{source}: holds a {type(data).__name__}; expected users with their posts")
    for user, own in data.items():
        if not isinstance(own, dict):
            raise UserError(
                f"{source}: user {user} has a {type(own).__name__}; expected posts by their names"
            )
        for post, entry in own.items():
            yield (
                _plain(user, source),
                _plain(post, source),
                field(entry, "caption", str, f"{source}: user {user}, post {post}"),
            )


def _plain(name: str, source: Path) -> str:
    """A name that may be part of a file's name."""
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise UserError(
            f"{source}: {name!r} names a user or a post; expected a name without / and leading dot"
        )
    return name
