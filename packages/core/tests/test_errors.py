from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from prunelab.errors import EXIT_USER_ERROR, UserError, entry


@entry
def command(argv: Sequence[str] | None = None) -> None:
    """What the command does."""
    assert argv is not None
    if "bad" in argv:
        raise UserError("file.json: broken\n  at line 3")
    print("ran with", *argv)


def test_a_user_error_is_one_line_whatever_its_text_was() -> None:
    assert str(UserError("a\n  b\tc")) == "a b c"


def test_a_user_error_becomes_one_line_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command(["bad"])
    assert stop.value.code == EXIT_USER_ERROR == 2
    captured = capsys.readouterr()
    assert captured.err == "error: file.json: broken at line 3\n"
    assert captured.out == ""


def test_traceback_lets_the_error_through_and_is_taken_off_the_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError):
        command(["--traceback", "bad"])
    command(["x", "--traceback"])
    assert capsys.readouterr().out == "ran with x\n"


def test_the_arguments_of_the_process_are_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "a", "b"])
    command()
    assert capsys.readouterr().out == "ran with a b\n"
    assert command.__doc__ == "What the command does."


def test_ctrl_c_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @entry
    def interrupted(argv: Sequence[str] | None = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        interrupted([])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_closes_our_output_is_no_error() -> None:
    program = (
        "from prunelab.errors import entry\n"
        "@entry\n"
        "def main(argv=None):\n"
        "    while True: print('x' * 1000)\n"
        "main([])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
