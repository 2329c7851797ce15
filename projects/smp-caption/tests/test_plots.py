"""Pictures of finished runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from prunelab.errors import UserError
from prunelab.mask import SparsityReport
from smp_caption import plots
from smp_caption.collect import Result, Weights
from smp_caption.options import PlotOptions


def masks(**kept: int) -> SparsityReport:
    """Masks of ten weights each."""
    names = {f"{name.replace('__', '.')}.weight_pruning_mask": number for name, number in kept.items()}
    return SparsityReport(kept=names, sizes=dict.fromkeys(names, 10))


def result(model: str, method: str, left: int, cider: float) -> Result:
    return Result(
        run=Path("x"),
        evaluation="test_beam_2",
        step=1,
        scores={"CIDEr": cider},
        model=model,
        method=method,
        target=None,
        weights=Weights(parameters=1, masks=masks(a=left)) if method else None,
    )


def test_layers_of_a_small_network_are_its_masks() -> None:
    found = plots.layer_sparsities(masks(embed__0=4, core__att_lstm=10))
    assert found == {"embed.0": pytest.approx(0.6), "core.att_lstm": 0}


def test_layers_of_a_large_network_are_its_modules() -> None:
    many = {
        f"model__encoder__layers__{n}__self_attn__linears__{i}": 10 * (i == 0)
        for n in range(12)
        for i in range(4)
    }
    many |= {
        "model__encoder__layers__0__feed_forward__w_1": 5,
        "model__encoder__layers__0__feed_forward__w_2": 0,
    }
    found = plots.layer_sparsities(masks(**many))
    assert found["encoder.layers.3.self_attn.linears"] == pytest.approx(0.75)
    assert found["encoder.layers.0.feed_forward"] == pytest.approx(0.75)
    assert len(found) == 13


def test_sparsities_of_a_run_are_drawn(finished: Callable[[str, str], Path], tmp_path: Path) -> None:
    options = PlotOptions(
        runs=(str(finished("pruned", "fixed")),), output=str(tmp_path / "new/sparsities.png")
    )
    with Image.open(plots.plot_sparsities(options)) as picture:
        assert picture.width > 500
    figure = plots.sparsity_figure({"a": masks(x=1, y=4), "b": masks(x=2)}, "title")
    [axis] = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_scores_are_drawn_with_a_line_for_each_way_to_prune() -> None:
    figure = plots.score_figure(
        [
            result("up_down_lstm", "", 0, 1.1),
            result("up_down_lstm_prune", "supermask", 1, 1.0),
            result("up_down_lstm_prune", "supermask", 2, 1.2),
            result("up_down_lstm_prune", "snip", 2, 0.3),
            result("relation_transformer_prune", "supermask", 5, 1.3),
        ],
        "CIDEr",
    )
    ort, up_down = figure.axes
    assert (ort.get_title(), up_down.get_title()) == ("relation_transformer", "up_down_lstm")
    lines = {line.get_label(): list(line.get_ydata()) for line in up_down.lines}
    assert lines == {"dense": [1.1, 1.1], "SMP": [1.0, 1.2], "SNIP": [0.3]}
    assert [label.get_text() for label in up_down.get_xticklabels()] == ["90 %", "80 %"]


def test_runs_that_meet_one_target_stand_above_one_another() -> None:
    exact, near = (
        replace(
            result("up_down_lstm_prune", method, 1, 0.3),
            weights=Weights(parameters=1, masks=SparsityReport(kept={"a": kept}, sizes={"a": 100_000})),
        )
        for method, kept in (("snip", 5000), ("supermask", 5004))
    )
    [axis] = plots.score_figure([near, exact], "CIDEr").axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["95 %"]
    across = [axis.transLimits.transform(axis.transScale.transform((x, 0.3)))[0] for x in (0.05, 0.05004)]
    assert across == pytest.approx([0.5, 0.5], abs=0.01)


def test_scores_of_runs_are_drawn_from_their_folders(
    finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    for kind in ("dense", "pruned"):
        shutil.copytree(finished(kind, "fixed"), tmp_path / "runs" / kind)
    options = PlotOptions(runs=(str(tmp_path / "runs"),), output=str(tmp_path / "scores.svg"))
    assert plots.plot_scores(options).read_text(encoding="utf-8").startswith("<?xml")


def test_what_cannot_be_drawn_is_named(finished: Callable[[str, str], Path], tmp_path: Path) -> None:
    dense = str(finished("dense", "fixed"))
    with pytest.raises(UserError, match="needs at least one run"):
        plots.plot_sparsities(PlotOptions())
    with pytest.raises(UserError, match="has no masks"):
        plots.plot_sparsities(PlotOptions(runs=(dense,)))
    with pytest.raises(UserError, match="has no model"):
        plots.plot_sparsities(PlotOptions(runs=(str(tmp_path),)))
    with pytest.raises(UserError, match="no run has the score METEOR"):
        plots.plot_scores(PlotOptions(runs=(dense,), score="METEOR"))
    with pytest.raises(UserError, match=r"ends in \.png"):
        plots.save(plots.sparsity_figure({"a": masks(x=1)}), tmp_path / "a.bmp")
