import json
from pathlib import Path

import pytest
from PIL import Image

from prunelab.data import coco
from prunelab.data.captions import Reading, open_captions, open_pictures, read_captions
from prunelab.data.coco import words
from prunelab.data.pictures import read_picture
from prunelab.errors import UserError


def sentence(text: str) -> dict:
    return {"raw": text, "tokens": words(text).split()}


def dump(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path)


def karpathy_coco(folder: Path) -> Path:
    images = []
    for number, (split, place) in enumerate(
        [("train", "train2014"), ("restval", "val2014"), ("val", "val2014"), ("test", "val2014")]
    ):
        name = f"COCO_{place}_{number + 40:012d}.jpg"
        picture(folder / place / name)
        texts = [f"A picture, number {number}.", "It's small."]
        images.append(
            {
                "filepath": place,
                "filename": name,
                "imgid": number,
                "cocoid": number + 40,
                "split": split,
                "sentences": [sentence(text) for text in texts],
            }
        )
    return dump(folder / "dataset_coco.json", {"dataset": "coco", "images": images})


def test_the_coco_layout_is_read_in_order_and_restval_is_train(tmp_path: Path):
    source = karpathy_coco(tmp_path)
    found = open_captions(tmp_path)
    assert found.source == source
    assert [record.split for record in found.records] == ["train", "train", "val", "test"]
    assert [record.image_id for record in found.split("train")] == [40, 41]
    second = found.records[1]
    assert second.file == "val2014/COCO_val2014_000000000041.jpg"
    assert second.path == tmp_path / second.file
    assert second.references == ("a picture number 1", "its small")
    assert second.raw == ("A picture, number 1.", "It's small.")
    assert coco.read_references(source, split="test") == {43: ["A picture, number 3.", "It's small."]}
    assert list(coco.read_references(source)) == [40, 41, 42, 43]


def test_the_flickr_variant_falls_back_to_imgid_and_the_images_folder(tmp_path: Path):
    entry = {"filename": "1_a.jpg", "imgid": 5, "split": "val", "sentences": [{"tokens": ["a", "dog"]}]}
    picture(tmp_path / "images" / "1_a.jpg")
    dump(tmp_path / "dataset_flickr1k.json", {"images": [entry]})
    (record,) = open_captions(tmp_path).records
    assert (record.image_id, record.file, record.raw) == (5, "images/1_a.jpg", ("a dog",))
    with pytest.raises(UserError, match="no picture in the split 'train'; found val"):
        open_captions(tmp_path).split("train")
    del entry["imgid"]
    entry["filename"] = "COCO_val2014_000000000007.jpg"
    assert read_captions(dump(tmp_path / "x.json", {"images": [entry]})).records[0].image_id == 7


def test_pictures_are_looked_for_in_inner_folders_and_below_another_root(tmp_path: Path):
    entries = [
        {"filepath": place, "filename": f"{place}.jpg", "imgid": number, "split": "train", "sentences": []}
        for number, place in enumerate(["a", "b", "c"])
    ]
    source = dump(tmp_path / "captions" / "dataset_x.json", {"images": entries})
    root = tmp_path / "pictures"
    picture(root / "a" / "img" / "a.jpg")
    picture(root / "b" / "b.jpg")

    def files(*inner: str) -> list[str]:
        return [r.file for r in read_captions(source, Reading(root=root, inner=inner)).records]

    assert files("img", "") == ["a/img/a.jpg", "b/b.jpg", "c/img/c.jpg"]
    assert files("") == ["a/a.jpg", "b/b.jpg", "c/c.jpg"]
    with pytest.raises(UserError, match=r"c\.jpg: picture is missing"):
        open_captions(source, reading=Reading(root=root, inner=("img", "")))
    for entry in entries:
        del entry["filepath"]
    picture(root / "a.jpg")
    assert [r.file for r in read_captions(dump(source, {"images": entries}), Reading(root=root)).records] == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]


def test_a_lenient_reader_skips_other_splits_and_lets_later_entries_win(tmp_path: Path):
    def entry(number: int, split: str, text: str) -> dict:
        return {"filename": text, "cocoid": number, "split": split, "sentences": [{"raw": text.upper()}]}

    entries = [
        entry(1, "train", "first"),
        entry(2, "restval", "second"),
        entry(1, "train", "again"),
        entry(1, "val", "other"),
        entry(3, "unused", "never"),
    ]
    source = dump(tmp_path / "x.json", {"images": entries})
    found = read_captions(source, Reading(lenient=True)).records
    assert [(r.image_id, r.split, r.raw, r.references) for r in found] == [
        (1, "train", ("AGAIN",), ("again",)),
        (2, "train", ("SECOND",), ("second",)),
        (1, "val", ("OTHER",), ("other",)),
    ]
    with pytest.raises(UserError, match="split is 'unused'"):
        read_captions(source)


