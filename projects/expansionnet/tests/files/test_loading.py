"""Which weights a path means, and what a run starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import expansionnet
from expansionnet.captioner import load
from expansionnet.config import Config, RunOptions
from expansionnet.files.backbone import BackboneFiles
from expansionnet.files.loading import find_weights, load_body_and_backbone, open_start, open_weights
from expansionnet.files.original import write_model
from expansionnet.files.recognise import FOLDER, config_of
from expansionnet.model import ExpansionNet, build
from expansionnet.model.swin import full_state, to_official
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

from ..recorded import checkpoint_of, load_model, model_config, model_facts
from ..small import SAID, SWIN, WORDS, captioner, config, same


def cfg(*, end_to_end: bool = False, **run: Any) -> Config:
    return Config(model=config(end_to_end=end_to_end), run=RunOptions(**run))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Weights of every kind, from two seeds: those of ``other`` and of backbones are of the second one."""
    whole, other = captioner(end_to_end=True), captioner(end_to_end=True, seed=1)
    captioner().save_pretrained(tmp_path / "folder")
    write_model(tmp_path / "body.pth", captioner().model)
    write_model(tmp_path / "whole.pth", whole.model)
    write_model(tmp_path / "other.pth", other.model)
    other.save_pretrained(tmp_path / "run" / "best")
    swin = other.model.swin_transf
    torch.save({"model": to_official(full_state(swin))}, tmp_path / "swin.pth")
    save_file(swin.state_dict(), tmp_path / "timm.safetensors")
    files = BackboneFiles(config=SWIN, state=swin.state_dict()).content()
    captioner(seed=3).save_pretrained(tmp_path / "reader" / "best")
    for folder in ("random.backbone", "reader/best"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / folder / name).write_bytes(content)
    return {file.name: str(file) for file in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["folder", "run"])
def test_our_folders_say_sizes_and_words_themselves(name: str, files: dict[str, str]) -> None:
    found = open_weights(files[name])
    assert found.kind == FOLDER
    assert found.vocabulary == WORDS
    assert config_of(found) == config(end_to_end=name == "run")
    with pytest.raises(UserError, match="ff is 25, expected 24"):
        config_of(found, {"ff": 25})


def test_folders_of_runs_and_of_checkpoints_are_searched(tmp_path: Path) -> None:
    small = captioner()
    for name in ("xe/best", "rf/last", "end_to_end_xe/best"):
        small.save_pretrained(tmp_path / name)
    assert find_weights(tmp_path) == tmp_path / "rf/last"
    assert find_weights(tmp_path / "rf/last/model.safetensors") == tmp_path / "rf/last"
    saves = tmp_path / "saves"
    saves.mkdir()
    with pytest.raises(UserError, match="no weights there"):
        find_weights(saves)
    write_model(saves / "rf_model.pth", small.model)
    assert find_weights(saves) == saves / "rf_model.pth"
    newest = saves / "checkpoint_2024-01-31-09:05:07_epoch2it12bs6_xe_.pth"
    write_model(newest, small.model)
    assert find_weights(saves) == newest
    for nothing in ("", saves / "other.pth"):
        with pytest.raises(UserError, match="no weights there, expected a model folder, a run, or a file"):
            find_weights(nothing)


def test_words_beside_a_file_are_its_words_if_they_are_as_many(files: dict[str, str], tmp_path: Path) -> None:
    others = replace(WORDS, words=(*WORDS.words, "zebra"))
    others.save(tmp_path / "vocabulary.json")
    assert open_weights(files["body.pth"]).vocabulary is None
    WORDS.save(tmp_path / "demo_coco_tokens.pickle")
    assert open_weights(files["body.pth"]).vocabulary == WORDS
    assert open_weights(files["swin.pth"]).vocabulary is None
    others.save(Path(files["folder"]))
    with pytest.raises(UserError, match=r"vocabulary.json: a vocabulary of 17 words, expected the 16 of"):
        open_weights(files["folder"])
    with pytest.raises(UserError, match=r"words.json: a vocabulary of 17 words, expected the 16 of .*whole"):
        load(files["whole.pth"], vocab_path=others.save(tmp_path / "words.json"), **SAID)


# ------------------------------------------------------------------------------------ what a run starts from


def started(model: ExpansionNet, **run: Any) -> tuple[ExpansionNet, list[str]]:
    lines = load_body_and_backbone(model, cfg(end_to_end=model.cfg.is_end_to_end, **run))
    return model, lines


def test_nothing_is_loaded_where_nothing_is_named(files: dict[str, str]) -> None:
    for run in (
        {},
        {"body_save_path": files["body.pth"]},
    ):  # the original loads a body with partial_load alone
        start = open_start(cfg(**run))
        assert (start.weights, start.vocabulary, start.vocab_size, start.max_seq_len) == ((), None, 0, 0)
        model = captioner(seed=2).model
        assert start.load_into(model) == []
        assert same(model, captioner(seed=2).model)


