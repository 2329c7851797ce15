"""``bench`` knows the rows of every module that has some."""

from __future__ import annotations

import pytest

from apt_vit import bench
from testing.benches import check_rows, check_unknown_row


def test_every_module_of_rows_is_joined_and_no_name_comes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    check_rows(bench, capsys)


def test_an_unknown_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    check_unknown_row(bench, capsys, "infer-won", "infer-one")
