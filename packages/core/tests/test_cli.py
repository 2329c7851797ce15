"""The ``prunelab`` command, in process: what it prints, writes and refuses."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from prunelab import cli

REFS = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "A man rides a horse."},
        {"id": 2, "image_id": 1, "caption": "A person on a horse."},
        {"id": 3, "image_id": 2, "caption": "Two dogs play in the park."},
    ],
}
PREDS = [{"image_id": 2, "caption": "Two dogs in a park"}, {"image_id": 1, "caption": "A man on a horse"}]


@pytest.fixture
def files(tmp_path):
    refs, preds = tmp_path / "captions.json", tmp_path / "results.json"
    refs.write_text(json.dumps(REFS))
    preds.write_text(json.dumps(PREDS))
    return refs, preds


def run(*arguments):
    cli.main([str(a) for a in arguments])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_score_prints_a_table_and_writes_the_scores_of_each_image(files, tmp_path, capsys):
    refs, preds = files
    out = tmp_path / "out.json"
    run("score", "--refs", refs, "--preds", preds, "--per-image", out)
    rows = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:-1])
    assert list(rows) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    each = json.loads(out.read_text())
    assert [row["image_id"] for row in each] == [2, 1]
    assert float(rows["CIDEr"]) == pytest.approx(sum(row["CIDEr"] for row in each) / 2, abs=1e-4)


def test_score_takes_the_metrics_that_are_named(files, capsys):
    refs, preds = files
    run("score", "--refs", refs, "--preds", preds, "--metrics", "cider,BLEU")
    printed = capsys.readouterr().out
    assert "Bleu_4" in printed
    assert "CIDEr" in printed
    assert "ROUGE_L" not in printed


def test_score_counts_predicted_images_only_unless_all_are_wanted(files, capsys):
    refs, preds = files
    preds.write_text(json.dumps(PREDS[:1]))
    run("score", "--refs", refs, "--preds", preds)
    assert "1 images (of 2 with references)" in capsys.readouterr().out
    line = refused(capsys, "score", "--refs", refs, "--preds", preds, "--every-image")
    assert "1 of 2 images with references have no prediction (image_id 1)" in line


def test_score_reads_a_split_of_a_karpathy_file(tmp_path, capsys):
    def image(number, split, *captions):
        sentences = [{"tokens": c.lower().split(), "raw": c + "."} for c in captions]
        return {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences}

    refs, preds = tmp_path / "dataset.json", tmp_path / "results.json"
    refs.write_text(
        json.dumps({"images": [image(1, "train", "A cat"), image(2, "test", "A dog", "One dog")]})
    )
    preds.write_text(json.dumps([{"image_id": 2, "caption": "a dog"}]))
    run("score", "--refs", refs, "--preds", preds, "--split", "test", "--metrics", "ROUGE_L")
    assert capsys.readouterr().out.splitlines()[1:] == ["ROUGE_L     1.0000", "1 images"]


def test_score_says_which_metrics_were_left_out(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run("score", "--refs", files[0], "--preds", files[1], "--metrics", "all")
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["left out", "left out"]
    assert "METEOR" not in captured.out
    assert "METEOR needs Java" in refused(
        capsys, "score", "--refs", files[0], "--preds", files[1], "--metrics", "METEOR"
    )


def test_tokenised_captions_are_taken_as_they_are(files, capsys):
    refs, preds = files
    run("score", "--refs", refs, "--preds", preds, "--metrics", "ROUGE_L")
    cut = capsys.readouterr().out
    run("score", "--refs", refs, "--preds", preds, "--metrics", "ROUGE_L", "--tokenized")
    assert capsys.readouterr().out != cut


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("--refs", "none.json"), "none.json: cannot be read"),
        (("--metrics", "foo"), "metric 'foo' is unknown"),
        (("--metrics", ","), "no metric named"),
        (("--metric", "BLEU"), "prunelab: Unrecognized options: --metric"),
        (("--split", "dev"), "dev"),
    ],
)
def test_wrong_arguments_are_one_line(files, capsys, change, text):
    flags = {"--refs": str(files[0]), "--preds": str(files[1]), change[0]: change[1]}
    assert text in refused(capsys, "score", *[word for pair in flags.items() for word in pair])


def test_predictions_of_unknown_images_are_one_line(files, capsys):
    files[1].write_text(json.dumps([{"image_id": 5, "caption": "x"}]))
    line = refused(capsys, "score", "--refs", files[0], "--preds", files[1])
    assert "1 of 1 predictions have no references (image_id 5)" in line


def test_nothing_and_unknown_commands_are_one_line(capsys):
    assert "expected score, pack, unpack or inspect" in refused(capsys)
    assert "Unrecognized options: scor" in refused(capsys, "scor")
    assert "Missing from prunelab pack" in refused(capsys, "pack", "x")


def test_a_framed_message_of_the_parser_becomes_one_line():
    framed = "╭─ Missing ────╮\n│ Missing: OUT │\n│ ──────────── │\n│   --limit 3  │\n╰──────────────╯\n"
    ruled = " Missing \n ------- \n  Missing: OUT \n  ------\n    --limit 3 \n   "
    assert cli._one_line(framed) == cli._one_line(ruled) == "Missing: OUT --limit 3"


def test_pack_inspect_and_unpack_hand_over_to_the_packed_files(tmp_path, capsys):
    import torch
    from safetensors.torch import load_file, save_file

    weights = {"w": torch.tensor([[0.0, 1.5], [0.0, -2.0]])}
    save_file(weights, tmp_path / "in.safetensors")
    run("pack", tmp_path / "in.safetensors", tmp_path / "packed")
    run("unpack", tmp_path / "packed", tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["w"], weights["w"])
    capsys.readouterr()
    run("inspect", tmp_path / "packed", "--json")
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    run("inspect", tmp_path / "packed")
    assert "w" in capsys.readouterr().out
    assert "cannot be read" in refused(capsys, "inspect", tmp_path / "none")


@pytest.mark.parametrize("command", [[], ["score"], ["pack"], ["unpack"], ["inspect"]])
def test_help_begins_with_the_name_and_documents_every_option(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*command, "--help")
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert printed.startswith("prunelab ")
    words = {
        "": ["score", "pack", "unpack", "inspect", "--version"],
        "score": ["--refs", "--preds", "--metrics", "--per-image", "--split", "--every-image", "--tokenized"],
        "pack": ["IN", "OUT", "--merge-zeros"],
        "unpack": ["IN", "OUT", "--limit"],
        "inspect": ["FILE", "--json"],
    }["".join(command)]
    assert [word for word in words if word not in printed] == []


def test_version_works_with_and_without_an_installed_package(capsys, monkeypatch):
    run("--version")
    assert capsys.readouterr().out.startswith("prunelab ")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    run("--version")
    assert capsys.readouterr().out == "prunelab (not installed)\n"


def test_the_module_runs_and_starts_without_heavy_packages():
    code = (
        "import sys, prunelab.cli, prunelab.caption.evaluate; prunelab.cli.main(['--version']); "
        "print([name for name in ('numba', 'torch', 'tyro', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
