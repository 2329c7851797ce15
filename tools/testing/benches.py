"""What holds of every project's ``bench``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


def check_rows(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """``bench`` joins the rows of every module in ``benches`` (or ``bench_*`` beside it), each name once."""
    bench.main(["--list"])
    names = capsys.readouterr().out.split()
    assert names == list(bench.ROWS)
    folder = Path(str(bench.__file__)).parent
    files = [*folder.glob("bench_*.py"), *folder.glob("benches/[!_]*.py")]
    modules = [path.stem for path in files if "\nROWS" in path.read_text()]
    joined = [getattr(bench, module).ROWS for module in modules]
    assert joined
    assert sum(len(rows) for rows in joined) == len(names)


def check_unknown_row(bench: ModuleType, capsys: pytest.CaptureFixture[str], typed: str, meant: str) -> None:
    """A row that is not there is one line that names the nearest, and exit code 2."""
    with pytest.raises(SystemExit) as refused:
        bench.main([typed])
    assert refused.value.code == 2
    assert meant in capsys.readouterr().err
