import json
import math
import struct
from pathlib import Path

import pytest
import torch
import yaml

from prunelab.clock import Clock, Counter, Every, due
from prunelab.log import Figures, RunLog, describe, differences, plain
from prunelab.progress import Progress


def opened(folder, **options):
    return RunLog(folder, Progress("toy", quiet=True), **{"writes": True, "tensorboard": False, **options})


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_figures_become_json_lines_and_infinite_ones_strings(tmp_path):
    log = opened(tmp_path)
    log.scalars(3, {"loss": 0.5, "bad": math.nan, "worse": -math.inf}, epoch=1)
    log.close()
    assert records(tmp_path) == [{"step": 3, "epoch": 1, "loss": 0.5, "bad": "nan", "worse": "-inf"}]


def test_files_are_cut_back_to_their_length_in_the_checkpoint(tmp_path):
    log = opened(tmp_path)
    log.scalars(1, {"loss": 1.0})
    log.append("scores.csv", "step,score")
    marks = log.marks()
    log.scalars(2, {"loss": 2.0})
    log.append("scores.csv", "2,0.5")
    log.append("late.csv", "made after the checkpoint")
    log.close()
    again = opened(tmp_path, marks=marks, step=1)
    assert again.marks() == marks
    again.scalars(2, {"loss": 3.0})
    again.append("scores.csv", "2,0.6")
    again.append("late.csv", "again")
    again.close()
    assert [record["loss"] for record in records(tmp_path)] == [1.0, 3.0]
    assert (tmp_path / "scores.csv").read_text() == "step,score\n2,0.6\n"
    assert (tmp_path / "late.csv").read_text() == "again\n"


def test_a_file_that_was_not_written_again_keeps_its_mark(tmp_path):
    log = opened(tmp_path, marks={"scores.csv": 12})
    log.scalars(1, {"loss": 1.0})
    assert log.marks()["scores.csv"] == 12
    log.close()


def test_other_ranks_write_nothing(tmp_path):
    log = opened(tmp_path, writes=False, tensorboard=True)
    log.scalars(1, {"loss": 1.0})
    log.append("x", "y")
    log.text("z")
    log.progress(1, {"loss": 1.0}, epoch=0, seconds=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def events(folder: Path) -> list:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length  # length, its checksum, the record, its checksum
    return found


def test_tensorboard_is_told_to_drop_what_came_after_the_checkpoint(tmp_path):
    log = opened(tmp_path, tensorboard=True)
    log.scalars(1, {"loss": 1.0})
    log.scalars(2, {"loss": 2.0})
    log.close()
    again = opened(tmp_path, tensorboard=True, marks={}, step=1)
    again.scalars(2, {"loss": 3.0})
    again.close()
    kinds = [(e.session_log.status, e.step) for e in events(tmp_path) if e.HasField("session_log")]
    assert kinds == [(1, 2)]  # a start at step 2
    values = [e.summary.value[0].simple_value for e in events(tmp_path) if e.HasField("summary")]
    assert values == [1.0, 2.0, 3.0]


def test_tensorboard_may_draw_figures_elsewhere_than_at_the_step(tmp_path):
    log = opened(tmp_path, tensorboard=True)
    log.scalars(8, {"loss": 1.0}, at=2)
    log.close()
    assert [e.step for e in events(tmp_path) if e.HasField("summary")] == [2]
    assert records(tmp_path) == [{"step": 8, "loss": 1.0}]


class Counted(torch.Tensor):
    reads = 0

    def item(self):
        Counted.reads += 1
        return super().item()


def test_tensors_are_read_only_where_a_line_is_due(tmp_path):
    Counted.reads = 0
    counter, log = Counter(max_steps=None), opened(tmp_path)
    figures = Figures(log, "4 steps", "never", counter, Clock(), lambda every: due(counter.step, every))
    for value in range(1, 9):
        counter.begin_step()
        figures.add({"loss": torch.tensor(float(value)).as_subclass(Counted)})
        figures.flush()
    log.close()
    assert Counted.reads == 2
    assert [(record["step"], record["loss"]) for record in records(tmp_path)] == [(4, 4.0), (8, 8.0)]


def test_a_cadence_in_updates_is_decided_at_the_end_of_the_step(tmp_path):
    counter, log = Counter(max_steps=None), opened(tmp_path)
    figures = Figures(
        log, "1 updates", "never", counter, Clock(), lambda every: counter.due(every, last=False)
    )
    for step in range(1, 5):
        counter.begin_step()
        figures.add({"loss": step})
        counter.updates += step % 2 == 0
        figures.flush()
    log.close()
    assert [record["step"] for record in records(tmp_path)] == [2, 4]
    assert Every.parse("1 updates").unit == "updates"


def test_a_folder_says_how_its_run_was_started(tmp_path):
    config = {"dir": Path("a/b"), "sizes": (1, 2), "optim": {"lr": 0.1, "name": None}}
    assert describe(tmp_path, config, compare=False) == []
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == plain(config)
    assert plain(config) == {"dir": "a/b", "sizes": [1, 2], "optim": {"lr": 0.1, "name": None}}
    assert json.loads((tmp_path / "versions.json").read_text())["torch"] == torch.__version__
    config["optim"] = {"lr": 0.2}
    lines = describe(tmp_path, config, compare=True)
    assert lines == ["optim.lr was 0.1, now 0.2"]
    assert len((tmp_path / "command.txt").read_text().splitlines()) == 2
    (tmp_path / "config.yaml").write_text("a: [")
    assert describe(tmp_path, config, compare=True) == []


def test_differences_name_entries_that_came_and_went():
    assert differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 2, "d": 3}}) == [
        "a was 1, now None",
        "b.d was None, now 3",
    ]


@pytest.mark.parametrize("value", [torch.tensor(2.5), 2.5])
def test_figures_given_outside_of_a_step_are_written_at_once(tmp_path, value):
    log = opened(tmp_path)
    Figures(log, "never", "never", Counter(max_steps=None), Clock(), lambda every: False).write(
        {"score": value}, to_console=True
    )
    log.close()
    assert records(tmp_path)[0]["score"] == 2.5
    assert "score 2.5" in (tmp_path / "log.txt").read_text()
