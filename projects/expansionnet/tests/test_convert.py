"""Published files become ours and ours theirs; what they are, and what of them is not used, is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import expansionnet
from expansionnet import convert
from expansionnet.features.extractor import FeatureExtractor
from expansionnet.files.loading import open_weights
from expansionnet.files.original import write_model
from expansionnet.files.recognise import TIMM_SWIN
from expansionnet.model.swin import full_state, to_official
from expansionnet.words.vocabulary import Vocabulary
from testing.mistakes import Fails
from testing.parity import Folder, of_kind

from .recorded import load_model, model_facts
from .small import SWIN, WORDS, captioner, same

SAID = ("--num-heads", "4", "--num-exp-enc-list", "[3,5]")


def run(*argv: object) -> None:
    convert.main([str(part) for part in argv])


def published_words(path: Path) -> Path:
    """The pickle as the original's page has it."""
    words = list(WORDS.words)
    content: dict[str, object] = {
        "word2idx_dict": {word: place for place, word in enumerate(words)},
        "idx2word_list": words,
    }
    content |= {"sos_str": "SOS", "eos_str": "EOS"}
    path.write_bytes(pickle.dumps(content))  # noqa: TID251
    return path


@pytest.mark.parametrize("end_to_end", [False, True])
def test_published_weights_become_a_folder_and_a_folder_published_weights(
    end_to_end: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = captioner(end_to_end=end_to_end).model
    source = tmp_path / "rf_model.pth"
    write_model(source, model)
    words = published_words(tmp_path / "demo_coco_tokens.pickle")
    run(source, tmp_path / "folder", "--vocab_path", words, *SAID)
    said = capsys.readouterr().out
    reads = "pictures" if end_to_end else "features of width 16"
    assert f"recognised: a captioner that reads {reads}: 1 and 2 layers of width 16, 16 words" in said
    assert "missing keys: none" in said
    assert ("unused keys: none" in said) is not end_to_end
    assert ("attn.relative_position_index, " in said) is end_to_end
    found = expansionnet.load(tmp_path / "folder")
    assert same(found.model, model)
    assert found.vocabulary.words == WORDS.words
    assert (found.black_pictures, found.decode.suppress_unk) == (False, True)
    run(tmp_path / "folder", tmp_path / "back" / "rf_model.pth")
    back = torch.load(tmp_path / "back" / "rf_model.pth", weights_only=True)["model_state_dict"]
    assert list(back) == list(model.original_state())
    assert all(torch.equal(value, back[name]) for name, value in model.original_state().items())
    assert Vocabulary.load(tmp_path / "back").words == WORDS.words
    run(source, tmp_path / "faithful", "--vocab_path", words, *SAID, "--preset", "faithful")
    found = expansionnet.load(tmp_path / "faithful")
    assert (found.black_pictures, found.decode.suppress_unk) == (True, False)


def test_a_backbone_becomes_a_file_of_timms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = captioner(end_to_end=True).model
    swin = whole.swin_transf
    published = {**to_official(full_state(swin)), "head.weight": torch.zeros(3, 16)}
    torch.save({"model": published}, tmp_path / "swin.pth")
    write_model(tmp_path / "whole.pth", whole)
    FeatureExtractor(swin, SWIN).save(tmp_path / "f.hdf5.backbone")
    for name, unused in (
        ("swin.pth", "head.weight"),
        ("whole.pth", "encoders.0.norm_1.weight"),
        ("f.hdf5.backbone", "none"),
    ):
        target = tmp_path / f"{name}.safetensors"
        run(tmp_path / name, target)
        said = capsys.readouterr().out
        assert "recognised: a Swin of 32 pixels" in said
        assert "in all)" in said or unused in said
        expected = swin.state_dict()
        assert load_file(target).keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in load_file(target).items())
        assert open_weights(target).kind == TIMM_SWIN


def test_words_are_converted_or_made_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(published_words(tmp_path / "demo_coco_tokens.pickle"), tmp_path / "published.json")
    assert Vocabulary.load(tmp_path / "published.json").words == WORDS.words
    images = [
        {"filename": f"{n}.jpg", "cocoid": n, "split": split, "sentences": [{"raw": raw}]}
        for n, (split, raw) in enumerate(
            (("train", "a cat"), ("restval", "a dog sits"), ("val", "a zebra"), ("test", "a zebra"))
        )
    ]
    (tmp_path / "coco").mkdir()
    captions = tmp_path / "coco" / "dataset_coco.json"
    captions.write_text(json.dumps({"images": images}))
    for source in (captions, captions.parent):
        run(source, tmp_path / "made.json", "--dict-min-occurrences", 1)
        made = Vocabulary.load(tmp_path / "made.json")
        assert set(made.words) - {"PAD", "SOS", "EOS", "UNK"} == {"a", "cat", "dog", "sits"}
        assert made.longest == 5
    assert "a vocabulary of 8 words, the longest training caption has 5 words" in capsys.readouterr().out
    write_model(tmp_path / "body.pth", captioner(vocab_size=8).model)
    run(
        tmp_path / "body.pth",
        tmp_path / "folder",
        "--vocab_path",
        captions,
        "--dict-min-occurrences",
        1,
        *SAID,
    )
    assert expansionnet.load(tmp_path / "folder").vocabulary == made


def test_a_dry_run_says_all_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioner().save_pretrained(tmp_path / "folder")
    for target in ("x.pth", "folder2"):
        run(tmp_path / "folder", tmp_path / target, "--dry-run")
    run(tmp_path / "folder" / "vocabulary.json", tmp_path / "x.json", "--dry-run")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    said = capsys.readouterr().out
    assert said.count("recognised: a captioner") == 2
    assert "written" not in said


def test_destinations_must_go_with_their_sources(tmp_path: Path, fails: Fails) -> None:
    captioner().save_pretrained(tmp_path / "folder")
    swin = captioner(end_to_end=True).model.swin_transf
    torch.save({"model": swin.state_dict()}, tmp_path / "swin.pth")
    (tmp_path / "captions.json").write_text('{"images": []}')
    for source, target, message in (
        ("folder", "x.safetensors", "holds no backbone, expected a folder or NAME.pth"),
        ("folder", "x.json", "holds weights, expected a folder or NAME.pth"),
        ("folder", "folder", "not written over the source"),
        ("swin.pth", "x", "holds a backbone alone, expected NAME.safetensors"),
        ("folder/vocabulary.json", "x", "holds words, expected a file that ends in .json"),
        ("captions.json", "x.json", "captions.json"),
        ("nothing.pth", "x", "no weights there, expected a model folder, a run, or a file"),
    ):
        fails(convert.main, [str(tmp_path / source), str(tmp_path / target)], message)
    state = swin.state_dict()
    state.pop("norm.weight")
    torch.save({"model": state}, tmp_path / "swin.pth")
    line = [str(tmp_path / "swin.pth"), str(tmp_path / "x.safetensors")]
    fails(convert.main, line, "1 weights of the backbone are missing")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_a_recorded_checkpoint_becomes_a_folder(folder: Folder, tmp_path: Path) -> None:
    facts = model_facts(folder)
    words = tuple(facts["idx2word"])
    Vocabulary(words=words).save(tmp_path / "words.json")
    source = folder.path / folder.facts["files"]["checkpoint"]
    said = ["--num_heads", facts["num_heads"], "--num_exp_enc_list", json.dumps(facts["num_exp_enc_list"])]
    run(source, tmp_path / "folder", "--vocab_path", tmp_path / "words.json", *said)
    found = expansionnet.load(tmp_path / "folder")
    assert same(found.model, load_model(folder))
    assert found.vocabulary.words == words
