"""Tiny runs of every kind through the real entry: they learn, and leave what they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import torch

import expansionnet
from expansionnet import train
from expansionnet.files.original import CheckpointName, checkpoints
from expansionnet.layout import KINDS, REINFORCE
from prunelab.checkpoint import listed
from testing.runs import tensors

from .conftest import COUNTS, STILL, Command

pytestmark = pytest.mark.tiny

SCORES = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")
VAL_IDS = list(range(COUNTS["train"] + 1, COUNTS["train"] + COUNTS["val"] + 1))


def figures(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_every_kind_learns(kind: str, preset: str, finished: Callable[..., Path]) -> None:
    run = finished(kind, preset)
    assert not (run / "val_beam_3").exists()
    if kind.endswith(REINFORCE):
        rewards = figures(run, "train/reward")
        third = len(rewards) // 3
        assert mean(rewards[-third:]) > mean(rewards[:third])
        assert figures(run, "train/baseline") == pytest.approx(rewards)  # that of the other samples
        assert not figures(run, "val/loss")
    else:
        losses = figures(run, "train/loss")
        assert mean(losses[-3:]) < 0.5 * mean(losses[:3])
        assert figures(run, "val/loss")[-1] < 0.6 * figures(run, "val/loss")[0]
    assert max(figures(run, "val/CIDEr")) > 2


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_what_a_run_leaves_is_whole_and_can_be_used(preset: str, finished: Callable[..., Path]) -> None:
    run = finished("end_to_end_xe", preset)
    steps = figures(run, "step")
    assert steps[-1] == 36
    evaluated = [6 * epoch for epoch in range(1, 7)]
    names = {path.name for path in (run / "val_beam_2").iterdir()}
    assert names == {
        "scores.csv",
        *(f"{kind}_{s:08d}.json" for kind in ("caption", "score") for s in evaluated),
        *(f"score_{s:08d}_detailed.json" for s in evaluated),
    }
    captions = json.loads((run / "val_beam_2/caption_00000036.json").read_text())
    assert [entry["image_id"] for entry in captions] == VAL_IDS
    for name in SCORES:
        assert len(figures(run, f"val/{name}")) == len(evaluated)
    best = expansionnet.load(run / "best")
    scores = figures(run, "val/CIDEr")
    assert best.notes["scores"]["val/CIDEr"] == max(scores)
    assert best.notes["step"] == evaluated[scores.index(max(scores))]
    assert expansionnet.load(run / "last").notes["step"] == 36
    assert best.black_pictures == (preset == "faithful")
    assert (run / "finished.json").is_file()
    assert len(listed(run / "checkpoints")) <= 2


def test_the_originals_checkpoint_is_written_under_faithful_alone(
    finished: Callable[..., Path], pictures: Path
) -> None:
    assert not (finished("xe") / "saves").exists()
    [file] = checkpoints(finished("xe", "faithful") / "saves")
    name = CheckpointName.parse(file.name)
    assert name is not None
    assert (name.epoch, name.batch, name.batch_size, name.kind) == (5, 6, 4, "xe")
    content = torch.load(file, weights_only=True)
    assert content["data_loader_state_dict"]["batch_it"] == 6
    assert content["scheduler_state_dict"]["last_epoch"] == 36
    captioner = expansionnet.load(finished("xe", "faithful") / "last")
    assert content["model_state_dict"].keys() == captioner.model.state_dict().keys()
    for key, value in captioner.model.state_dict().items():
        assert torch.equal(content["model_state_dict"][key], value), key


def test_training_by_reward_says_its_signature(finished: Callable[..., Path]) -> None:
    log = (finished("rf") / "log.txt").read_text()
    assert "SacreEOS signature: STANDARD_wInit+Cider-D[n4,s6.0]+average[nspi3]+1.0.0" in log


def test_evaluations_come_as_often_as_asked_and_for_every_number_of_beams(
    tmp_path: Path, command: Command
) -> None:
    beams = ("--eval_beam_sizes", "[2,1]", "--eval_every_iter", "2", "--num_epochs", "1")
    train.main(command(tmp_path / "run", *beams))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/CIDEr" in line] == [2, 4, 6]
    assert all("val_beam_1/CIDEr" in line for line in lines if "val/CIDEr" in line)
    assert (tmp_path / "run/val_beam_1/scores.csv").is_file()


def test_gradients_of_the_last_micro_batches_are_used_or_dropped_as_in_the_original(
    tmp_path: Path, command: Command
) -> None:
    def updates(*extra: str) -> int:
        run = tmp_path / "_".join(extra).replace("-", "")
        train.main(command(run, "--num_epochs", "1", *extra))
        state = json.loads((listed(run / "checkpoints")[-1] / "state.json").read_text())
        return state["run"]["count"]["updates"]

    assert updates("--num_accum", "4") == 2  # after 4 of 6, and after the last
    assert updates("--num_accum", "4", "--first-step-alone", "True") == 2  # after 1 and 5
    assert updates("--num_accum", "5", "--first-step-alone", "True") == 2  # after 1 and 6
    assert (
        updates("--num_accum", "3", "--first-step-alone", "True") == 2
    )  # after 1 and 4; 5 and 6 are dropped


def test_a_run_starts_from_weights_of_another_and_takes_over_their_words(
    tmp_path: Path, command: Command, finished: Callable[..., Path], pictures: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    content = json.loads((pictures / "dataset_coco.json").read_text())
    content["images"] = [image for image in content["images"] if image["cocoid"] % 2 == 0]
    (few / "dataset_coco.json").write_text(json.dumps(content))
    body = finished("end_to_end_xe") / "best"
    begin = ("--partial_load", "True", "--body_save_path", str(body), "--captions_path", str(few))
    train.main(command(tmp_path / "run", *begin, "--max-steps", "1", "--lr", "1e-9"))
    ours, theirs = expansionnet.load(tmp_path / "run/last"), expansionnet.load(body)
    assert ours.vocabulary == theirs.vocabulary
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(value, theirs.model.state_dict()[name], atol=1e-6, rtol=0)
    assert "61 not used" not in (tmp_path / "run/log.txt").read_text()


def test_an_end_to_end_run_may_start_from_a_backbone_alone(
    tmp_path: Path, command: Command, finished: Callable[..., Path]
) -> None:
    theirs = expansionnet.load(finished("end_to_end_xe") / "best").model.state_dict()
    backbone = {name.removeprefix("swin_transf."): v for name, v in theirs.items() if "swin_transf" in name}
    torch.save({"model": backbone}, tmp_path / "swin.pth")
    words = ("--backbone_save_path", str(tmp_path / "swin.pth"), "--max-steps", "1", "--lr", "1e-9")
    train.main(command(tmp_path / "run", *words, kind="end_to_end_xe"))
    ours = expansionnet.load(tmp_path / "run/last").model.state_dict()
    for name, value in ours.items():
        same = torch.allclose(value, theirs[name], atol=1e-6)
        if name.startswith("swin_transf."):
            assert same, name
    assert not torch.allclose(ours["vocab_linear.weight"], theirs["vocab_linear.weight"], atol=1e-3)
    assert "begin with new values" in (tmp_path / "run/log.txt").read_text()


def test_mixed_precision_and_layouts_train_as_well(tmp_path: Path, command: Command) -> None:
    for kind, name, extra in (
        ("end_to_end_xe", "layout", ("--channels-last",)),
        ("end_to_end_rf", "bf16", ("--amp", "bf16")),
        ("end_to_end_xe", "plain", ()),
    ):
        words = (*extra, "--max-steps", "2", "--num_accum", "1")
        train.main(command(tmp_path / name, *words, kind=kind))
    first, second = (figures(tmp_path / name, "train/loss") for name in ("layout", "plain"))
    assert first == pytest.approx(second, rel=1e-4)
    assert len(figures(tmp_path / "bf16", "train/reward")) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler looks at everything
def test_a_compiled_network_trains_alike(tmp_path: Path, command: Command) -> None:
    losses = {}
    for name, extra in (("compiled", ["--compile"]), ("plain", [])):
        words = ("--max-steps", "2", *STILL.split(), *extra)
        train.main(command(tmp_path / name, *words, kind="end_to_end_xe"))
        losses[name] = figures(tmp_path / name, "train/loss")
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)


def test_a_run_on_made_data_needs_no_data(tmp_path: Path, command: Command) -> None:
    train.main(command(tmp_path / "run", "--fake-data", "--max-steps", "1"))
    assert (tmp_path / "run/fake_data/dataset_coco.json").is_file()
    assert tensors(tmp_path / "run")
