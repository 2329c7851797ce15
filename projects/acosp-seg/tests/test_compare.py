"""``compare``: networks side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acosp_seg.compare import main
from prunelab.util import read_json


@pytest.mark.tiny
def test_a_masked_network_gets_a_second_row_with_its_compact_form(
    tmp_path: Path, finished: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dense, pruned = finished("dense", "fixed"), finished("pruned", "fixed")
    table = tmp_path / "rows.json"
    models = ["--models", f"plain={dense}", f"masked={pruned}"]
    main([*models, "--json", str(table), "--figure", str(tmp_path / "seen.png"), "--max-steps", "2"])
    constant, plain, masked, compact = read_json(table)
    assert constant["model"].startswith("best constant answer")
    assert [row["model"] for row in (plain, masked, compact)] == ["plain", "masked", "masked, compact"]
    assert compact["parameters"] < masked["parameters"] == plain["parameters"]
    assert compact["file"] < plain["file"]
    assert compact["mIoU"] == pytest.approx(masked["mIoU"], abs=1e-3)
    assert (tmp_path / "seen.png").stat().st_size > 1000
    assert "ms / picture" in capsys.readouterr().out


def test_compare_without_models_says_how_to_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([])
    assert refused.value.code == 2
    assert "--models dense=FOLDER" in capsys.readouterr().err