def test_coco_annotation_files_make_one_set_and_missing_pictures_are_named(tmp_path: Path):
    for number, name in enumerate(["train2017", "val2017"]):
        picture(tmp_path / name / f"{number:012d}.jpg")
        coco.write_annotations(
            tmp_path / "annotations" / f"captions_{name}.json",
            {number: [f"Caption {number}.", "Another one"]},
            {number: f"{number:012d}.jpg"},
        )
    found = open_captions(tmp_path)
    assert [(r.image_id, r.split, r.references) for r in found.records] == [
        (0, "train", ("caption 0", "another one")),
        (1, "val", ("caption 1", "another one")),
    ]
    assert all(record.path.is_file() for record in found.records)
    (tmp_path / "val2017" / "000000000001.jpg").unlink()
    with pytest.raises(UserError, match=r"val2017/000000000001\.jpg: picture is missing, though .* names it"):
        open_captions(tmp_path)
    assert len(open_captions(tmp_path, check=0).records) == 2
    assert coco.read_references(tmp_path / "annotations" / "captions_val2017.json") == {
        1: ["Caption 1.", "Another one"]
    }


def test_a_list_of_ones_own_gets_splits_and_ids_where_it_names_none(tmp_path: Path):
    entries = [{"image": f"sub/{i}.png", "captions": [f"Number {i}!"]} for i in range(20)]
    for entry in entries:
        picture(tmp_path / entry["image"])
    source = dump(tmp_path / "captions.json", entries)
    found = open_captions(tmp_path)
    assert [r.image_id for r in found.split("val")] == [8, 18]
    assert [r.image_id for r in found.split("test")] == [9, 19]
    assert found.records[3].references == ("number 3",)
    assert coco.read_references(source)[3] == ["Number 3!"]
    entries[0] |= {"split": "test", "id": 77, "image": str(tmp_path / "sub" / "1.png")}
    dump(source, entries)
    found = open_captions(source)
    assert [r.image_id for r in found.split("test")] == [77]
    assert found.records[0].path == tmp_path / "sub" / "1.png"
    assert list(coco.read_references(source, split="test")) == [77]


def test_a_bare_folder_of_pictures_has_ids_from_names_or_places(tmp_path: Path):
    for name in ("COCO_test2014_000000000009.jpg", "COCO_test2014_000000000010.jpg"):
        picture(tmp_path / name)
    found = open_pictures(tmp_path)
    assert [(r.image_id, r.raw, r.split) for r in found.records] == [(9, (), "test"), (10, (), "test")]
    picture(tmp_path / "holiday.PNG")
    assert [r.image_id for r in open_pictures(tmp_path).records] == [0, 1, 2]
    with pytest.raises(UserError, match="no picture found"):
        open_pictures(tmp_path.parent)
    with pytest.raises(UserError, match="no such folder"):
        open_pictures(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, "image 0: split is 'training'; expected one of train, val, test, restval"),
        ({"cocoid": "40"}, "image 0: 'cocoid' is '40'; expected a whole number"),
        ({"cocoid": True}, "'cocoid' is True; expected a whole number"),
        (
            {"cocoid": 41},
            "image id 41 belongs to 'train2014/.*' and to 'val2014/.*'; expected a different id",
        ),
        ({"filepath": "../elsewhere"}, "picture is '../elsewhere/COCO.*'; expected a path inside"),
        ({"filename": 3}, "'filename' is 3; expected a string"),
        ({"sentences": "none"}, "'sentences' is 'none'; expected a list"),
        ({"sentences": [3]}, r"sentence 0: found 3; expected a JSON object with the key 'tokens'"),
        ({"sentences": [{"id": 1}]}, "image 0, sentence 0: the key 'tokens' is missing; found 'id'"),
        ({"sentences": [{"raw": 1}]}, "image 0, sentence 0: 'raw' is 1; expected a string"),
        ({"sentences": [{"tokens": ["a", 1]}]}, r"'tokens' is \['a', 1\]; expected a list of strings"),
        ({"filename": "COCO_train2014_9.jpg"}, r"train2014/COCO_train2014_9\.jpg: picture is missing"),
    ],
)
def test_every_fault_of_a_split_file_is_one_line_with_its_place(tmp_path: Path, change: dict, message: str):
    source = karpathy_coco(tmp_path)
    data = json.loads(source.read_text())
    data["images"][0] |= change
    dump(source, data)
    with pytest.raises(UserError, match=message) as caught:
        open_captions(source)
    assert str(tmp_path) in str(caught.value)


