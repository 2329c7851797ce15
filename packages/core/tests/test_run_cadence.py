import json
import math
import os
import signal
import time

import pytest
import torch
from torch import nn

from prunelab import checkpoint
from prunelab.errors import UserError
from prunelab.run import Run, RunConfig, evaluating


def config(folder, **options):
    return RunConfig(**{"dir": folder, "device": "cpu", "tensorboard": False, "quiet": True, **options})


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_cadences_name_their_unit(tmp_path, monkeypatch):
    moment = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    found = {every: [] for every in ("3 steps", "2 updates", "1 epoch", "2 epochs", "1 min", "never")}
    with Run(config(tmp_path)) as run:
        after = []
        for _ in run.epochs(3):
            for step, _ in run.steps(range(4)):
                moment[0] += 25
                if step % 2 == 0:
                    run.updated()
                for every, steps in found.items():
                    if run.due(every, last=False):
                        steps.append(step)
            after.append((run.due("1 epoch"), run.due("2 epochs", last=False), run.due("2 epochs")))
        assert run.updates == 6
    assert found == {
        "3 steps": [3, 6, 9, 12],
        "2 updates": [4, 8, 12],
        "1 epoch": [4, 8, 12],
        "2 epochs": [8],
        "1 min": [4, 6, 9, 11],
        "never": [],
    }
    assert after == [(True, False, False), (True, True, True), (True, False, True)]


@pytest.mark.parametrize("every", ["100 steps", "100 updates", "100 epochs", "100 min"])
def test_the_last_step_is_due_unless_told_otherwise(tmp_path, every):
    with Run(config(tmp_path)) as run:
        for _ in run.epochs(2):
            found = [step for step, _ in run.steps(range(4)) if run.due(every)]
    assert found == [8]


def test_steps_come_once_in_an_epoch_and_a_loader_gives_something(tmp_path):
    with Run(config(tmp_path)) as run:
        for _ in run.epochs(1):
            list(run.steps(range(2)))
            with pytest.raises(UserError, match=r"steps\(\) came twice in one epoch; expected one"):
                list(run.steps(range(2)))
        assert run.epoch == 1
    with (
        Run(config(tmp_path / "empty")) as run,
        pytest.raises(UserError, match=r"gives no batch; expected one"),
    ):
        list(run.steps([]))


def test_an_epoch_left_early_is_through(tmp_path):
    with Run(config(tmp_path, log_every="1 steps")) as run:
        made = []
        for _ in run.epochs(2):
            for step, _ in run.steps(range(9)):
                made.append(step)
                run.log(x=step)
                if step % 2 == 0:
                    break
    assert made == [1, 2, 3, 4]
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4]


def test_evaluating_gives_back_modes_random_states_and_time(tmp_path, monkeypatch):
    moment = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    modes = [part.training for part in model.modules()]
    assert modes == [True, True, False, False]

    def figures():
        yield "val/score", torch.rand(())
        yield "count", 3

    with Run(config(tmp_path)) as run:
        for step, _ in run.steps(range(3)):
            moment[0] += 1
            expected = torch.get_rng_state()
            with run.evaluating(model):
                torch.rand(3)
                moment[0] += 100
            assert run.report(figures())["count"] == 3
            assert torch.equal(torch.get_rng_state(), expected)
            run.log(seconds_so_far=step)
    assert [part.training for part in model.modules()] == modes
    assert records(tmp_path)[-1]["seconds"] == 3


def test_reports_are_lines_and_logs_outside_of_steps_too(tmp_path, capsys):
    with Run(config(tmp_path, quiet=False), name="toy") as run:
        assert run.report([]) == {}
        assert run.report(iter([("CIDEr", torch.tensor(0.51234))])) == {"CIDEr": pytest.approx(0.51234)}
        run.log(sparsity=0.95)
        run.append("scores.csv", "step,CIDEr")
    assert capsys.readouterr().out.splitlines() == ["step 0: CIDEr 0.5123", "step 0  sparsity 0.95"]
    assert [list(record)[-1] for record in records(tmp_path)] == ["CIDEr", "sparsity"]


def test_the_best_value_is_kept_and_nan_and_what_is_not_allowed_never_are(tmp_path):
    with Run(config(tmp_path)) as run:
        run.track(model=nn.Linear(2, 2))
        judged = [run.is_best("CIDEr", v) for v in (math.nan, 0.5, 0.5, 0.4, torch.tensor(0.6))]
        assert judged == [False, True, False, False, True]
        assert not run.is_best("CIDEr", 0.9, allowed=False)
        assert [run.is_best("loss", v, lower=True) for v in (2.0, 3.0, 1.0)] == [True, False, True]
        run.save()
    with Run(config(tmp_path, resume=True)) as run:
        assert run.best["CIDEr"]["value"] == pytest.approx(0.6)
        assert not run.is_best("loss", 1.5, lower=True)


def test_model_folders_are_replaced_whole_and_the_best_checkpoint_stays(tmp_path):
    with Run(config(tmp_path, keep_last=1)) as run:
        run.track(model=nn.Linear(2, 2))
        for step, _ in run.steps(range(5)):
            run.save(step == 2, lambda folder, n=step: (folder / "step.txt").write_text(str(n)))
    assert (tmp_path / "last" / "step.txt").read_text() == "5"
    assert (tmp_path / "best" / "step.txt").read_text() == "2"
    kept = [path.name for path in checkpoint.listed(tmp_path / "checkpoints")]
    assert kept == ["step-000002", "step-000005"]


def test_one_off_work_is_done_once_and_its_result_is_the_same_on_resume(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"mask": torch.rand(3), "kept": (1, 2)}

    with Run(config(tmp_path)) as run:
        before = torch.get_rng_state()
        first = run.once("layer 1/weight", work)
        assert torch.equal(torch.get_rng_state(), before)
    with Run(config(tmp_path, resume=True)) as run:
        again = run.once("layer 1/weight", work)
        other = run.once("layer 2/weight", work)
        with pytest.raises(UserError, match=r"state value is a object; expected"):
            run.once("bad", object)
    assert len(calls) == 2
    assert again["kept"] == first["kept"] == (1, 2)
    assert torch.equal(again["mask"], first["mask"])
    assert not torch.equal(again["mask"], other["mask"])


def test_a_pipeline_told_to_stop_leaves_before_the_next_work(tmp_path, capsys):
    done = []

    def work(layer):
        done.append(layer)
        if layer == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return layer

    def go(resume):
        with Run(config(tmp_path, resume=resume, quiet=False)) as run:
            for layer in range(4):
                run.once(f"layer {layer}", lambda layer=layer: work(layer))
        return run.stopping

    assert go(False)
    assert done == [0, 1]
    assert "stopped by SIGTERM before 'layer 2'" in capsys.readouterr().out
    assert not (tmp_path / "finished.json").exists()
    assert not go(True)
    assert done == [0, 1, 2, 3]
    assert (tmp_path / "finished.json").exists()
