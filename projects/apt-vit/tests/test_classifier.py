"""The Python API: pictures in, classes and kept patches out; saved and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import apt_vit
from apt_vit import classifier as module
from apt_vit.classifier import Classifier
from apt_vit.preprocess import Preprocess
from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule
from prunelab.errors import UserError

from .small import small_model

NAMES = ("cat", "dog", "emu", "fox", "gnu")


def classifier(**options: Any) -> Classifier:
    given = {"class_names": NAMES, "dataset": "pets", "notes": {"accuracy": 0.5}, **options}
    return Classifier(model=small_model(), preprocess=Preprocess(size=(20, 24)), **given)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    blocks = np.random.default_rng(0).integers(0, 2, (6, 9, 3)) * 255
    pixels = blocks.astype(np.uint8).repeat(5, axis=0).repeat(5, axis=1)  # (30, 45, 3), patches that differ
    file = tmp_path / "cat.png"
    Image.fromarray(pixels).save(file)
    return file


def test_a_picture_gets_its_likeliest_classes(picture: Path) -> None:
    model = classifier()

    found = model.classify(picture, top=2)

    assert len(found) == 2
    assert {name for name, _ in found} < set(NAMES)
    assert 1 > found[0][1] >= found[1][1] > 0
    whole = model.classify(str(picture))
    assert sum(share for _, share in whole) == pytest.approx(1)
    image = Image.open(picture)
    assert model.classify(image) == model.classify(np.asarray(image)) == whole
    assert model.predict(picture) == model.predict([picture]) == whole[:1]


def test_many_pictures_and_none(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    model = classifier()
    rows = model.probabilities([picture] * 5)
    assert rows.shape == (5, 5)
    torch.testing.assert_close(rows, rows[:1].expand(5, 5))
    assert len(model.predict([picture] * 3)) == 3
    assert model.predict([]) == []


def test_tokens_are_dropped_by_the_rule(picture: Path) -> None:
    model = classifier(rule=Rule(threshold=0.51))
    x = model.preprocess.picture(np.asarray(Image.open(picture)))[None]
    plain = passes.dropped(model.model, x, model.config.clip_layers, model.rule)

    found = model.kept(picture)

    assert found.counts == {layer: len(places) for layer, places in plain.kept.items()}
    assert 1 < found.counts[4] < found.counts[3] < 31
    for layer, patches in found.patches.items():
        assert patches.shape == (5, 6)
        assert int(patches.sum()) == found.counts[layer] - 1
        assert (torch.nonzero(patches.flatten())[:, 0] + 1).tolist() == plain.kept[layer][1:].tolist()
    (row,) = model.probabilities([picture])
    torch.testing.assert_close(row, plain.logits.softmax(1)[0])
    half = model.with_rule(Rule(keep_rate=0.5)).kept(picture)
    assert half.counts == {1: 16, 3: 8, 4: 4}
    whole = model.with_rule(Rule(method="plain"))
    assert whole.kept(picture).counts == {}
    torch.testing.assert_close(whole.probabilities([picture]), model.model(x).softmax(1))


def test_a_folder_holds_all_that_is_needed(picture: Path, tmp_path: Path) -> None:
    given = classifier(rule=Rule(keep_rate=0.7))
    folder = given.save_pretrained(tmp_path / "model")

    found = apt_vit.load(folder)

    assert found.facts() == given.facts()
    assert found.config == given.config
    assert not found.model.training
    assert found.classify(picture) == given.classify(picture)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("apt_vit.load", "agent, keep rate 0.7, behind blocks 1, 3, 4", "| accuracy | 0.5 |", "pets"):
        assert part in card
    assert {entry.name for entry in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_a_model_that_prunes_nothing_says_so(tmp_path: Path) -> None:
    folder = classifier(rule=Rule(method="plain")).save_pretrained(tmp_path / "model")
    assert "| tokens | all |" in (folder / "README.md").read_text(encoding="utf-8")


def test_classes_without_names_get_numbers() -> None:
    assert classifier(class_names=()).class_names == tuple(f"class {number}" for number in range(5))


def test_parts_that_do_not_fit_are_refused(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 classes have 2 names, expected one for each"):
        classifier(class_names=("cat", "dog"))
    with pytest.raises(UserError, match=r"pictures become \(8, 8\), expected the network's \(20, 24\)"):
        Classifier(model=small_model(), preprocess=Preprocess(size=(8, 8)))
    with pytest.raises(UserError, match=r"missing.png: no such picture"):
        classifier().classify(tmp_path / "missing.png")
    folder = classifier().save_pretrained(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["config"]["model"]["hidden_size"] = 48
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"model: weights of another model: \d+ of another shape"):
        Classifier.from_pretrained(folder)
    config["config"]["model"]["depth"] = 2
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json model: .*depth"):
        Classifier.from_pretrained(folder)
