import json
import math
import os
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunelab import checkpoint
from prunelab.data.sampling import EpochSampler
from prunelab.errors import UserError
from prunelab.optim import NonFiniteError, guarded_step
from prunelab.run import Run, RunConfig


def config(folder, **options):
    return RunConfig(**{"dir": folder, "device": "cpu", "tensorboard": False, "quiet": True, **options})


class Halt(Exception):
    """Ends a run from inside, as a crash would."""


class Toy:
    """A model, an optimizer and batches that every test can train on."""

    def __init__(self, width: int = 3) -> None:
        self.model = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.5))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.objects = {"model": self.model, "optimizer": self.optimizer}
        self.batches = [torch.full((2, width), float(i)) for i in range(5)]

    def step(self, batch) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.model(batch).square().mean()
        loss.backward()
        guarded_step(self.optimizer, self.model.parameters())
        return loss

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def train(cfg, *, epochs=2, every="2 steps", halt=None, loader=None, **extra):
    """A whole run of the toy; the steps made in this start, and the final weights."""
    made = []
    with Run(cfg, **extra) as run:
        toy = Toy()
        run.track(**toy.objects)
        for _ in run.epochs(epochs):
            for step, batch in run.steps(loader or toy.batches):
                loss = toy.step(batch[0] if loader else batch)
                made.append(step)
                run.log(loss=loss)
                if step == halt:
                    raise Halt
                if run.due(every):
                    run.save()
    return made, toy.weights(), run


def names(folder):
    return [path.name for path in checkpoint.listed(folder / "checkpoints")]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_run_folder_explains_itself(tmp_path):
    cfg = config(tmp_path / "run", tensorboard=True, quiet=False, log_every="5 steps")
    train(cfg, config={"lr": 0.1, "dir": tmp_path}, name="toy")
    found = {path.name.split(".out")[0] for path in (tmp_path / "run").iterdir()}
    files = {"config.yaml", "command.txt", "versions.json", "log.txt", "metrics.jsonl", "events"}
    assert found == files | {"checkpoints", "finished.json"}
    assert [(record["step"], record["epoch"]) for record in records(tmp_path / "run")] == [(5, 0), (10, 1)]
    assert "finished after 10 steps" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("sign", ["checkpoints", "metrics.jsonl", "finished.json", "once"])
