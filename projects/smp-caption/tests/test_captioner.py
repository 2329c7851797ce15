"""A captioner as one thing: saved, loaded, asked for captions of features and of picture files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

import smp_caption
from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX, MaskSpec, masks
from smp_caption import demo, extract, train
from smp_caption.captioner import Captioner, Pictures
from smp_caption.data import open_data
from smp_caption.features.extractor import ShapeExtractor
from smp_caption.files.original import run_config

from .made import FAMILIES, SIZES, made, regions


def arrays(pictures: Path, name: str) -> list[np.ndarray]:
    return [np.load(pictures / "bu" / name / f"{number}.npy") for number in range(17, 22)]


def features(pictures: Path) -> list[np.ndarray]:
    return arrays(pictures, "cocobu_att")


def written(run: Path) -> list[str]:
    """The captions of the test pictures that the run's evaluation wrote."""
    return [entry["caption"] for entry in json.loads(next(run.glob("test_beam_2/caption_*")).read_text())]


@pytest.mark.parametrize(
    ("kind", "preset", "model"),
    [
        ("dense", "fixed", "up_down"),
        ("dense", "faithful", "up_down"),
        ("pruned", "fixed", "up_down"),
        ("pruned", "faithful", "up_down"),
        ("dense", "fixed", "ort"),
        ("dense", "fixed", "acort"),
    ],
)
def test_a_captioner_says_what_the_evaluation_wrote_and_keeps_it_through_a_folder(
    kind: str, preset: str, model: str, finished: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    run = finished(kind, preset, model)
    captioner = Captioner.from_pretrained(run / "best")
    boxes = None if model == "up_down" else arrays(pictures, "cocobu_box_relative")
    said = captioner.caption_features(features(pictures), boxes=boxes)
    assert said == written(run)
    assert len(set(said)) > 2
    folder = captioner.save_pretrained(tmp_path / "saved", extra=captioner.notes)
    again = smp_caption.load(folder)
    assert again.caption_features(features(pictures), boxes=boxes) == said
    assert (again.config, again.mask, again.decode) == (captioner.config, captioner.mask, captioner.decode)
    assert again.notes == captioner.notes
    for name, value in captioner.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    card = (folder / "README.md").read_text()
    assert f"{captioner.config.caption_model} captioner" in card
    assert "val/CIDEr" in card
    assert "smp_caption.load" in card


def test_a_masked_captioner_and_its_pruned_one_say_the_same(
    finished: Callable[[str, str], Path], pictures: Path
) -> None:
    run = finished("pruned", "fixed")
    masked, exported = Captioner.from_pretrained(run / "best"), Captioner.from_pretrained(run / "pruned")
    assert masked.mask is not None
    assert exported.mask is None
    assert exported.config.caption_model == "up_down_lstm"
    assert not masks(exported.model)
    pruned = masked.pruned()
    assert pruned.pruned() is pruned
    said = [each.caption_features(features(pictures)) for each in (masked, pruned, exported)]
    assert said[0] == said[1] == said[2]
    masked.model.train()
    assert masked.caption_features(features(pictures)) == said[0]
    assert masked.model.training


@pytest.mark.parametrize("kind", ["supermask", "fixed"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_masks_of_every_kind_are_kept_or_applied_for_good(
    family: str, kind: Literal["supermask", "fixed"], tmp_path: Path
) -> None:
    captioner, some = made(tmp_path, family, mask=MaskSpec(kind=kind)), regions(3, 5, 2)
    said = captioner.caption_features(**some)
    again = Captioner.from_pretrained(captioner.save_pretrained(tmp_path / "model"))
    assert (again.config, again.mask) == (captioner.config, captioner.mask)
    assert not (tmp_path / "model/model.safetensors").read_bytes().count(b"tgt_embed.1.pe")
    dense = again.pruned()
    assert (dense.config.caption_model, dense.mask) == (FAMILIES[family]["caption_model"], None)
    assert again.caption_features(**some) == dense.caption_features(**some) == said
    weights = dense.model.state_dict()
    for name, mask in masks(captioner.model).items():
        zero = weights[name.removesuffix(MASK_SUFFIX)] == 0
        assert torch.equal(zero, mask <= 0), name


@pytest.mark.parametrize("family", ["up_down", "ort"])
def test_three_lines_of_python_caption_a_picture(family: str, tmp_path: Path) -> None:
    picture = Path(__file__).parents[1] / "docs/shapes.png"
    extractor = ShapeExtractor(SIZES["att_feat_size"])
    made(tmp_path, family, extractor=extractor).save_pretrained(tmp_path / "model")

    m = smp_caption.load(tmp_path / "model")
    said = m.caption(picture)

    image = [Image.open(picture)]
    boxes = extractor.boxes(image) if family == "ort" else None
    assert said == m.caption_features(extractor(image), boxes=boxes)[0]
    assert said


def test_demo_says_what_a_relation_transformer_sees_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, extractor = Path(__file__).parents[1] / "docs/shapes.png", ShapeExtractor(SIZES["att_feat_size"])
    captioner = made(tmp_path, "ort", extractor=extractor)
    captioner.save_pretrained(tmp_path / "run/best")
    where = ["--model", str(tmp_path / "run"), "--device", "cpu", "--beam_size", "2"]
    demo.main([str(picture), *where, "--output", str(tmp_path / "page")])
    said = captioner.caption(picture, beam_size=2)
    assert f"{picture}: {said}" in capsys.readouterr().out
    assert said in (tmp_path / "page/captions.html").read_text()
    with Image.open(tmp_path / "page/captions.png") as page:
        assert page.size[0] > 100
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path))
    demo.main([str(picture), *where[2:]])
    assert capsys.readouterr().out.splitlines() == [f"model: {tmp_path / 'run/best'}", f"{picture}: {said}"]


def test_boxes_matter_to_a_relation_transformer_and_mistakes_in_them_are_named(tmp_path: Path) -> None:
    captioner, some = made(tmp_path, "ort"), regions(4, 2)
    moved = {**some, "boxes": [boxes[::-1] for boxes in some["boxes"]]}
    both = [Pictures(**each).batch(captioner.config) for each in (some, moved)]
    first, second = (captioner.model.begin(each).per_image["source"][0][0] for each in both)
    assert not torch.allclose(first, second)
    with pytest.raises(UserError, match=r"relation_transformer reads boxes: expected `boxes`"):
        captioner.caption_features(some["features"])
    wrong = [some["boxes"][0], some["boxes"][0]]
    with pytest.raises(UserError, match=r"boxes of shape \(4, 4\), expected \(2, 4\): one a region"):
        captioner.caption_features(some["features"], boxes=wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "word"}, "its tokenizer has 18 ids, the model vocab_size 8: expected no more than that"),
        ({"kind": "radix", "base": 4}, r"bos_token_id and eos_token_id are \(6, 7\), expected \(5, 6\)"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = made(tmp_path, "acort").save_pretrained(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    content["config"]["tokenizer"] = change
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        Captioner.from_pretrained(folder)


def test_pictures_do_not_disturb_each_other(finished: Callable[[str, str], Path], pictures: Path) -> None:
    captioner = smp_caption.load(finished("dense", "fixed"))
    each = features(pictures)
    together = captioner.caption_features(each)
    assert [captioner.caption_features([one])[0] for one in each] == together
    greedy = captioner.caption_features(each, beam_size=1)
    assert len(greedy) == 5
    means = [one.mean(axis=0) for one in each]
    assert captioner.caption_features(each, means) == together
    assert captioner.caption_features(each, [0 * mean for mean in means]) != together


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, pictures: Path, command: Callable[..., list[str]]) -> Path:
    """A run on features that were computed from the pictures themselves, by a random backbone."""
    folder = tmp_path_factory.mktemp("own")
    backbone = ["--backbone", "resnet8_cifar", "--scales", "16:1,16:2", "--output", str(folder / "features")]
    extract.main(["--dataset-json", str(pictures), *backbone])
    size = str(np.load(folder / "features/fc/1.npy").shape[0])
    paths = ["--input_att_dir", str(folder / "features/att"), "--input_fc_dir", str(folder / "features/fc")]
    sizes = ["--att_feat_size", size, "--fc_feat_size", size]
    train.main(command(folder / "run", "--dataset", "captions", *paths, *sizes))
    return folder / "run"


def test_a_model_of_computed_features_captions_picture_files(own: Path, pictures: Path) -> None:
    captioner = smp_caption.load(str(own))
    files = [pictures / "test" / f"{number}.png" for number in range(17, 22)]
    said = captioner.caption(files)
    assert said == written(own)
    assert len(set(said)) > 2
    assert captioner.caption(str(files[0])) == said[0]
    assert captioner.caption([Image.open(files[1])]) == said[1:2]
    assert captioner.caption([]) == []


def test_the_extractor_goes_along_into_every_folder(own: Path, pictures: Path, tmp_path: Path) -> None:
    captioner = smp_caption.load(own / "last")
    again = Captioner.from_pretrained(captioner.save_pretrained(tmp_path / "saved"))
    file = pictures / "test/18.png"
    assert again.caption(file) == captioner.caption(file)
    assert again.extractor is not None
    assert captioner.extractor is not None
    assert again.extractor.config == captioner.extractor.config
    # Training on from the saved model's folder needs no features to be computed again.
    assert open_data(run_config(own)).sources.att.get(18).shape == (5, again.config.att_feat_size)


def test_mistakes_are_named(
    own: Path, finished: Callable[[str, str], Path], pictures: Path, tmp_path: Path
) -> None:
    with_features, with_extractor = smp_caption.load(finished("dense", "fixed")), smp_caption.load(own)
    with pytest.raises(UserError, match="holds no extractor: caption features instead"):
        with_features.caption(pictures / "test/17.png")
    with pytest.raises(UserError, match=r"features of shape \(3, 7\), expected \(regions, 12\)"):
        with_features.caption_features([np.zeros((3, 7), dtype=np.float32)])
    with pytest.raises(UserError, match="no such picture"):
        with_extractor.caption(tmp_path / "missing.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text.jpg: not a picture; expected a JPEG or PNG file"):
        with_extractor.caption(tmp_path / "text.jpg")
    with pytest.raises(UserError, match="no checkpoint there; expected a model folder, a run, or a file"):
        smp_caption.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kind", "acosp-seg", "a model of 'acosp-seg', expected one of 'smp-caption'"),
        ("version", 99, "version is 99"),
        ("config", None, "config is missing"),
    ],
)
def test_a_folder_of_another_model_is_named(
    key: str, value: object, said: str, finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = Captioner.from_pretrained(finished("dense", "fixed") / "best").save_pretrained(tmp_path / "m")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(UserError, match=said):
        Captioner.from_pretrained(folder)


def test_weights_that_do_not_fit_the_configuration_are_named(
    finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = Captioner.from_pretrained(finished("dense", "fixed") / "best").save_pretrained(tmp_path / "m")
    content = json.loads((folder / "config.json").read_text())
    content["config"]["model"]["rnn_size"] = 17
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"does not fit the model: fc_embed.0.weight 16x12 \(expected 17x12\)"
    ):
        Captioner.from_pretrained(folder)
    content["config"]["model"] |= {"rnn_size": 16, "rnn_sizes": 16}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"rnn_sizes.*rnn_size"):
        Captioner.from_pretrained(folder)
    content["config"]["model"].pop("rnn_sizes")
    content["config"]["tokenizer"] = {"kind": "words"}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="tokenizer"):
        Captioner.from_pretrained(folder)
    content["config"]["tokenizer"] = {"kind": "word"}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "word.model").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"word.model is not a sentencepiece model"):
        Captioner.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model.safetensors: broken or cut off"):
        Captioner.from_pretrained(folder)
