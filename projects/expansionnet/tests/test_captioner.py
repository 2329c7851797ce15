"""Captioners: pictures and features to captions, and the folders and files that hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import expansionnet
from expansionnet import decoding
from expansionnet.captioner import Captioner
from expansionnet.config import DecodeConfig
from expansionnet.features.extractor import FeatureExtractor
from expansionnet.model.swin import full_state, to_official
from expansionnet.words.text import to_text
from prunelab.errors import UserError

from .small import SAID, SWIN, WORDS, captioner, same


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures of noise: RGB, grey, CMYK."""
    rng = np.random.default_rng(0)
    paths = []
    for mode, shape in (("RGB", (40, 30, 3)), ("L", (30, 40)), ("CMYK", (20, 20, 4))):
        paths.append(tmp_path / f"{mode}.jpg")
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8), mode).save(paths[-1])
    return paths


def with_backbone(model: Captioner) -> Captioner:
    """A captioner that reads features of the backbone of another one."""
    whole = captioner(end_to_end=True, seed=1).model
    return replace(model, extractor=FeatureExtractor(whole.swin_transf, SWIN))


def test_pictures_of_any_mode_and_form_are_captioned(pictures: list[Path]) -> None:
    model = captioner(end_to_end=True)
    said = model.caption(pictures)
    assert len(said) == 3
    assert all(one.endswith(".") and one[0].isupper() for one in said)
    assert model.caption(pictures[0]) == said[0]
    with Image.open(pictures[0]) as image:
        image.load()
        assert model.caption([image, np.array(image)]) == [said[0], said[0]]


def test_a_caption_is_what_decoding_finds(pictures: list[Path]) -> None:
    model = captioner(end_to_end=True)
    options = decoding.options(model.decode, WORDS, 2, positions=model.config.max_seq_len)
    found = decoding.caption(model.model, model.inputs(pictures), options)
    assert model.caption(pictures, beam_size=2) == [to_text(WORDS.decode(ids)) for ids in found]


@pytest.mark.slow
def test_a_prepared_captioner_says_the_same(pictures: list[Path]) -> None:
    model = captioner(end_to_end=True, model_dim=256, N_dec=1)
    said = model.caption(pictures)
    assert model.prepare() is model
    assert model.caption(pictures) == said
    assert replace(model, notes={}).caption(pictures) == said


def test_black_pictures_are_the_originals(pictures: list[Path]) -> None:
    model = captioner(end_to_end=True)
    kept = model.inputs(pictures)
    model.black_pictures = True
    black = model.inputs(pictures)
    assert torch.equal(kept[0], black[0])
    assert not torch.equal(kept[1], black[1])
    assert torch.equal(black[1], black[2])


def test_features_are_captioned_whatever_their_number_of_tokens() -> None:
    model = captioner()
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.randn(tokens, SWIN.width, generator=generator) for tokens in (3, 7))
    alone = [model.caption_features([one])[0] for one in (short, long)]
    assert model.caption_features([short.numpy(), long]) == alone
    assert model.caption_features(torch.stack([long, long])) == [alone[1]] * 2
    with pytest.raises(UserError, match=r"features of shape \(3, 5\), expected \(visual tokens, 16\)"):
        model.caption_features([torch.zeros(3, 5)])
    with pytest.raises(UserError, match="this model reads pictures, expected a model that reads features"):
        captioner(end_to_end=True).caption_features([short])


def test_a_model_that_reads_features_needs_a_backbone_for_pictures(
    pictures: list[Path], tmp_path: Path
) -> None:
    model = captioner()
    with pytest.raises(UserError, match="reads features and has no backbone: name its weights"):
        model.caption(pictures)
    expected = with_backbone(model)
    swin = captioner(end_to_end=True, seed=1).model.swin_transf
    torch.save({"model": to_official(full_state(swin))}, tmp_path / "swin.pth")
    found = model.with_backbone(tmp_path / "swin.pth")
    assert torch.equal(found.inputs(pictures), expected.inputs(pictures))
    assert found.caption(pictures) == expected.caption(pictures)
    with pytest.raises(UserError, match=r"swin.pth: visual tokens of width 16, expected 20"):
        captioner(img_feature_dim=20).with_backbone(tmp_path / "swin.pth")
    with pytest.raises(UserError, match="expected none: this model has one of its own"):
        captioner(end_to_end=True).with_backbone(tmp_path / "swin.pth")


@pytest.mark.parametrize("end_to_end", [False, True])
def test_a_folder_holds_all_of_a_captioner(end_to_end: bool, pictures: list[Path], tmp_path: Path) -> None:
    model = captioner(end_to_end=end_to_end)
    model = model if end_to_end else with_backbone(model)
    model.decode = DecodeConfig(eval_beam_sizes=(2,), max_len=7)
    folder = model.save_pretrained(tmp_path / "saved", extra={"step": 12, "scores": {"CIDEr": 0.5}})
    card = (folder / "README.md").read_text()
    assert "| CIDEr | 0.5 |" in card
    assert "expansionnet.load" in card
    assert ("reads | pictures" in card) == end_to_end
    found = expansionnet.load(folder)
    assert same(found.model, model.model)
    assert (found.vocabulary, found.decode, found.config) == (WORDS, model.decode, model.config)
    assert found.notes == {"step": 12, "scores": {"CIDEr": 0.5}}
    assert found.caption(pictures) == model.caption(pictures)
    assert not any(file.suffix in (".pth", ".pkl", ".pickle") for file in folder.iterdir())


@pytest.mark.parametrize("end_to_end", [False, True])
def test_the_originals_file_and_back_is_the_same_model(end_to_end: bool, tmp_path: Path) -> None:
    model = captioner(end_to_end=end_to_end)
    path = model.save_original(tmp_path / "rf_model.pth")
    found = Captioner.from_original(path, **SAID)
    assert same(found.model, model.model)
    assert found.vocabulary == WORDS
    other = replace(WORDS, words=(*WORDS.words[:-1], "zebra"))
    with pytest.raises(UserError, match=r"vocabulary.json: words of another model lie there"):
        replace(model, vocabulary=other).save_original(tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()
    assert (
        Captioner.from_original(path, vocab_path=other.save(tmp_path / "o.json"), **SAID).vocabulary == other
    )


def test_published_words_are_found_where_the_original_expects_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = captioner().save_original(tmp_path / "rf_model.pth")
    words = tmp_path / "vocabulary.json"
    monkeypatch.chdir(tmp_path)
    for place in ("demo_coco_tokens.pickle", "demo_material/demo_coco_tokens.pickle"):
        spot = tmp_path / place
        spot.parent.mkdir(exist_ok=True)
        words = words.rename(spot)
        assert Captioner.from_original(path, **SAID).vocabulary == WORDS
    replace(WORDS, words=(*WORDS.words, "zebra")).save(words)
    with pytest.raises(UserError, match="its 16 words are not in it: name its vocabulary"):
        Captioner.from_original(path, **SAID)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = captioner().save_pretrained(tmp_path / "saved")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"kind": "expansionnet"', '"kind": "smp-caption"'))
    with pytest.raises(UserError, match="a model of 'smp-caption', expected one of 'expansionnet'"):
        expansionnet.load(folder)