@pytest.mark.parametrize("name", ["body.pth", "folder", "whole.pth", "run"])
def test_reading_features_takes_a_body_and_no_backbone(name: str, files: dict[str, str]) -> None:
    model, lines = started(captioner(seed=2).model, body_save_path=files[name], partial_load=True)
    expected = captioner(end_to_end=name in ("whole.pth", "run"), seed=int(name == "run")).model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    start = open_start(cfg(body_save_path=files[name], partial_load=True))
    assert (start.vocab_size, start.max_seq_len) == (len(WORDS), 12)
    assert start.vocabulary == (WORDS if name in ("folder", "run") else None)
    assert len(lines) == 1
    assert ("0 not used" in lines[0]) == (name in ("body.pth", "folder"))


@pytest.mark.parametrize(
    "backbone", ["swin.pth", "timm.safetensors", "other.pth", "run", "random.backbone", "reader"]
)
@pytest.mark.parametrize("body", ["body.pth", "folder"])
def test_end_to_end_takes_the_backbone_and_then_the_body(
    backbone: str, body: str, files: dict[str, str]
) -> None:
    fresh = captioner(end_to_end=True, seed=2).model
    model, lines = started(fresh, backbone_save_path=files[backbone], body_save_path=files[body])
    expected = captioner(end_to_end=True, seed=1).model.state_dict() | captioner().model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert len(lines) == 2


def test_end_to_end_a_backbone_alone_will_do_and_so_will_a_whole_model(files: dict[str, str]) -> None:
    fresh = captioner(end_to_end=True, seed=2).model
    body = {n: v.clone() for n, v in fresh.state_dict().items() if not n.startswith("swin_transf")}
    model, lines = started(fresh, backbone_save_path=files["swin.pth"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in body.items())
    assert f"{len(body)} tensors begin with new values: encoders.0.norm_1.weight" in lines[-1]
    model, lines = started(fresh, body_save_path=files["whole.pth"])
    assert same(model, captioner(end_to_end=True).model)
    assert len(lines) == 1


def test_what_does_not_fit_is_one_line(files: dict[str, str]) -> None:
    two = {"end_to_end": True}
    for run, message in (
        ({**two, "backbone_save_path": files["body.pth"]}, "body.pth: .* expected a backbone"),
        ({**two, "body_save_path": files["swin.pth"]}, "expected a body for body_save_path"),
        ({**two, "body_save_path": files["body.pth"]}, "backbone_save_path is empty: expected a backbone"),
        ({"body_save_path": files["timm.safetensors"], "partial_load": True}, "expected a body"),
    ):
        with pytest.raises(UserError, match=message):
            open_start(cfg(**run))
    start = open_start(cfg(body_save_path=files["body.pth"], partial_load=True))
    for sizes, message in (
        ({"vocab_size": 21}, r"body.pth: 16 words, the model has 21: name the vocabulary"),
        ({"max_seq_len": 74}, r"body.pth: 12 positions, the model has 74: set max_seq_len to 12"),
        ({"ff": 25}, "weights of another model: .*ff.linear_1.weight 24x16 in the file and 25x16"),
    ):
        with pytest.raises(UserError, match=message):
            start.load_into(build(config(**sizes)))


# ------------------------------------------------------------------------------------------------ captioners


def test_a_captioner_is_loaded_from_anything_that_holds_one(files: dict[str, str], tmp_path: Path) -> None:
    assert same(expansionnet.load(files["run"]).model, captioner(end_to_end=True, seed=1).model)
    words = WORDS.save(tmp_path / "words.json")
    assert same(load(files["whole.pth"], vocab_path=words, **SAID).model, captioner(end_to_end=True).model)
    with pytest.raises(UserError, match="num_heads is 8, expected 4"):
        load(files["run"], num_heads=8)
    with pytest.raises(UserError, match="its 16 words are not in it: name its vocabulary by --vocab_path"):
        load(files["whole.pth"], **SAID)
    for name, kind in (
        ("swin.pth", "an official Swin file"),
        ("random.backbone", "the folder of a backbone"),
    ):
        with pytest.raises(UserError, match=f"{kind}: a backbone, expected a captioner, with a body"):
            load(files[name])
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nothing")


# -------------------------------------------------------------------------------------------------- recorded


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_a_recorded_backbone_and_a_recorded_body_are_joined(folder: Folder) -> None:
    sizes = model_config(model_facts(folder))
    files = {key: str(folder.path / name) for key, name in folder.facts["files"].items()}
    run = RunOptions(backbone_save_path=files["backbone"], body_save_path=files["checkpoint"])
    model = build(sizes)
    lines = load_body_and_backbone(model, Config(model=sizes, run=run))
    assert len(lines) == 2
    assert same(model, load_model(folder))  # the body's file has a backbone, which is loaded last
    features = replace(sizes, is_end_to_end=False)
    body = build(features)
    run = RunOptions(body_save_path=files["checkpoint"], partial_load=True)
    load_body_and_backbone(body, Config(model=features, run=run))
    recorded = checkpoint_of(folder)
    assert all(torch.equal(value, recorded[name]) for name, value in body.state_dict().items())
