"""The preparation programs: made twice, killed, damaged, and what is answered to mistakes."""

from __future__ import annotations

import base64
import json
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from prunelab.caption.frequency import DocumentFrequency
from prunelab.data.features import open_features
from prunelab.errors import UserError
from smp_caption.prepare import bottom_up, labels, ngrams, relative_boxes

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PROGRAMS = {
    "make_bu_data": bottom_up,
    "prepro_bbox_relative_coords": relative_boxes,
    "prepro_labels": labels,
    "prepro_ngrams": ngrams,
}
WIDTH, HEIGHT = 40, 20


def line(image_id: int, regions: int = 2, size: int = 3, *, cut: int = 0) -> str:
    """A line of a file of features; its features are the id, its boxes reach a bit over the right edge."""
    boxes = np.tile(np.array([4, 5, WIDTH + 1, 10], "<f4"), (regions, 1))
    features = np.full((regions, size), image_id, "<f4")
    texts = [base64.b64encode(array.tobytes()).decode() for array in (boxes, features)]
    texts[1] = texts[1][: len(texts[1]) - cut]
    return "\t".join(map(str, (image_id, WIDTH, HEIGHT, regions, *texts))) + "\n"


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))
    return file


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Two of the published files, with a line that comes again whole and one that does not."""
    write(tmp_path / "tsv" / bottom_up.PUBLISHED[0], line(7), line(9, cut=1), line(11, 4))
    write(tmp_path / "tsv" / bottom_up.PUBLISHED[4], line(9), line(13)[:40])
    return tmp_path / "tsv"


def make_features(features: Path, output: Path, *words: str) -> None:
    bottom_up.main(["--downloaded_feats", str(features), "--output_dir", str(output), *words])


def arrays(folder: Path) -> dict[str, list[Any]]:
    return {file.name: np.load(file).tolist() for file in sorted(folder.iterdir())}


def test_damaged_lines_are_skipped_and_named_and_found_again(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(features, tmp_path / "bu/cocobu")
    said = capsys.readouterr().out
    assert "3 pictures in 2 files, 3 of them written now" in said
    assert "skipped 2 damaged lines, of pictures 9, 13\n" in said
    assert "no whole line of 1 pictures: 13\n" in said
    assert arrays(tmp_path / "bu/cocobu_att")["9.npy"] == [[9, 9, 9], [9, 9, 9]]
    assert arrays(tmp_path / "bu/cocobu_fc") == {f"{i}.npy": [i] * 3 for i in (11, 7, 9)}
    assert arrays(tmp_path / "bu/cocobu_box")["7.npy"] == [[4, 5, WIDTH + 1, 10]] * 2
    table = (tmp_path / "bu/cocobu_sizes.csv").read_text()
    assert table == "image_id,width,height\n7,40,20\n9,40,20\n11,40,20\n"


def test_a_killed_program_goes_on_with_what_is_missing(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_features(features, tmp_path / "cocobu")
    whole = {part: arrays(tmp_path / f"cocobu_{part}") for part in bottom_up.PARTS}
    stays = (tmp_path / "cocobu_att/7.npy").stat().st_mtime_ns
    (tmp_path / "cocobu_fc/9.npy").unlink()
    cut = tmp_path / "cocobu_att/11.npy"
    cut.write_bytes(cut.read_bytes()[:-4])
    (tmp_path / "cocobu_sizes.csv").unlink()
    capsys.readouterr()
    make_features(features, tmp_path / "cocobu")
    assert "3 pictures in 2 files, 2 of them written now" in capsys.readouterr().out
    assert {part: arrays(tmp_path / f"cocobu_{part}") for part in bottom_up.PARTS} == whole
    assert (tmp_path / "cocobu_att/7.npy").stat().st_mtime_ns == stays
    assert (tmp_path / "cocobu_sizes.csv").is_file()


def test_features_may_go_into_a_store(features: Path, tmp_path: Path) -> None:
    for _ in range(2):
        make_features(features, tmp_path / "cocobu", "--format", "store", "--dtype", "float16")
    att, fc, box = (open_features(tmp_path / f"cocobu_{part}") for part in bottom_up.PARTS)
    assert att.get(9).tolist() == [[9] * 3] * 2
    assert fc.get(11).tolist() == [[11] * 3]
    assert box.get(7)[0].tolist() == [4, 5, WIDTH + 1, 10]


def test_other_files_of_features_are_read_where_the_published_ones_are_not(tmp_path: Path) -> None:
    file = write(tmp_path / "mine/all.tsv", line(3))
    assert bottom_up.find_files(tmp_path) == bottom_up.find_files(file) == [file]
    make_features(tmp_path / "mine", tmp_path / "out")
    assert list(arrays(tmp_path / "out_att")) == ["3.npy"]


def split_file(folder: Path) -> Path:
    images = []
    for number, (split, folder_name) in enumerate(
        (("train", "train2014"), ("restval", "val2014"), ("val", ""))
    ):
        name = f"COCO_{number}_{number + 7:012d}.jpg"
        (folder / folder_name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / folder_name / name)
        tokens = [["a", "dog", "runs"], ["a", f"word{number}", "a"]][: 2 - number // 2]
        sentences = [{"tokens": words, "raw": " ".join(words)} for words in tokens]
        image = {"filename": name, "filepath": folder_name, "split": split, "cocoid": number + 7}
        images.append({**image, "sentences": sentences})
    return write(folder / "dataset_coco.json", json.dumps({"images": images}))


def relative_words(tmp_path: Path, *words: str) -> list[str]:
    places = {"input_json": "dataset_coco.json", "image_root": "", "input_box_dir": "cocobu_box"}
    places["output_dir"] = "relative"
    return [w for name, place in places.items() for w in (f"--{name}", str(tmp_path / place))] + list(words)


def test_boxes_become_relative_by_pictures_by_the_table_and_by_cocos_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split_file(tmp_path)
    features = write(tmp_path / "all.tsv", line(7), line(8), line(50))
    make_features(features, tmp_path / "cocobu")
    with pytest.raises(SystemExit):
        relative_boxes.main(relative_words(tmp_path))
    shown = capsys.readouterr().err
    assert "test2014/COCO_test2014_000000000050.jpg: no such picture" in shown
    assert "dataset_coco.json has no image 50" in shown
    (tmp_path / "test2014").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "test2014/COCO_test2014_000000000050.jpg")
    relative_boxes.main(relative_words(tmp_path))
    assert "relative boxes of 3 pictures, 1 of them written now" in capsys.readouterr().out
    boxes = np.load(tmp_path / "relative/50.npy")
    assert (boxes.dtype, boxes[0].tolist()) == (np.float64, [0.1, 0.25, 1, 0.5])
    table = write(
        tmp_path / "sizes.json",
        json.dumps({"images": [{"id": i, "width": 2 * WIDTH, "height": HEIGHT} for i in (7, 8, 50)]}),
    )
    for sizes, left in ((tmp_path / "cocobu_sizes.csv", 0.1), (table, 0.05)):
        output = tmp_path / f"by_{sizes.name}"
        relative_boxes.main(relative_words(tmp_path, "--sizes", str(sizes), "--output_dir", str(output)))
        assert np.load(output / "8.npy")[0, 0] == left


def test_rare_words_are_unknown_and_the_vocabulary_keeps_the_order_of_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input_json", str(split_file(tmp_path)), "--output_json", str(tmp_path / "talk.json")]
    words += ["--output_h5", str(tmp_path / "talk"), "--max_length", "2", "--images_root", str(tmp_path)]
    labels.main([*words, "--word_count_threshold", "1"])
    assert "5 captions of 3 pictures, 4 words, 2 rare ones are UNK" in capsys.readouterr().out
    written = json.loads((tmp_path / "talk.json").read_text())
    assert written["ix_to_word"] == {"1": "a", "2": "dog", "3": "runs", "4": "UNK"}
    assert written["images"][2] == {
        "split": "val",
        "file_path": "COCO_2_000000000009.jpg",
        "id": 9,
        "width": WIDTH,
        "height": HEIGHT,
    }
    with h5py.File(tmp_path / "talk_label.h5") as file:
        found = {name: np.asarray(file[name]).tolist() for name in file}
    assert found == {
        "labels": [[1, 2], [1, 4], [1, 2], [1, 4], [1, 2]],
        "label_start_ix": [1, 3, 5],
        "label_end_ix": [2, 4, 5],
        "label_length": [2, 2, 2, 2, 2],
    }
    labels.main([*words, "--word_count_threshold", "0"])
    assert "UNK" not in json.loads((tmp_path / "talk.json").read_text())["ix_to_word"].values()


def count(tmp_path: Path, table: dict[str, str], *words: str) -> dict[str, DocumentFrequency]:
    write(tmp_path / "talk.json", json.dumps({"ix_to_word": table}))
    places = {"input_json": "dataset_coco.json", "dict_json": "talk.json", "output_pkl": "coco-train"}
    ngrams.main(
        [w for name, place in places.items() for w in (f"--{name}", str(tmp_path / place))] + [*words]
    )
    return {name: DocumentFrequency.load(tmp_path / f"coco-train-{name}.npz") for name in ("words", "idxs")}


def test_ngrams_count_once_a_picture_with_ends_and_unknown_words(tmp_path: Path) -> None:
    split_file(tmp_path)
    found = count(tmp_path, {"1": "a", "2": "dog", "3": "UNK"}, "--split", "train")
    words, numbers = found["words"].counts(), found["idxs"].counts()
    assert found["words"].images == found["idxs"].images == 2
    assert words[("a",)] == words[("a", "dog", "UNK", "<eos>")] == 2
    assert words[("a", "UNK", "a", "<eos>")] == numbers[("1", "3", "1", "0")] == 2
    assert len(words) == len(numbers)
    assert count(tmp_path, {"1": "a", "2": "UNK"})["words"].images == 3


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_the_originals_file_names_start_the_programs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--dry-run"])
    runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert "Options(" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[name].main(["--help"])
    assert stop.value.code == 0
    assert f"smp-caption {name}" in capsys.readouterr().out


def mistakes(tmp_path: Path) -> Sequence[tuple[Callable[[list[str]], object], list[str], str]]:
    split, empty = tmp_path / "dataset_coco.json", write(tmp_path / "empty.json", "{}")
    write(tmp_path / "text/a.tsv", "image_id\twidth\n")
    write(tmp_path / "wide/a.tsv", line(1), line(2, 2, 5))
    write(tmp_path / "sizes.csv", "image_id,width,height\n7,1,1\n")
    write(tmp_path / "wrong.csv", "image_id,width,height\n7,1\n")
    write(tmp_path / "other.csv", "id\n7\n")
    (tmp_path / "none").mkdir()
    output = ["--output_dir", str(tmp_path / "out")]
    relative = [*relative_words(tmp_path), "--sizes"]
    vocabulary = str(write(tmp_path / "talk.json", json.dumps({"ix_to_word": {"1": "a"}})))
    ngram_words = ["--input_json", str(split), "--output_pkl", str(tmp_path / "n"), "--dict_json"]
    return [
        (
            bottom_up.main,
            ["--downloaded_feats", str(tmp_path / "none"), *output],
            r"none: no \.tsv file of feat",
        ),
        (
            bottom_up.main,
            ["--downloaded_feats", str(tmp_path / "text"), *output],
            r"a\.tsv: line 1 begins with",
        ),
        (
            bottom_up.main,
            ["--downloaded_feats", str(tmp_path / "wide"), *output],
            r"a\.tsv: features of image 2 are 5 values wide, expected 3",
        ),
        (bottom_up.main, ["--format", "h5"], "npy.*store"),
        (
            relative_boxes.main,
            [*relative, str(tmp_path / "sizes.csv")],
            r"sizes\.csv: no width and height of image 8",
        ),
        (
            relative_boxes.main,
            [*relative, str(tmp_path / "wrong.csv")],
            "expected three whole numbers a line",
        ),
        (relative_boxes.main, [*relative, str(tmp_path / "other.csv")], "expected image_id,width,height"),
        (relative_boxes.main, [*relative, str(tmp_path / "gone.csv")], r"gone\.csv: cannot be read"),
        (labels.main, ["--input_json", str(empty)], r"empty\.json: the key 'images' is missing"),
        (labels.main, ["--max_length", "0"], "max_length is 0"),
        (ngrams.main, [*ngram_words, str(empty)], r"empty\.json: no ix_to_word"),
        (ngrams.main, [*ngram_words, vocabulary], "has neither the word 'dog' nor UNK"),
        (ngrams.main, [*ngram_words, vocabulary, "--split", "test"], "no picture in the split test"),
    ]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split_file(tmp_path)
    make_features(write(tmp_path / "all.tsv", line(7), line(8)), tmp_path / "cocobu")
    capsys.readouterr()
    for program, words, said in mistakes(tmp_path):
        with pytest.raises(SystemExit) as stop:
            program(words)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert re.search(said, error), error


def test_boxes_and_pictures_that_are_none_are_one_line(tmp_path: Path) -> None:
    split_file(tmp_path)
    np.save(write(tmp_path / "cocobu_box/7.npy"), np.ones((2, 3), np.float32))
    options = relative_boxes.RelativeBoxesOptions(
        input_json=str(tmp_path / "dataset_coco.json"),
        image_root=str(tmp_path),
        input_box_dir=str(tmp_path / "cocobu_box"),
        output_dir=str(tmp_path / "out"),
    )
    with pytest.raises(UserError, match="image 7 has rows of 3 numbers, expected x1, y1, x2, y2"):
        relative_boxes.make(options)
    np.save(tmp_path / "cocobu_box/7.npy", np.ones((2, 4), np.float32))
    write(tmp_path / "train2014/COCO_0_000000000007.jpg", "no picture")
    with pytest.raises(UserError, match=r"000007\.jpg: not a picture"):
        relative_boxes.make(options)
    images = [{"filename": "a", "sentences": []}]
    with pytest.raises(UserError, match="a has no caption, expected at least one"):
        labels.encode(images, ["x"], 3)
