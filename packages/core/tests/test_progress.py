import io

import pytest
import rich.console

from prunelab import progress
from prunelab.progress import Progress, duration, number


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "0:07"), (725, "12:05"), (11045, "3:04:05"), (-1, "0:00")]
)
def test_a_duration_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_number_for_people():
    assert [number(v) for v in (3, 0.000123449, 1234567.0)] == ["3", "0.0001234", "1.235e+06"]


def test_plain_lines_tell_the_place_the_speed_and_the_time_left(capsys):
    console = Progress("toy")
    console.begin(10, 110, 50.0)
    assert console.place(10, 50.0) == "step 10/110, -:-- left"
    console.step(20, 70.0)
    console.line(console.place(20, 70.0))
    console.close()
    assert capsys.readouterr().out == "step 20/110, 0.5 steps/s, 3:00 left\n"


def test_the_speed_may_be_told_in_what_comes_with_a_step():
    console = Progress("toy")
    console.speed_in("captions", 75)
    console.begin(10, 110, 50.0)
    assert console.place(20, 70.0) == "step 20/110, 37.5 captions/s, 3:00 left"


def test_an_unknown_total_tells_no_time_left():
    console = Progress("toy")
    console.begin(0, None, 0.0)
    assert console.place(5, 1.0) == "step 5, 5 steps/s"


def test_a_quiet_console_prints_nothing(capsys):
    console = Progress("toy", quiet=True)
    console.begin(0, 5, 0.0)
    console.line("hidden")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: terminal)
    monkeypatch.setattr("rich.progress.get_console", lambda: terminal)
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    console = Progress("toy")
    assert console.live
    console.begin(0, 4, 0.0)
    console.step(1, 2.0, "loss 0.5")
    console.step(2, 4.0)  # too soon after the one before: not drawn
    console.line("epoch [1] ends")
    console.step(4, 8.0, "loss 0.1")
    console.close()
    text = screen.getvalue()
    assert "toy" in text
    assert "epoch [1] ends" in text
    assert "4/4" in text
    assert "0:00 left  loss 0.1" in text
