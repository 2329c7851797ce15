"""`infer`: the original's inference program, on runs of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apt_vit import infer as entry
from apt_vit import test as scoring
from apt_vit.evaluate import Scores
from apt_vit.options import InferOptions, TestOptions
from prunelab.errors import UserError
from testing.mistakes import Fails

from .conftest import PICTURES, Finished, words

SIZES = ("hidden_size", "mlp_dim", "num_heads", "num_layers", "clip_layers", "img_size", "patch_size")
"""Of a network; a bare checkpoint does not say all of them."""


def inferred(model: Path, mode: str = "dropped", **more: Any) -> Scores:
    own = {name: more.pop(name) for name in ("layout", "show_shapes", "max_steps") if name in more}
    return entry.infer(InferOptions(model=str(model), mode=mode, typed={"device": "cpu", **more}, **own))


def test_each_mode_gives_the_figures_of_test(finished: Finished) -> None:
    expected = scoring.test(TestOptions(model=str(finished()), typed={"device": "cpu"}))
    dropped, masked, plain = (inferred(finished(), mode) for mode in ("dropped", "masked", "plain"))
    assert dropped.accuracy == masked.accuracy == expected["dropped"].accuracy
    assert dropped.tokens == masked.tokens == expected["dropped"].tokens
    assert dropped.loss == pytest.approx(masked.loss, abs=1e-5)
    assert plain.accuracy == expected["plain"].accuracy
    assert plain.tokens == ()


@pytest.mark.parametrize("layout", ["packed", "padded", "auto"])
def test_batches_drop_what_single_pictures_drop(layout: str, finished: Finished) -> None:
    single = inferred(finished("faithful"))
    many = inferred(finished("faithful"), preset="fixed", eval_batch_size=9, layout=layout)
    assert many.tokens == single.tokens
    assert many.accuracy == single.accuracy
    assert many.loss == pytest.approx(single.loss, abs=1e-5)


def test_shapes_are_printed_under_faithful_and_where_they_are_wanted(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    scores = inferred(finished("faithful"), max_steps=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 4
    kept = []
    for start in range(0, len(lines), 4):
        empty, first, *behind = lines[start : start + 4]
        assert empty == ""
        assert first == "初始输入形状::: torch.Size([1, 17, 16])"
        for layer, line in zip((0, 2), behind, strict=True):
            assert line.startswith(f"第{layer}层形状::: torch.Size([1, ")
        kept.append([int(line.partition("[1, ")[2].partition(",")[0]) for line in behind])
    assert [sum(column) / 3 for column in zip(*kept, strict=True)] == pytest.approx(scores.tokens)
    inferred(finished(), max_steps=1, show_shapes=True)
    assert "初始输入形状" in capsys.readouterr().out
    inferred(finished(), max_steps=1)
    told = capsys.readouterr().out
    assert "形状" not in told
    assert "1 pictures, dropped: accuracy" in told


def test_the_originals_line_finds_the_checkpoint_of_its_run(
    finished: Finished, values: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished("faithful")
    line = {
        name: values[name] for name in (*SIZES, "dataset", "data_dir", "checksum", "num_workers", "device")
    }
    best = inferred(run / "1_apt_checkpoint.bin")
    plain = inferred(run / "0_apt_checkpoint.bin", "plain")
    capfd.readouterr()
    entry.main(words({"name": "apt", "output_dir": str(run), **line}))
    told = capfd.readouterr()
    assert f"Valid Accuracy: {best.accuracy:2.5f}" in told.err
    assert told.out.count("初始输入形状") == PICTURES["test"]
    entry.main(words({"name": "apt", "output_dir": str(run), "mode": "plain", **line}))
    told = capfd.readouterr()
    assert f"Valid Accuracy: {plain.accuracy:2.5f}" in told.err
    assert "形状" not in told.out


def test_a_bare_checkpoint_takes_its_sizes_from_the_command_line(
    finished: Finished, values: dict[str, Any], tmp_path: Path, fails: Fails
) -> None:
    run, bare = finished("faithful"), tmp_path / "bare.bin"
    torch.save(torch.load(run / "1_apt_checkpoint.bin", weights_only=True), bare)
    line = {name: values[name] for name in (*SIZES, "data_dir", "checksum", "num_workers")}
    expected = inferred(run / "1_apt_checkpoint.bin")
    assert inferred(bare, **line).accuracy == expected.accuracy
    # All is said but what its shapes do not tell; a wrong word is an error, and no guess.
    fails(entry.main, words({"model": str(bare), **line, "clip_layers": (0, 1, 2)}), "bare.bin: .*2 agents")
    fails(entry.main, words({"model": str(bare), **line, "dataset": "cifar100"}), "bare.bin: .*10 classes")


def test_batches_of_several_pictures_are_refused_under_faithful(finished: Finished) -> None:
    with pytest.raises(UserError, match="eval_batch_size is 4, expected 1 under preset faithful"):
        inferred(finished("faithful"), eval_batch_size=4)
    assert inferred(finished("faithful"), "plain", eval_batch_size=4).pictures == PICTURES["test"]


def test_a_missing_checkpoint_is_told_with_where_it_was_looked_for(tmp_path: Path, fails: Fails) -> None:
    said = fails(
        entry.main,
        ["--name", "x", "--output_dir", str(tmp_path), "--data-dir", str(tmp_path)],
        "1_x_checkpoint.bin: no network there, expected what `train` wrote",
    )
    assert "--model" in said


def test_a_dry_run_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    entry.main(["--name", "x", "--dry-run"])
    assert "ViT-B_16 on cifar10: command line is right; nothing was run" in capsys.readouterr().out
    entry.main(["--name", "x", "--print-config"])
    assert "preset: faithful" in capsys.readouterr().out
