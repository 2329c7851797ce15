"""The check on a GPU says plainly where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def test_without_a_gpu_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import gpu_check

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 0
    assert capsys.readouterr().out == "gpu_check: no CUDA device here, nothing was checked\n"


def test_an_unknown_project_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_check

    assert gpu_check.main(["nothing"]) == 2
    assert "expected some of" in capsys.readouterr().err


def test_core_and_each_project_are_checked_from_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_check

    for name in ("apple-seg", "pear"):
        (tmp_path / "projects" / name).mkdir(parents=True)
        (tmp_path / "projects" / name / "pyproject.toml").write_text("")
    module = tmp_path / "projects/apple-seg/src/apple_seg/gpu_check.py"
    module.parent.mkdir(parents=True)
    module.write_text("import sys\nsys.exit(4)\n")
    (module.parent / "__init__.py").write_text("")
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert [f.name for f in gpu_check.member_folders(["apple-seg"])] == ["core", "apple-seg"]
    tests, step = gpu_check.commands(tmp_path / "projects/apple-seg")
    assert tests[:3] == [sys.executable, "-m", "pytest"]
    assert step == [sys.executable, "-m", "apple_seg.gpu_check"]
    assert len(gpu_check.commands(tmp_path / "projects/pear")) == 1
    assert not gpu_check.run(step), "its exit code counts"
    assert gpu_check.run([sys.executable, "-c", "raise SystemExit(5)"]), "no GPU test is no failure"
    assert "apple_seg.gpu_check" in capsys.readouterr().out
