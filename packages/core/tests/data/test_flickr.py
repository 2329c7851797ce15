"""Flickr8k, Flickr30k and InstaPIC in the layouts that they are handed out in."""

import json
from pathlib import Path

import pytest
from PIL import Image

from prunelab.data.captions import CaptionSet
from prunelab.data.flickr import is_flickr, open_flickr
from prunelab.data.instapic import is_instapic, open_instapic
from prunelab.errors import UserError

NAMES = ("1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg", "1002674143_1b742ab4b8.jpg", "44_a.jpg")
PLAIN = ("1000092795.jpg", "10002456.jpg", "1000268201.jpg", "44.jpg")


def pictures(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)


def tokens(file: Path, names: tuple[str, ...]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name}#{k}\tA Dog runs {k} ." for name in names for k in range(2)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lists(folder: Path, names: tuple[str, ...], pattern: str, words: tuple[str, ...], ending: str) -> None:
    for word, chosen in zip(words, (names[:1], names[1:2], names[2:3]), strict=True):
        text = "\n".join(Path(name).stem + ending for name in chosen)
        (folder / pattern.format(word)).write_text(text + "\n")


def described(found: CaptionSet) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(r.image_id, r.split, r.references) for r in found.records]


WANTED = ("a dog runs 0", "a dog runs 1")


def test_the_authors_files_of_flickr8k_are_read_with_their_splits(tmp_path: Path):
    pictures(tmp_path / "Flicker8k_Dataset", NAMES[:3])
    tokens(tmp_path / "Flickr8k_text/Flickr8k.token.txt", (*NAMES, "2258277193_586949ec62.jpg.1"))
    lists(tmp_path / "Flickr8k_text", NAMES, "Flickr_8k.{}Images.txt", ("train", "dev", "test"), ".jpg")
    assert is_flickr(tmp_path)
    assert not is_instapic(tmp_path)
    found = open_flickr(tmp_path)
    assert described(found) == [
        (1000268201, "train", WANTED),
        (1001773457, "val", WANTED),
        (1002674143, "test", WANTED),
    ]
    assert found.records[0].file == f"Flicker8k_Dataset/{NAMES[0]}"
    assert found.records[0].raw == ("A Dog runs 0 .", "A Dog runs 1 .")


def test_the_authors_file_of_flickr30k_is_read_with_the_lists_of_entities(tmp_path: Path):
    pictures(tmp_path / "flickr30k-images", PLAIN[:3])
    tokens(tmp_path / "results_20130124.token", PLAIN)
    lists(tmp_path, PLAIN, "{}.txt", ("train", "val", "test"), "")
    assert [(i, split) for i, split, _ in described(open_flickr(tmp_path))] == [
        (1000092795, "train"),
        (10002456, "val"),
        (1000268201, "test"),
    ]


def test_tables_of_other_hands_are_read(tmp_path: Path):
    kaggle8, kaggle30, hub = (tmp_path / name for name in ("kaggle8", "kaggle30", "hub"))
    pictures(kaggle8 / "Images", NAMES[:3])
    rows = [f'{name},"A Dog, runs {k} ."' for name in NAMES for k in range(2)]
    (kaggle8 / "captions.txt").write_text("image,caption\n" + "\n".join(rows))
    lists(kaggle8, NAMES, "Flickr_8k.{}Images.txt", ("train", "dev", "test"), ".jpg")
    pictures(kaggle30 / "flickr30k_images/flickr30k_images", PLAIN[:3])
    rows = [f"{name}| {k}| A Dog | runs {k} ." for name in PLAIN[1:] for k in range(2)]
    broken = [f"{PLAIN[0]}| 0   A Dog runs 0 .", f"{PLAIN[0]}| 1| A Dog runs 1 ."]
    table = "\n".join(["image_name| comment_number| comment", *broken, *rows])
    (kaggle30 / "flickr30k_images/results.csv").write_text(table)
    lists(kaggle30, PLAIN, "{}.txt", ("train", "val", "test"), "")
    pictures(hub / "flickr30k-images", PLAIN[:3])
    raw = json.dumps(["A Dog runs 0.", "A Dog runs 1."]).replace('"', '""')
    rows = [f'"{raw}",{name},{split}' for name, split in zip(PLAIN, ("train", "val", "test"), strict=False)]
    (hub / "flickr_annotations_30k.csv").write_text("raw,filename,split\n" + "\n".join(rows))
    for folder in (kaggle8, kaggle30, hub):
        found = described(open_flickr(folder))
        assert [split for _, split, _ in found] == ["train", "val", "test"]
        assert all(references == WANTED for _, _, references in found)


def test_karpathys_file_wins_and_finds_the_pictures_of_the_archive(tmp_path: Path):
    pictures(tmp_path / "Flicker8k_Dataset", NAMES[:1])
    tokens(tmp_path / "Flickr8k.token.txt", NAMES)
    sentence = {"tokens": ["a", "dog"], "raw": "A dog."}
    image = {"filename": NAMES[0], "imgid": 7, "split": "train", "sentences": [sentence]}
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": [image]}))
    (found,) = open_flickr(tmp_path).records
    assert (found.image_id, found.path) == (7, tmp_path / "Flicker8k_Dataset" / NAMES[0])


