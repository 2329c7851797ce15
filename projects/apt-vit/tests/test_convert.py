"""Published files become model folders; what they are, and what they lack, is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apt_vit import convert
from apt_vit.classifier import Classifier
from apt_vit.files.original import write
from apt_vit.files.timm_weights import to_timm
from apt_vit.preprocess import Preprocess
from testing.mistakes import Fails

from .google_files import npz_of
from .small import small_model

SQUARE = {"img_size": (20, 20)}
"""Positions of a square tell the pictures' size."""


def source_of(kind: str, folder: Path) -> Path:
    """A file of a kind, all with the weights of one network."""
    model = small_model(**SQUARE)
    match kind:
        case "npz":
            npz_of(model, folder / "vit.npz")
            return folder / "vit.npz"
        case "timm":
            torch.save(to_timm(model.state_dict()), folder / "vit.pth")
            return folder / "vit.pth"
        case "original":
            return write(folder / "1_apt_checkpoint.bin", model.state_dict())
        case _:
            return Classifier(model=model, preprocess=Preprocess(size=(20, 20))).save_pretrained(
                folder / "run" / "best"
            )


SAID = {
    "npz": ("google's npz", "unused keys: pre_logits/bias"),
    "timm": ("timm's vision transformer", "unused keys: none"),
    "original": ("a checkpoint of the original with 3 agents", "missing keys, left as they were: none"),
    "folder": ("a model folder", "missing keys, left as they were: none"),
}


@pytest.mark.parametrize("kind", SAID)
def test_every_kind_becomes_a_model_folder(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of(kind, tmp_path)
    target = tmp_path / "out"
    hints = ["--num-heads", "3", "--clip-layers", "1,3,4"]

    convert.main([str(source), str(target), *hints])

    said = capsys.readouterr().out
    sizes = "6 blocks of width 24 with 3 heads, agents behind blocks 1, 3, 4, 5 classes, pictures of 20 x 20"
    for part in (*SAID[kind], sizes, f"written: {target}"):
        assert part in said
    found, given = Classifier.from_pretrained(target).model.state_dict(), small_model(**SQUARE).state_dict()
    for name, value in found.items():
        if kind in ("original", "folder") or "clip_layer" not in name:
            assert torch.equal(value, given[name]), name
    if kind in ("npz", "timm"):
        assert "left as they were: transformer.encoder.clip_layer.0.query.weight, " in said
        assert ", ... (24 in all)" in said


def test_a_dry_run_says_what_it_is_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of("npz", tmp_path)
    convert.main(
        [str(source), str(tmp_path / "out"), "--dry-run", "--img_size", "32", "--preset", "faithful"]
    )
    said = capsys.readouterr().out
    assert "load_pretrained: grid-size from 5 to 8" in said
    assert "agents behind blocks 2, 5, 8" in said
    assert not (tmp_path / "out").exists()


def test_mistakes_get_one_line(tmp_path: Path, fails: Fails) -> None:
    source, out = str(source_of("original", tmp_path)), str(tmp_path / "out")
    fails(convert.main, [source, out], r"its 24 columns do not tell the heads, expected --num-heads")
    fails(convert.main, [source, source], r"not written over its source")
    fails(
        convert.main,
        [str(tmp_path / "x.bin"), out],
        r"x.bin: no such file or folder, expected a model folder",
    )
    hints = ["--num-heads", "3", "--clip-layers", "1"]
    fails(convert.main, [source, out, *hints], r"3 agents for clip_layers \[1\], expected as many")
    assert not Path(out).exists()
