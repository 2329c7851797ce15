"""The demo: what it says of pictures, and what it draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apt_vit import demo
from apt_vit.classifier import Classifier
from apt_vit.options import DemoOptions
from apt_vit.preprocess import Preprocess
from apt_vit.tokens.macs import lengths_of, macs_of
from apt_vit.tokens.rules import Rule
from prunelab.data.pictures import read_picture
from prunelab.errors import UserError
from prunelab.util import human_count

from .small import CONFIG, small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in no run, whose agents keep different patches."""
    found = Classifier(
        model=small_model(), preprocess=Preprocess(size=CONFIG.img_size), rule=Rule(keep_rate=0.6)
    )
    return found.save_pretrained(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a b.png", "c.jpg", "more/c.png")):
        noise = np.random.default_rng(number).integers(0, 256, (30, 50 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def options(**values: Any) -> DemoOptions:
    return DemoOptions(**({"device": "cpu"} | values))


def test_files_and_folders_are_named_and_drawn(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (str(pictures / "a b.png"), str(pictures / "c.jpg"), str(pictures / "more"))
    output = pictures / "out"
    written = demo.demo(options(files=files, model=str(model), output=str(output), top=2))
    assert [path.name for path in written] == ["a_b_kept.png", "c_kept.png", "c_kept2.png"]
    assert all(read_picture(path).width > 800 for path in written)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6
    assert said[0].startswith(f"{files[0]}: class ")
    assert said[0].count("%") == 2
    dense = macs_of(CONFIG, lengths_of(CONFIG), "none")
    kept = dict(zip(CONFIG.clip_layers, (19, 11, 7), strict=True))
    macs = macs_of(CONFIG, lengths_of(CONFIG, kept), "folded")
    line = f"  tokens 31 -> 19 -> 11 -> 7; multiply-adds {human_count(macs)}, {macs / dense:.0%} of"
    assert said[1] == f"{line} {human_count(dense)} -> {written[0]}"


def test_another_keep_rate_or_threshold_may_be_asked_for(model: Path) -> None:
    loaded = Classifier.from_pretrained(model)
    assert demo.with_options(loaded, options()).rule == loaded.rule
    assert demo.with_options(loaded, options(keep_rate=0.3)).rule == Rule(keep_rate=0.3)
    assert demo.with_options(loaded, options(threshold=0.2)).rule == Rule(threshold=0.2)


def test_a_network_that_prunes_nothing_costs_what_all_tokens_cost() -> None:
    plain = Classifier(
        model=small_model(), preprocess=Preprocess(size=CONFIG.img_size), rule=Rule(method="plain")
    )
    kept = plain.kept(np.zeros((8, 8, 3), np.uint8))
    assert kept.patches == {}
    dense = human_count(macs_of(CONFIG, lengths_of(CONFIG), "none"))
    assert demo.cost_line(plain, kept) == f"tokens 31; multiply-adds {dense}, 100% of {dense}"


@pytest.mark.tiny
def test_without_files_it_shows_test_pictures_of_the_newest_run(
    finished: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finished()
    monkeypatch.setenv("PRUNELAB_RUNS", str(run.parent.parent))
    monkeypatch.chdir(tmp_path)
    demo.main(["--device", "cpu"])
    written = sorted((tmp_path / "demo").iterdir())
    assert len(written) == demo.TAKEN
    said = capsys.readouterr().out
    assert said.count("multiply-adds") == demo.TAKEN
    assert said.startswith("test ")


def test_mistakes_get_one_line(model: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"lies in no run, whose test pictures could be shown: demo FILE\.\.\."
    ):
        demo.demo(options(model=str(model), output=str(tmp_path / "out")))
    (pictures / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png: not a picture; expected a JPEG or PNG file"):
        demo.demo(options(files=(str(pictures / "bad.png"),), model=str(model), output=str(tmp_path / "out")))
    with pytest.raises(UserError, match="no such picture"):
        demo.typed(["nowhere.png"])
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo.main(["x.png", "--top", "2", "--dry-run"])
    assert "x.png" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert torch.is_grad_enabled()
