"""Pages of features come from a project's list, and a stale one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

LIST = """
title: Pruning apples
intro: >-
  What the original
  says.
groups:
  - name: Trees
    features:
      - claim: Apples | pears
        status: available
        command: uv run --package apple train --kind "a | b"
        shown_by: [test_apple.py]
        note: red ones
      - claim: Plums
        status: not yet available
        command: uv run --package apple train --kind plum
"""
ROW = (
    '| Apples \\| pears; red ones | available | `uv run --package apple train --kind "a \\| b"` '
    "| [test_apple.py](../../projects/apple/tests/test_apple.py) |"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace of one project with a list."""
    tests = tmp_path / "projects/apple/tests"
    tests.mkdir(parents=True)
    (tests / "test_apple.py").touch()
    (tests / "features.yaml").write_text(LIST)
    return tmp_path


def test_a_page_is_made_from_the_list_and_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import feature_table

    assert "feature_table.py apple" in feature_table.stale_pages(root)[0]
    feature_table.main(["--root", str(root)])
    page = (root / "docs/parity/apple.md").read_text()
    assert page.startswith("# apple: features of the original\n")
    assert "\nWhat the original says.\n" in page
    assert "Of 2 features: 1 available, 1 not yet available." in page
    assert f"\n{ROW}\n" in page
    assert "| Plums | not yet available | `uv run --package apple train --kind plum` | – |" in page
    feature_table.main(["--check", "--root", str(root)])
    assert "agrees" in capsys.readouterr().out
    (root / "projects/apple/tests/features.yaml").write_text(LIST.replace("Plums", "Cherries"))
    with pytest.raises(SystemExit) as end:
        feature_table.main(["--check", "--root", str(root)])
    assert end.value.code == 2
    assert "docs/parity/apple.md: differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title: Pruning apples\n", "", "expected title, intro and groups"),
        ("status: available", "status: perhaps", "expected one of available, in part, not yet available"),
        ("        status: available\n", "", "'status'] must be given"),
        ("note:", "remark:", "unknown key ['remark']"),
        ("        shown_by: [test_apple.py]\n", "", "expected tests for what is there"),
        ("test_apple.py", "test_pear.py", "names ['test_pear.py']"),
        ("Plums", "Apples | pears", "is there twice"),
    ],
)
def test_a_wrong_list_is_one_line(root: Path, old: str, new: str, says: str) -> None:
    import feature_table

    assert old in LIST
    (root / "projects/apple/tests/features.yaml").write_text(LIST.replace(old, new))
    found = feature_table.stale_pages(root)
    assert len(found) == 1
    assert says in found[0]


def test_a_project_without_a_list_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import feature_table

    with pytest.raises(SystemExit):
        feature_table.main(["pear", "--root", str(root)])
    assert "projects/pear/tests/features.yaml: no such file" in capsys.readouterr().err