def test_what_does_not_fit_is_named(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"no captions of Flickr8k or Flickr30k found; expected one of dataset_"
    ):
        open_flickr(tmp_path)
    file = tmp_path / "Flickr8k.token.txt"
    tokens(file, NAMES)
    with pytest.raises(
        UserError, match=r"no list of the pictures of train; expected Flickr_8k\.trainImages\.txt or"
    ):
        open_flickr(tmp_path)
    lists(tmp_path, ("1.jpg", "2.jpg", "3.jpg"), "{}.txt", ("train", "val", "test"), "")
    with pytest.raises(UserError, match="none of its 4 pictures is in the lists"):
        open_flickr(tmp_path)
    lists(tmp_path, NAMES, "{}.txt", ("train", "val", "test"), "")
    with pytest.raises(UserError, match=r"693b08cb0e\.jpg: picture is missing"):
        open_flickr(tmp_path)
    for text, said in (
        ("a.jpg 0 words", r"line 1 is 'a\.jpg 0 words'; expected NAME\.jpg#0"),
        (f"{NAMES[0]}#0\tx\ndog.jpg#0\ty", r"'dog\.jpg'; expected a name that begins with its number"),
        (f"{NAMES[0]}#0\tx\n1000268201.jpg#0\ty", "have the same number"),
    ):
        file.write_text(text)
        (tmp_path / "test.txt").write_text("dog\n1000268201")
        with pytest.raises(UserError, match=said):
            open_flickr(tmp_path, check=0)
    file.unlink()
    for name, text, said in (
        ("results.csv", "image_name| comment\na.jpg 0 words", r"results\.csv: line 2 is"),
        ("captions.txt", "picture,text\n", "columns picture, text; expected image,caption"),
        (
            "flickr_annotations_30k.csv",
            "raw,filename,split\nwords,1.jpg,train\n",
            "raw is 'words'; expected a JSON",
        ),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            open_flickr(tmp_path)


def posts(folder: Path, **users: dict[str, dict[str, dict[str, str]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test1", "test2"):
        (folder / f"insta-caption-{split}.json").write_text(json.dumps(users[split]))
    return folder


POSTS = {
    "train": {"ann": {"p1": {"caption": "A lazy Sunday!"}, "p2": {"caption": "tea"}}},
    "test1": {"bob": {"p1": {"caption": "my dog"}}},
    "test2": {"cy": {"p9": {"caption": "snow"}}},
}


@pytest.mark.parametrize("inner", ["", "json"])
def test_instapic_is_read_with_its_splits_by_users(tmp_path: Path, inner: str):
    posts(tmp_path / inner, **POSTS)
    pictures(tmp_path / "images", ("ann_@_p1.jpg", "ann_@_p2.jpg", "bob_@_p1.jpg", "cy_@_p9.jpg"))
    assert is_instapic(tmp_path)
    assert not is_flickr(tmp_path)
    found = open_instapic(tmp_path)
    assert described(found) == [
        (0, "train", ("a lazy sunday",)),
        (1, "train", ("tea",)),
        (2, "val", ("snow",)),
        (3, "test", ("my dog",)),
    ]
    assert found.records[3].file == "images/bob_@_p1.jpg"


def test_other_names_of_instapics_pictures_are_told_by_the_first(tmp_path: Path):
    posts(tmp_path, **POSTS)
    pictures(tmp_path / "images/ann", ("p1.jpg", "p2.jpg"))
    pictures(tmp_path / "images/bob", ("p1.jpg",))
    with pytest.raises(UserError, match=r"cy/p9\.jpg: picture is missing"):
        open_instapic(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test1": {"ann": {"p7": {"caption": "x"}}}}, "user ann is in train as well"),
        ({"test1": {"bob": {"p7": {"text": "x"}}}}, "user bob, post p7: the key 'caption' is missing"),
        ({"test1": {"bob": []}}, "user bob has a list; expected posts"),
        ({"test1": {"../bob": {"p7": {"caption": "x"}}}}, r"'\.\./bob' names a user or a post"),
        ({"test1": []}, "holds a list; expected users with their posts"),
        ({"train": {}, "test1": {}, "test2": {}}, "hold no post"),
    ],
)  # fmt: skip
def test_another_layout_of_instapic_is_one_line(tmp_path: Path, change: dict, said: str):
    posts(tmp_path, **POSTS | change)
    with pytest.raises(UserError, match=said):
        open_instapic(tmp_path, check=0)


def test_instapic_as_one_file_in_karpathys_layout_is_read_too(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"no insta-caption-train\.json, here or in json/; expected the caption files"
    ):
        open_instapic(tmp_path)
    pictures(tmp_path / "images", ("a.jpg",))
    image = {"filename": "a.jpg", "imgid": 1, "split": "val", "sentences": [{"raw": "A dog."}]}
    (tmp_path / "dataset_instapic.json").write_text(json.dumps({"images": [image]}))
    assert open_instapic(tmp_path).records[0].references == ("a dog",)