def test_wrong_files_and_folders_are_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="no caption file found"):
        open_captions(tmp_path)
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        open_captions(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"dataset_coco\.json: no such file"):
        open_captions(tmp_path, json_name="dataset_coco.json")
    dump(tmp_path / "dataset_a.json", {"images": []})
    with pytest.raises(UserError, match="names no picture"):
        open_captions(tmp_path)
    dump(tmp_path / "dataset_b.json", [1])
    with pytest.raises(UserError, match=r"holds dataset_a\.json, dataset_b\.json; expected one of them"):
        open_captions(tmp_path)
    with pytest.raises(UserError, match="not a caption file"):
        open_captions(tmp_path / "dataset_b.json")
    results = coco.write_predictions(tmp_path / "results.json", {3: "a dog"})
    with pytest.raises(UserError, match="holds predictions"):
        open_captions(results)
    with pytest.raises(UserError, match="holds predictions"):
        coco.read_references(results)
    with pytest.raises(UserError, match=r"no image id in the file name 'dog\.png'"):
        coco.id_from_name("dog.png", "here")


def test_predictions_come_back_and_their_faults_are_named(tmp_path: Path):
    path = tmp_path / "results.json"
    assert coco.read_predictions(coco.write_predictions(path, {3: "a dog", 1: ""})) == {3: "a dog", 1: ""}
    for data, message in [
        ([], "not a result file"),
        ({"annotations": []}, "not a result file"),
        ([{"image_id": 3}], "entry 0: the key 'caption' is missing; found 'image_id'"),
        ([{"image_id": "3", "caption": "a"}], "entry 0: 'image_id' is '3'; expected a whole number"),
        ([{"image_id": 3, "caption": ["a"]}], r"'caption' is \['a'\]; expected a string"),
        ([{"image_id": 3, "caption": "a"}] * 2, "entry 1: image id 3 comes twice"),
    ]:
        with pytest.raises(UserError, match=message):
            coco.read_predictions(dump(path, data))
    with pytest.raises(UserError, match="no captions found"):
        coco.read_references(dump(path, {"annotations": []}))
    with pytest.raises(UserError, match="annotation 0: 'caption' is 5"):
        coco.read_references(dump(path, {"annotations": [{"image_id": 1, "caption": 5}]}))
    with pytest.raises(UserError, match="expected a list of at least one string"):
        coco.read_references(dump(path, [{"image": "a.jpg", "captions": []}]))


def test_pictures_are_read_upright_and_broken_ones_named(tmp_path: Path):
    wide = Image.new("L", (4, 2), 7)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (2, 4)
    assert read_picture(tmp_path / "turned.jpg").mode == "RGB"
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    raw = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[:-500])
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(tmp_path / "bitmap.jpg", format="BMP")
    Image.new("1", (20000, 5000)).save(tmp_path / "huge.png")
    for name, message in [
        ("none.jpg", "no such picture"),
        ("cut.png", "damaged or cut off"),
        ("page.jpg", "not a picture"),
        ("empty.jpg", "not a picture"),
        ("bitmap.jpg", "not a picture; expected a JPEG or PNG"),
        ("huge.png", "too large"),
    ]:
        with pytest.raises(UserError, match=rf"{name}: .*{message}"):
            read_picture(tmp_path / name)


@pytest.mark.data
def test_the_real_flickr_set_and_the_coco_captions_are_read_whole(real_data: Path):
    found = open_captions(real_data / "flickr1k", check=1000)
    assert [len(found.split(name)) for name in coco.SPLITS] == [753, 113, 125]
    assert all(len(record.references) == 5 for record in found.records)
    assert read_picture(found.records[0].path).size == (150, 200)
    references = coco.read_references(real_data / "coco_text" / "captions_val2017.json")
    assert (len(references), sum(map(len, references.values()))) == (5000, 25014)