def test_a_folder_that_holds_a_run_is_refused_and_not_touched(tmp_path, sign):
    train(config(tmp_path, log_every="1 steps"))
    if sign == "once":
        (tmp_path / "once" / "mask").mkdir(parents=True)
    for path in list(tmp_path.iterdir()):
        if path.name != sign:
            path.rename(tmp_path.with_name(f"{tmp_path.name}-{path.name}"))
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=rf"already holds a run \({sign}\); expected --resume or another"):
        train(config(tmp_path))
    assert snapshot(tmp_path) == before


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        train(config(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written: Not a directory"):
        train(config(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_last": 0}, "keep_last is 0; expected"),
        ({"max_steps": 0}, "max_steps is 0; expected"),
        ({"log_every": "5"}, "cadence is '5'; expected"),
        ({"console_every": "x"}, "cadence is 'x'; expected"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        config(tmp_path, **options)


def test_resuming_where_there_is_nothing_begins_from_the_start(tmp_path, capsys):
    made, *_ = train(config(tmp_path, resume=True, quiet=False))
    assert made == list(range(1, 11))
    assert "no checkpoint to resume from; beginning from the start" in capsys.readouterr().out


@pytest.mark.parametrize("halt", [3, 5, 6, 9])
@pytest.mark.parametrize(
    "kind", ["list", "shuffled by the global state", "with a sampler", "without a length"]
)
def test_a_run_that_crashed_ends_with_the_same_bits(tmp_path, halt, kind):
    data = TensorDataset(torch.arange(30.0).view(10, 3))

    def options():
        torch.manual_seed(0)
        if kind == "list":
            return {}
        if kind == "shuffled by the global state":
            return {"loader": DataLoader(data, batch_size=2, shuffle=True)}
        if kind == "without a length":
            return {"loader": Endless(data.tensors[0], 5)}
        return {"loader": DataLoader(data, batch_size=2)}

    _, expected, _ = train(config(tmp_path / "whole"), **options())
    with pytest.raises(Halt):
        train(config(tmp_path / "halted"), halt=halt, **options())
    made, weights, run = train(config(tmp_path / "halted", resume=True), **options())
    assert made[0] == (halt - 1) // 2 * 2 + 1
    assert run.resumed
    assert torch.equal(weights, expected)


class Endless:
    """Batches in an order drawn from the global state, without a length."""

    def __init__(self, data, count):
        self.data, self.count = data, count

    def __iter__(self):
        for index in torch.randperm(self.count).tolist():
            yield (self.data[index : index + 2],)


def test_a_tracked_sampler_is_advanced_and_begins_where_it_was(tmp_path):
    seen = []

    def go(cfg, halt=None):
        with Run(cfg) as run:
            sampler = EpochSampler(8, 2, seed=0, shuffle=True, drop_last=True)
            run.track(sampler=sampler)
            for epoch in run.epochs(2):
                for step, keys in run.steps(sampler):
                    assert (sampler.epoch, sampler.position) == (epoch, (step - 1) % 4 + 1)
                    assert run.steps_per_epoch == 4
                    seen.append([key[1] for key in keys])
                    if step == halt:
                        raise Halt
                    run.save()

    go(config(tmp_path / "whole"))
    whole, seen[:] = list(seen), []
    with pytest.raises(Halt):
        go(config(tmp_path / "halted"), halt=3)
    del seen[2:]
    go(config(tmp_path / "halted", resume=True))
    assert seen == whole


def test_logs_are_cut_back_and_no_step_comes_twice(tmp_path):
    train(config(tmp_path / "whole", log_every="1 steps"))
    with pytest.raises(Halt):
        train(config(tmp_path / "halted", log_every="1 steps"), halt=4, every="3 steps")
    assert [record["step"] for record in records(tmp_path / "halted")] == [1, 2, 3]
    train(config(tmp_path / "halted", log_every="1 steps", resume=True), every="3 steps")
    steps = [(record["step"], record["loss"]) for record in records(tmp_path / "halted")]
    assert steps == [(record["step"], record["loss"]) for record in records(tmp_path / "whole")]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, capsys):
    _, expected, _ = train(config(tmp_path / "whole"))
    with pytest.raises(Halt):
        train(config(tmp_path / "halted"), halt=7)
    assert names(tmp_path / "halted") == ["step-000004", "step-000006"]
    tensors = tmp_path / "halted" / "checkpoints" / "step-000006" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    made, weights, _ = train(config(tmp_path / "halted", resume=True, quiet=False))
    assert made[0] == 5
    assert torch.equal(weights, expected)
    said = capsys.readouterr().out.splitlines()
    assert "step-000006 is damaged (tensors.safetensors has" in said[0]
    assert (tmp_path / "halted" / "checkpoints" / "damaged-step-000006").is_dir()


def test_a_full_disk_ends_the_run_by_one_line_and_it_can_go_on(tmp_path, monkeypatch):
    _, expected, _ = train(config(tmp_path / "whole"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    plain_step = Toy.step

    def filling(toy, batch):
        if batch[0, 0] == 3:  # the fourth step
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        return plain_step(toy, batch)

    monkeypatch.setattr(Toy, "step", filling)
    try:
        with pytest.raises(
            UserError, match=r"step-000004.*cannot be written.*earlier checkpoints are unchanged"
        ):
            train(config(tmp_path / "full", log_every="never", console_every="never"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert names(tmp_path / "full") == ["step-000002"]
    made, weights, _ = train(config(tmp_path / "full", resume=True))
    assert made[0] == 3
    assert torch.equal(weights, expected)


def test_a_run_may_start_from_the_checkpoint_of_another(tmp_path, capsys):
    with pytest.raises(Halt):
        train(config(tmp_path / "first"), halt=5)
    _, expected, _ = train(config(tmp_path / "whole"))
    before = snapshot(tmp_path / "first")
    cfg = config(tmp_path / "second", start_from=tmp_path / "first", quiet=False, log_every="1 steps")
    made, weights, run = train(cfg)
    assert made == list(range(5, 11))
    assert torch.equal(weights, expected)
    assert "starting from" in capsys.readouterr().out
    assert [record["step"] for record in records(tmp_path / "second")] == made
    assert snapshot(tmp_path / "first") == before
    assert run.step == 10


@pytest.mark.parametrize("halt", [None, 9])
def test_a_run_may_count_on_from_the_checkpoint_of_another_program(tmp_path, halt):
    def count_on(resume, halt=None):
        made = []
        with Run(config(tmp_path, resume=resume)) as run:
            toy = Toy()
            sampler = EpochSampler(5, 1, seed=0, shuffle=True, drop_last=True)
            run.track(**toy.objects, sampler=sampler)
            if not run.resumed:
                run.begin_at(step=8, updates=4, epoch=1, position=3)
                sampler.set_epoch(1)
                sampler.position = 3
            for epoch in run.epochs(3):
                for step, [key] in run.steps(sampler):
                    toy.step(toy.batches[key.sample])
                    run.updated()
                    made.append((epoch, step, sampler.position, run.updates))
                    run.save()
                    if step == halt:
                        raise Halt
        return made

    if halt is not None:
        with pytest.raises(Halt):
            count_on(resume=False, halt=halt)
    assert count_on(resume=halt is not None) == [
        *([] if halt else [(1, 9, 4, 5)]),
        (1, 10, 5, 6),
        *((2, 10 + place, place, 6 + place) for place in range(1, 6)),
    ]


def test_more_epochs_than_before_go_on_and_the_same_number_does_not(tmp_path):
    _, expected, _ = train(config(tmp_path / "whole"), epochs=3)
    train(config(tmp_path / "grown"))
    made, _, run = train(config(tmp_path / "grown", resume=True))
    assert made == []
    assert run.finished
    made, weights, _ = train(config(tmp_path / "grown", resume=True), epochs=3)
    assert made == list(range(11, 16))
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("limit", [3, 5, 7])
def test_a_run_cut_short_by_max_steps_is_not_finished_and_goes_on(tmp_path, limit):
    _, expected, _ = train(config(tmp_path / "whole"))
    made, *_ = train(config(tmp_path / "cut", max_steps=limit))
    assert made == list(range(1, limit + 1))
    assert not (tmp_path / "cut" / "finished.json").exists()
    assert train(config(tmp_path / "cut", max_steps=limit, resume=True))[0] == []
    made, weights, _ = train(config(tmp_path / "cut", resume=True))
    assert made == list(range(limit + 1, 11))
    assert torch.equal(weights, expected)
    assert (tmp_path / "cut" / "finished.json").exists()


def test_a_loop_bounded_by_max_steps_alone_counts_steps_and_no_epochs(tmp_path):
    def endless():
        while True:
            yield torch.ones(1)

    with Run(config(tmp_path, max_steps=3, log_every="1 steps")) as run:
        assert [run.log(loss=1.0) or step for step, _ in run.steps(endless())] == [1, 2, 3]
    assert json.loads((tmp_path / "finished.json").read_text())["step"] == 3
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    assert all("epoch" not in record for record in records(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_run_at_the_next_border_with_a_checkpoint(tmp_path, number, capsys):
    _, expected, _ = train(config(tmp_path / "whole"), every="never")
    earlier = signal.getsignal(number)
    with Run(config(tmp_path / "told", quiet=False)) as run:
        toy = Toy()
        run.track(**toy.objects)
        for _ in run.epochs(2):
            for step, batch in run.steps(toy.batches):
                if step == 7:
                    os.kill(os.getpid(), number)
                toy.step(batch)
            run.save()
    assert run.stopping
    assert run.step == 7
    assert signal.getsignal(number) == earlier
    assert f"stopped by {signal.Signals(number).name} after step 7" in capsys.readouterr().out
    made, weights, _ = train(config(tmp_path / "told", resume=True), every="never")
    assert made == [8, 9, 10]
    assert torch.equal(weights, expected)


def test_stages_follow_each_other_and_a_finished_one_is_not_repeated(tmp_path):
    def go(resume, halt=None):
        made = []
        for stage in ("train", "tune"):
            with Run(config(tmp_path / stage, resume=resume)) as run:
                toy = Toy()
                run.track(**toy.objects)
                for _ in run.epochs(1):
                    for step, batch in run.steps(toy.batches):
                        toy.step(batch)
                        made.append((stage, step))
                        if (stage, step) == halt:
                            raise Halt
            if run.stopping:
                break
        return made, toy.weights()

    with pytest.raises(Halt):
        go(False, halt=("tune", 2))
    made, weights = go(True)
    assert made == [("tune", step) for step in range(1, 6)]
    assert go(True)[0] == []
    assert torch.equal(go(True)[1], weights)


def test_a_value_that_is_not_finite_ends_the_run_and_keeps_the_batch(tmp_path):
    toy = Toy()

    def go():
        with Run(config(tmp_path)) as run:
            run.track(**toy.objects)
            for step, batch in run.steps([{"x": batch, "name": object} for batch in toy.batches]):
                toy.step(batch["x"] * (math.nan if step == 3 else 1.0))
                run.save()

    with pytest.raises(
        NonFiniteError, match=r"gradient is nan.*the batch is kept in .*kept/step-000003-rank0"
    ):
        go()
    kept = checkpoint.Checkpoint(tmp_path / "kept" / "step-000003-rank0").part()
    assert torch.equal(kept["x"], toy.batches[2])
    assert "object" in kept["name"]
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert toy.weights().isfinite().all()


def test_only_a_few_batches_are_kept(tmp_path):
    with Run(config(tmp_path)) as run:
        for _ in run.steps(range(9)):
            run.keep_batch(torch.ones(1))
    assert len(list((tmp_path / "kept").iterdir())) == 5


def tracking(cfg, **objects):
    with Run(cfg) as run:
        run.track(**objects)
        next(run.epochs(3))


def test_a_model_of_another_shape_is_named_by_its_first_differences(tmp_path):
    train(config(tmp_path))
    cfg = config(tmp_path, resume=True)
    with pytest.raises(UserError, match=r"another model: shapes: 0.weight is \(3, 3\), expected \(4, 4\)"):
        tracking(cfg, model=Toy(4).model)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(UserError, match=r"missing: 1.weight, 1.bias, 2.weight and 4 more"):
        tracking(cfg, model=other)
    with pytest.raises(UserError, match=r"not in this model: 0.bias"):
        tracking(cfg, model=nn.Sequential(nn.Linear(3, 3, bias=False)))
    with pytest.raises(UserError, match=r"checkpoint's optimizer does not fit this run's SGD"):
        tracking(cfg, optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0))


def test_the_checkpoint_and_the_tracked_objects_must_match(tmp_path):
    train(config(tmp_path))
    cfg = config(tmp_path, resume=True)
    with pytest.raises(UserError, match=r"holds no 'pruner'; it holds model, optimizer"):
        tracking(cfg, pruner=Toy().model)
    with pytest.raises(UserError, match=r"also holds optimizer; expected track"):
        tracking(cfg, model=Toy().model)
    with pytest.raises(
        UserError, match=r"track\(x=...\): a int was given; expected an object with state_dict"
    ):
        tracking(config(tmp_path / "new"), x=3)
    with Run(config(tmp_path / "twice")) as run:
        run.track(model=Toy().model)
        with pytest.raises(UserError, match=r"already tracked; expected retrack"):
            run.track(model=Toy().model)


def test_generators_are_tracked_and_objects_come_and_go(tmp_path):
    def go(cfg, halt=None):
        with Run(cfg) as run:
            generators = torch.Generator().manual_seed(1), np.random.default_rng(2)
            run.track(torch_draws=generators[0], numpy_draws=generators[1])
            draws = []
            for _ in run.epochs(1):
                for step, _ in run.steps(range(6)):
                    draws.append((float(torch.rand((), generator=generators[0])), generators[1].random()))
                    if step == halt:
                        raise Halt
                    run.save()
        return draws

    whole = go(config(tmp_path / "whole"))
    with pytest.raises(Halt):
        go(config(tmp_path / "halted"), halt=4)
    assert go(config(tmp_path / "halted", resume=True)) == whole[3:]
    with Run(config(tmp_path / "changed")) as run:
        run.track(model=Toy().model, optimizer=Toy().optimizer)
        run.retrack(optimizer=None, schedule=Toy().optimizer, structure={"kept": [1, 2]})
        run.save()
    saved = checkpoint.Checkpoint(tmp_path / "changed" / "checkpoints" / "step-000000")
    assert sorted(saved.keys("objects")) == ["model", "schedule"]
    with Run(config(tmp_path / "changed", resume=True)) as run:
        assert run.structure == {"kept": [1, 2]}
