"""`demo` captions pictures, writes pages of them, and says what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from expansionnet import demo
from expansionnet.cli import parse_demo
from expansionnet.config import Config, DataConfig
from prunelab.config import save_yaml
from prunelab.errors import UserError
from testing.mistakes import Fails

from .small import captioner

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The model of a tour, untrained, where the newest one is looked for."""
    return captioner(end_to_end=True).save_pretrained(tmp_path / "runs/tour-001/scst/best")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture in colours and a grey one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "a.jpg")
    Image.effect_noise((30, 40), 90).save(folder / "b.png")
    return folder


def run(words: str) -> dict[str, str]:
    return demo.demo(parse_demo(words.split()))


def test_captions_stand_beside_file_names_one_a_line(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(f"{pictures} --device cpu --max-len 6")
    assert list(found) == [str(pictures / "a.jpg"), str(pictures / "b.png")]
    assert capsys.readouterr().out.splitlines() == [f"{name}: {caption}" for name, caption in found.items()]
    for caption in found.values():
        assert caption.endswith(".")
        assert "UNK" not in caption
        assert len(caption.split()) <= 5
    again = run(
        f"--load_path {model} --image_paths {pictures}/b.png {pictures}/a.jpg --max-len 6 --beam_size 5"
    )
    assert again == found


def test_captions_as_json_and_as_a_page(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(f"{pictures}/a.jpg --model {model.parent} --json - --output shown --beam-size 2")
    out = capsys.readouterr().out
    assert json.loads(out[: out.rindex("}") + 1]) == found
    page = (tmp_path / "shown/captions.html").read_text()
    assert next(iter(found.values())) in page
    with Image.open(tmp_path / "shown/captions.png") as sheet:
        assert sheet.width > 40
    run(f"{pictures}/a.jpg --json said.json --beam-size 2")
    assert json.loads((tmp_path / "said.json").read_text()) == found


def test_faithful_sees_grey_pictures_as_black_ones(model: Path, pictures: Path) -> None:
    options = parse_demo(["x", "--preset", "faithful"])
    faithful, fixed = demo.captioner_of(options), demo.captioner_of(parse_demo(["x"]))
    grey = pictures / "b.png"
    Image.new("RGB", (30, 40)).save(pictures / "black.png")
    assert faithful.inputs([grey]).equal(fixed.inputs([pictures / "black.png"]))
    assert not fixed.inputs([grey]).equal(fixed.inputs([pictures / "black.png"]))
    assert (faithful.decode.suppress_unk, fixed.decode.suppress_unk) == (False, True)


def test_no_picture_means_test_pictures_of_the_runs_own_data(model: Path, pictures: Path) -> None:
    entries = [
        {"image": f"{pictures}/{name}", "captions": ["a dog"], "split": split}
        for name, split in (("a.jpg", "train"), ("b.png", "test"))
    ]
    (pictures / "captions.json").write_text(json.dumps(entries))
    data = DataConfig(dataset="own", captions_path=str(pictures), images_path=str(pictures))
    with pytest.raises(UserError, match="no picture is named"):
        run("")
    save_yaml(model.parent / "config.yaml", Config(data=data))
    assert list(run("--beam_size 1 --max-len 4")) == [str(pictures / "b.png")]


def test_a_model_that_reads_features_needs_a_backbone(tmp_path: Path, pictures: Path) -> None:
    captioner().save_pretrained(tmp_path / "features")
    with pytest.raises(UserError, match=r"has no backbone: name its weights \(backbone=, --backbone\)"):
        run(f"{pictures}/a.jpg --model features")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("missing.jpg", "missing.jpg"),
        ("pictures/text.jpg", "text.jpg"),
        ("pictures --model nowhere", "nowhere"),
        ("pictures --model pictures/a.jpg", "a.jpg"),
        ("empty", "empty: no picture found"),
    ],
)
def test_mistakes_are_one_line(words: str, message: str, model: Path, pictures: Path, fails: Fails) -> None:
    (pictures.parent / "empty").mkdir()
    (pictures / "text.jpg").write_text("no picture")
    assert fails(demo.main, [*words.split(), "--beam_size", "1"], message)


def test_without_any_model_the_line_names_what_to_do(pictures: Path, fails: Fails) -> None:
    assert fails(demo.main, [str(pictures / "a.jpg")], "no trained model in runs and .*: run `train` first")
