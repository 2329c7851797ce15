"""Commands that must fail, and what they must not touch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prunelab import checkpoint
from testing.mistakes import Fails, cut, fill_disk, snapshot


def command(words: list[str]) -> None:
    """A command that says its second word and ends with the code that is its first."""
    print(words[1], file=sys.stderr)
    if words[0]:
        sys.exit(int(words[0]))


def test_the_one_line_of_a_command_that_fails_is_given(fails: Fails) -> None:
    print("earlier words", file=sys.stderr)
    assert fails(command, ["2", "error: a.png is missing"], r"a\.png") == "error: a.png is missing\n"


@pytest.mark.parametrize(
    ("code", "line"),
    [("1", "error: a"), ("", "error: a"), ("2", "warning: a"), ("2", "error: a\nb"), ("2", "error: b")],
)
def test_another_code_or_more_lines_or_other_words_are_no_such_failure(
    fails: Fails, code: str, line: str
) -> None:
    with pytest.raises(AssertionError):
        fails(command, [code, line], "a")


def test_a_snapshot_shows_what_was_touched(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_bytes(b"x" * 30)
    before = snapshot(tmp_path / "a", tmp_path / "b")
    assert len(before) == 2
    assert snapshot(tmp_path / "a", tmp_path / "b") == before
    cut(tmp_path / "b/deep/file")
    assert (tmp_path / "b/deep/file").read_bytes() == b"x" * 10
    assert snapshot(tmp_path / "a", tmp_path / "b") != before


def test_the_disk_is_full_at_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, at=2)
    save = vars(checkpoint)["save_tensors"]
    save({}, tmp_path / "first")
    with pytest.raises(OSError, match="No space left"):
        save({}, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == b"half"
    save({}, tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == (tmp_path / "first").read_bytes()
