import time

import pytest

from prunelab.clock import Border, Clock, Counter, Every, crossed, due
from prunelab.errors import UserError


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        ("500 steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("200 updates", 200, "updates"),
        ("1 epoch", 1, "epochs"),
        (" 2 Epochs ", 2, "epochs"),
        ("10 min", 10, "minutes"),
        ("0.5 minutes", 0.5, "minutes"),
        ("never", 0, "steps"),
    ],
)
def test_a_cadence_names_its_unit(text, count, unit):
    assert Every.parse(text) == Every(count=count, unit=unit)
    assert Every.parse(str(Every.parse(text))) == Every.parse(text)


@pytest.mark.parametrize(
    "text", ["500", "steps", "0 steps", "-1 steps", "5 days", "1.5 steps", "", "5 steps x"]
)
def test_a_cadence_of_another_form_is_refused(text):
    with pytest.raises(UserError, match=r"cadence is .*expected"):
        Every.parse(text)


def test_an_unknown_unit_is_refused():
    with pytest.raises(UserError, match="unit is 'days'; expected epochs, minutes, steps, updates"):
        Every(count=1, unit="days")


def test_due_falls_on_multiples_and_if_wanted_on_the_first_and_last():
    every = Every.parse("3 steps")
    assert [n for n in range(10) if due(n, every)] == [3, 6, 9]
    assert [n for n in range(1, 5) if due(n, every, first=True)] == [1, 3]
    assert due(7, every, last=True)
    assert not due(7, Every.parse("never"), last=True)


def test_crossed_sees_multiples_that_a_jump_passes_over():
    every = Every.parse("4 updates")
    assert crossed(3, 5, every)
    assert crossed(3, 4, every)
    assert not crossed(4, 7, every)


@pytest.fixture
def now(monkeypatch):
    moment = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def test_a_clock_stands_still_while_paused_and_goes_on_from_its_state(now):
    clock = Clock()
    now[0] += 5
    assert clock.seconds == 0
    clock.start()
    now[0] += 5
    with clock.paused(), clock.paused():
        now[0] += 100
    now[0] += 1
    assert clock.seconds == 6
    other = Clock()
    other.start()
    other.load_state_dict(clock.state_dict())
    now[0] += 2
    assert other.seconds == 8
    with Clock().paused():
        now[0] += 1


def test_minutes_are_due_once_each_time_they_have_passed(now):
    clock = Clock()
    border = Border(clock)
    clock.start()
    every = Every.parse("1 min")
    found = []
    for step in range(1, 8):
        now[0] += 25
        found.append(border.minutes_due(every) and border.minutes_due(every))
        assert not border.cross(step)
    # 25 s a step: a minute has passed at the border after step 3 (75 s), 5 (125 s)
    assert found == [False, False, False, True, False, True, False]


def test_a_counter_knows_totals_and_the_last_step():
    counter = Counter(max_steps=None)
    counter.epochs, counter.steps_per_epoch = 2, 3
    lasts = []
    for _ in range(2):
        for _ in range(3):
            counter.begin_step()
            lasts.append(counter.is_last)
            assert counter.total == 6
        counter.begin_epoch()
    assert lasts == [False] * 5 + [True]
    limited = Counter(max_steps=4)
    assert limited.total == 4
    limited.epochs, limited.steps_per_epoch = 2, 3
    assert limited.total == 4


def test_a_counter_saved_after_an_epoch_goes_on_at_the_next():
    counter = Counter(max_steps=None)
    counter.begin_step()
    assert counter.state_dict() == {"step": 1, "updates": 0, "epoch": 0, "position": 1}
    counter.through = True
    assert counter.state_dict() == {"step": 1, "updates": 0, "epoch": 1, "position": 0}


def test_updates_are_due_in_the_step_that_made_them():
    counter = Counter(max_steps=None)
    found = []
    for step in range(1, 13):
        counter.begin_step()
        counter.updates += step % 2 == 0
        found.append(counter.due(Every.parse("3 updates"), last=False))
    assert [step for step, is_due in enumerate(found, 1) if is_due] == [6, 12]
