"""`test`: the networks of a run, of a model folder, of the original's files, evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_vit import test as entry
from apt_vit.evaluate import Scores
from apt_vit.options import TestOptions
from apt_vit.summary import DROPPED, PLAIN
from prunelab.util import read_json

from .conftest import PICTURES, Finished, words

Values = dict[str, Any]


def scored(model: Path, **more: Any) -> dict[str, Scores]:
    """Scores of a model, on this process's CPU."""
    own = {name: more.pop(name) for name in ("split", "output", "max_steps") if name in more}
    return entry.test(TestOptions(model=str(model), typed={"device": "cpu", **more}, **own))


def test_a_run_is_evaluated_with_its_own_configuration_and_means_its_best_network(finished: Finished) -> None:
    rows = {row["model"]: row for row in read_json(finished() / "summary.json")["rows"]}
    found = scored(finished())
    assert found == scored(finished() / "best")
    assert list(found) == ["plain", "dropped"]
    for name, mode in ((PLAIN, "plain"), (DROPPED, "dropped")):
        assert found[mode].accuracy == rows[name]["accuracy"]
        assert round(found[mode].macs) == rows[name]["MACs"]
    assert found["plain"].pictures == PICTURES["test"]


@pytest.mark.parametrize("size", [1, 5, PICTURES["test"], 100])
def test_every_picture_counts_once_whatever_the_batch(size: int, finished: Finished) -> None:
    found, expected = scored(finished(), eval_batch_size=size), scored(finished())
    for mode, scores in found.items():
        assert scores.pictures == PICTURES["test"]
        assert scores.accuracy == expected[mode].accuracy
        assert scores.loss == pytest.approx(expected[mode].loss, rel=1e-5)
        assert scores.tokens == expected[mode].tokens


def test_a_file_of_the_original_is_what_its_run_was(finished: Finished) -> None:
    run = finished("faithful")
    found, expected = (scored(run / name) for name in ("1_apt_checkpoint.bin", "best"))
    assert {mode: scores.accuracy for mode, scores in found.items()} == {
        mode: scores.accuracy for mode, scores in expected.items()
    }


def test_what_is_pruned_may_be_typed(finished: Finished) -> None:
    own, fewer, all_kept = (
        scored(finished(), **more) for more in ({}, {"keep_rate": 0.5}, {"threshold": 1.0})
    )
    assert fewer["dropped"].tokens == (9.0, 5.0)
    assert fewer["dropped"].macs < own["dropped"].macs
    assert fewer["plain"] == own["plain"]
    assert all_kept["dropped"].tokens == (17.0, 17.0)
    assert all_kept["dropped"].accuracy == all_kept["plain"].accuracy
    by_attention = scored(finished(), method="cls-attention", keep_rate=0.5)
    assert by_attention["dropped"].tokens == (9.0, 5.0)
    assert list(scored(finished(), method="plain")) == ["plain"]


def test_other_splits_are_scored_without_anything_random(finished: Finished) -> None:
    first, second = (scored(finished(), split="train") for _ in range(2))
    assert first == second
    assert first["plain"].pictures + scored(finished(), split="val")["plain"].pictures == PICTURES["train"]


def test_batches_may_be_few_and_figures_go_to_a_file(finished: Finished, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    found = scored(finished(), eval_batch_size=4, max_steps=2, output=str(file))
    assert found["plain"].pictures == 8
    content = read_json(file)
    assert content["dropped"]["accuracy"] == found["dropped"].accuracy
    assert content["dropped"]["tokens"] == list(found["dropped"].tokens)


def test_a_model_folder_away_from_its_run_needs_its_data_named(
    finished: Finished, values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    model = shutil.copytree(finished() / "best", tmp_path / "model")
    typed = {name: values[name] for name in ("data_dir", "checksum", "num_workers", "eval_batch_size")}
    capsys.readouterr()
    entry.main(["--model", str(model), "--device", "cpu", *words(typed)])
    told = capsys.readouterr().out
    for word in ("all tokens", "dropped", "accuracy", "MACs", "best constant answer", "23 pictures of test"):
        assert word in told
    assert scored(model, **typed)["plain"].accuracy == scored(finished())["plain"].accuracy


def test_the_newest_run_is_tested_where_no_model_is_named(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(finished().parent))
    found: list[Path] = []
    opened: Callable[..., Any] = entry.open_weights

    def watched(place: Path, *rest: Any, **more: Any) -> Any:
        found.append(place)
        return opened(place, *rest, **more)

    monkeypatch.setattr(entry, "open_weights", watched)
    entry.main(["--device", "cpu"])
    assert found[0].name == "best"
    assert found[0].parent.parent == finished().parent
    assert "all tokens" in capsys.readouterr().out


def test_a_dry_run_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    entry.main(["--dry-run", "--model", "nowhere"])
    assert "nothing was run" in capsys.readouterr().out
    entry.main(["--print-config", "--keep-rate", "0.7"])
    assert "keep_rate: 0.7" in capsys.readouterr().out
