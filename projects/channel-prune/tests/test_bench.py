"""``bench`` knows the rows of every module that has some."""

from __future__ import annotations

from pathlib import Path

import pytest

import channel_prune
from channel_prune import bench


def test_every_module_of_rows_is_joined_and_no_name_comes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--list"])
    names = capsys.readouterr().out.split()
    assert names == list(bench.ROWS)
    folder = Path(channel_prune.__file__).parent
    modules = [p.stem for p in folder.glob("bench_*.py") if not p.stem.endswith("_reference")]
    joined = [getattr(bench, module).ROWS for module in modules]
    assert sum(len(rows) for rows in joined) == len(names) > 2


def test_an_unknown_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(["training-bathces"])
    assert refused.value.code == 2
    assert "training-batches" in capsys.readouterr().err
