"""``test``: scores, result files, comparisons, ensembles, models of every form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import expansionnet
from expansionnet import test
from expansionnet.files.original import checkpoints
from testing.mistakes import Fails

from .conftest import COUNTS, MODEL, Command

pytestmark = pytest.mark.tiny

TEST_IDS = list(range(COUNTS["train"] + COUNTS["val"] + 1, sum(COUNTS.values()) + 1))


def places(pictures: Path) -> list[str]:
    """Where a checkpoint of the original gets its data."""
    where = [f"--{name} {pictures}" for name in ("captions_path", "images_path")]
    words = [*" ".join(where).split(), "--features_path", str(pictures / "features.hdf5")]
    return [*words, "--workers", "0", "--eval_beam_sizes", "[2]", "--dict-min-occurrences", "1"]


def sizes(*names: str) -> list[str]:
    """Flags of `MODEL` that a file of weights does not tell, as typed."""
    words = MODEL.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if flag in names for word in (flag, value)]


UNTOLD = sizes("--num-heads", "--num-exp-enc-list")


def captions(folder: Path, split: str = "test", beams: int = 2) -> dict[int, str]:
    [file] = (folder / f"{split}_beam_{beams}").glob("caption_*.json")
    return {entry["image_id"]: entry["caption"] for entry in json.loads(file.read_text())}


def test_a_run_is_tested_on_its_own_data_by_its_folder_alone(
    finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test.main(["--model", str(finished("xe")), "--output", str(tmp_path), "--eval_beam_sizes", "[2,1]"])
    out = capsys.readouterr().out
    first, *_ = (line for line in out.splitlines() if line.startswith("val, "))
    assert first.startswith(f"val, {COUNTS['val']} pictures, beam 2: [('CIDEr', ")
    assert "('Bleu_4', " in first
    assert "val_beam_1" in out
    assert list(captions(tmp_path)) == TEST_IDS
    assert (tmp_path / "test_beam_1/scores.csv").is_file()
    best = json.loads((finished("xe") / "best/config.json").read_text())["config"]["notes"]
    scores = json.loads(next((tmp_path / "val_beam_2").glob("score_????????.json")).read_text())
    assert scores["CIDEr"] == pytest.approx(best["scores"]["val/CIDEr"])
    together = json.loads((tmp_path / "scores.json").read_text())
    assert together["val/CIDEr"] == scores["CIDEr"]
    assert "test_beam_2/CIDEr" in together or "test/CIDEr" in together


def test_captions_beside_references_and_files_for_the_server_are_written(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    flags = ["--show_predictions", "True", "--server-name", "ours", "--metrics", "CIDEr"]
    test.main(["--model", str(finished("xe")), "--output", str(tmp_path), *flags])
    lines = (tmp_path / "predictions.txt").read_text().splitlines()
    assert len(lines) == 3 * (COUNTS["val"] + COUNTS["test"])
    assert lines[3 * COUNTS["val"] :][0] == "0"
    assert lines[-2] == f"Pred: {captions(tmp_path)[TEST_IDS[-1]]}"
    assert json.loads(lines[-1].removeprefix("Gt: "))[0] == "Two men walk in a park."
    for split, name in (("val", "val2014"), ("test", "test2014")):
        found = json.loads((tmp_path / f"captions_{name}_ours_results.json").read_text())
        assert {entry["image_id"]: entry["caption"] for entry in found} == captions(tmp_path, split)


def test_a_checkpoint_of_the_original_takes_its_words_from_the_captions(
    finished: Callable[..., Path], tmp_path: Path, pictures: Path
) -> None:
    run = finished("end_to_end_xe", "faithful")
    [file] = checkpoints(run / "saves")
    shutil.copy(file, tmp_path / "rf_model.pth")
    words = ["--save_model_path", str(tmp_path / "rf_model.pth"), "--output", str(tmp_path)]
    test.main([*words, *places(pictures), *UNTOLD, *sizes("--swin-img-size")])
    test.main(["--model", str(run / "last"), "--output", str(tmp_path / "ours"), "--preset", "faithful"])
    assert captions(tmp_path) == captions(tmp_path / "ours")


def test_an_ensemble_is_all_models_of_a_folder(
    finished: Callable[..., Path], tmp_path: Path, pictures: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(finished("xe") / "best", models / "a")
    shutil.copytree(finished("xe", "faithful") / "best", models / "b")
    words = ["--save_model_path", str(models), "--is_ensemble", "True", "--is_end_to_end", "False"]
    test.main([*words, *places(pictures), "--output", str(tmp_path / "both"), "--preset", "fixed"])
    both = captions(tmp_path / "both")
    assert list(both) == TEST_IDS
    shutil.rmtree(models / "b")
    test.main([*words, *places(pictures), "--output", str(tmp_path / "one"), "--preset", "fixed"])
    test.main(["--model", str(finished("xe") / "best"), "--output", str(tmp_path / "alone")])
    assert captions(tmp_path / "one") == captions(tmp_path / "alone")


def test_the_body_of_an_end_to_end_model_reads_features(
    finished: Callable[..., Path], tmp_path: Path, pictures: Path
) -> None:
    words = ["--model", str(finished("end_to_end_xe") / "best"), "--is_end_to_end", "False"]
    test.main([*words, *places(pictures), "--output", str(tmp_path)])
    assert list(captions(tmp_path)) == TEST_IDS


def test_pictures_without_captions_are_captioned_and_not_scored(
    finished: Callable[..., Path], tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((pictures / "dataset_coco.json").read_text())
    for image in content["images"]:
        if image["split"] == "test":
            image["sentences"] = []
    (tmp_path / "dataset_coco.json").write_text(json.dumps(content))
    flags = ["--captions_path", str(tmp_path), "--splits", "test", "--output", str(tmp_path)]
    test.main(["--model", str(finished("xe")), *flags, "--server-name", "ours"])
    assert list(captions(tmp_path)) == TEST_IDS
    assert not list((tmp_path / "test_beam_2").glob("score*"))
    assert (tmp_path / "captions_test2014_ours_results.json").is_file()
    assert "no captions to compare with" in capsys.readouterr().out


def test_the_best_constant_caption_needs_no_model(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--constant", *places(pictures), "--is_end_to_end", "False", "--output", str(tmp_path)]
    test.main([*flags, *sizes("--img-feature-dim")])
    found = json.loads((tmp_path / "constant.json").read_text())
    assert set(found) > {"val/CIDEr", "test/CIDEr"}
    assert found["caption"] in capsys.readouterr().out


def test_the_newest_run_is_meant_where_none_is_named(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished("xe"), tmp_path / "runs/old")
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    test.main(["--splits", "val", "--max-steps", "1"])
    assert len(captions(tmp_path / "runs/old/tested", "val")) == 2


def test_nothing_is_run_to_show_a_configuration(
    finished: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    test.main(["--model", str(finished("xe")), "--print-config"])
    assert "eval_beam_sizes" in capsys.readouterr().out
    test.main(["--model", "nowhere", "--dry-run"])
    assert "nowhere" in capsys.readouterr().out


def test_what_cannot_be_tested_is_said_in_one_line(
    finished: Callable[..., Path], tmp_path: Path, pictures: Path, fails: Fails, command: Command
) -> None:
    def check(said: str, *words: str) -> None:
        fails(test.main, [*words, "--output", str(tmp_path / "out")], said)

    check("nowhere: no weights there", "--model", str(tmp_path / "nowhere"))
    check("expected a folder of checkpoints", "--save_model_path", str(tmp_path), "--is_ensemble", "True")
    [file] = checkpoints(finished("xe", "faithful") / "saves")
    shutil.copy(file, tmp_path / "rf_model.pth")
    few = json.loads((pictures / "dataset_coco.json").read_text())
    few["images"] = [image for image in few["images"] if image["cocoid"] % 2]
    (tmp_path / "dataset_coco.json").write_text(json.dumps(few))
    words = ["--save_model_path", str(tmp_path / "rf_model.pth"), *places(pictures), *UNTOLD]
    known = len(expansionnet.load(finished("xe") / "best").vocabulary)
    check(rf"{known} words, the vocabulary has \d+", *words, "--captions_path", str(tmp_path))
    check("is_end_to_end is True, expected False", *words, "--is_end_to_end", "True")
    assert not (tmp_path / "out/test_beam_2").exists()
